"use strict";
/* Puts the page together. */

(async () => {
  const $ = (id) => document.getElementById(id), { el } = ClacMap;
  const DENSE = 100_000; // points above which their density is drawn instead
  const KEYS = [
    ["/", "go to the search"], ["Enter", "search; on the map: go to the hits"],
    ["← ↑ → ↓", "on the map: the nearest crystal in that direction; in the hits: next and previous"],
    ["Shift + arrows", "move the map"], ["+  −  0", "zoom in, out, show everything"],
    ["N  P", "next and previous hit"], ["L", "lasso; or hold Shift and drag"],
    ["D", "density of points"], ["S", "search by the open crystal"], ["T", "light or dark"],
    ["Esc", "close, then clear the lasso, the crystal, the query"], ["?", "this help"],
  ];

  let data, view, scatter, overlay, search, legend, results, panel, result = null;
  let colourBefore = null, scheduled = false, dark = matchMedia("(prefers-color-scheme: dark)");

  function fail(error) {
    $("message").hidden = false;
    $("message").textContent = error.message;
  }

  const theme = () => view?.state.theme || (dark.matches ? "dark" : "light");

  /* ---- drawing ---- */

  function isDense() {
    return view.state.density ?? data.n + data.m > DENSE;
  }

  function redraw() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      const camera = overlay.camera(), isDark = theme() === "dark";
      // Smaller points for more of them, larger ones when zoomed in.
      const area = camera.width * camera.height / Math.max(data.n + data.m, 1);
      const size = Math.min(Math.max(0.75 * Math.sqrt(area), 2.2), 10) * Math.min(view.state.zoom ** 0.4, 3);
      const density = isDense();
      scatter.draw(camera, { size: Math.min(size, 18), alpha: 0.9, textAlpha: isDark ? 0.75 : 0.7,
        edge: isDark ? [0.07, 0.08, 0.1] : [1, 1, 1], density });
      let shown = null;
      if (density) shown = { ...scatter.densityImage(camera, 3), cell: 3 };
      overlay.draw(shown);
      const crystals = count(0, data.n), texts = count(data.n, data.n + data.m);
      $("shown").textContent = `${number(crystals)} of ${number(data.n)} crystals` +
        (data.m ? ` · ${number(texts)} of ${number(data.m)} texts` : "") +
        (density ? ` · density, at most ${number(shown.most)} points per cell` : "");
      ClacMap.counts = { crystals, texts, points: crystals + texts, frames: (ClacMap.counts?.frames || 0) + 1 };
    });
  }

  const number = (value) => value.toLocaleString("en");
  const count = (from, to) => overlay.visible.subarray(from, to).reduce((a, b) => a + b, 0);

  function recolour() {
    const column = legend.column(), now = theme();
    let colours = ClacMap.colours.paint(column, data.n, now), texts = null;
    if (column.key === "modality") {
      const pair = { ...column, values: new Uint8Array(data.m).fill(1) };
      texts = ClacMap.colours.paint(pair, data.m, now);
    }
    scatter.setColours(colours, texts);
    scatter.setOrder(drawingOrder(column));
    legend.draw(now);
    $("element-field").hidden = view.state.colour !== "element";
  }

  /* Texts below crystals, unknown values below known ones, the best matches on top; otherwise in an
     order that does not depend on that of the data, or the last category would cover the others. */
  function drawingOrder(column) {
    const order = new Uint32Array(data.n + data.m).map((_, i) => i), key = new Float32Array(order.length);
    for (const i of order) {
      const row = data.rowOfPoint(i), known = ClacMap.colours.isKnown(column, row);
      const mixed = Math.imul(i + 1, 2654435761) >>> 8;
      key[i] = (i < data.n ? 2 : 0) + (known ? 1 : 0) +
        (column.key === "similarity" && known ? 0.9 * Math.min(Math.max(ClacMap.colours.scale(column)(column.values[row]), 0), 1)
          : 0.9 * mixed / 2 ** 24);
    }
    return order.sort((a, b) => key[a] - key[b]);
  }

  function refilter() {
    overlay.visible = view.visible();
    scatter.setVisible(overlay.visible);
  }

  /* ---- actions ---- */

  const actions = {
    redraw: () => redraw(),
    theme: () => theme(),
    open: (row) => view.set({ selected: row }),
    hover: (point) => { tooltip(point); redraw(); },
    select: (rows) => { results.select(rows); },
    selected: (rows) => { overlay.selection = rows; redraw(); },
    clear: () => { $("query").value = ""; view.set({ query: "", like: -1 }); },
    ask: (query) => { $("query").value = query; view.set({ query, like: -1 }); },
    like: (row) => { $("query").value = ""; view.set({ like: row, query: "" }); },
  };

  function tooltip(point) {
    const tip = $("tooltip");
    tip.hidden = point < 0;
    $("overlay").classList.toggle("over", point >= 0);
    if (point < 0) return;
    const row = data.rowOfPoint(point), column = legend.column();
    const value = column.key === "modality" ? null : ClacMap.colours.show(column, row);
    tip.replaceChildren(...[
      el("b", {}, ClacMap.formula(data.formulas[row])), el("span", { className: "id" }, data.ids[row]),
      point >= data.n ? el("em", {}, "text") : null,
      value === null ? null : el("span", {}, `${column.label}: ${value}${column.unit ? ` ${column.unit}` : ""}`),
      point >= data.n && data.sentences?.[row] ? el("span", { className: "quote" }, data.sentences[row][0]) : null,
    ].filter(Boolean));
    const [left, top] = overlay.place(point), box = $("map").getBoundingClientRect();
    tip.style.left = `${Math.min(left + 14, box.width - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.max(Math.min(top + 14, box.height - tip.offsetHeight - 8), 8)}px`;
  }

  let runs = 0;
  async function runSearch() {
    const run = ++runs, { query, like } = view.state;
    const waiting = setTimeout(() => $("search").classList.add("busy"), 150);
    let next = null, title = "Results";
    try {
      if (like >= 0) {
        next = await search.like(like);
        title = `Like ${data.formulas[like]}`;
      } else if (query.trim()) next = await search.query(query.trim());
      if (next) $("message").hidden = true; // of an earlier search
    } catch (error) {
      fail(error);
    }
    clearTimeout(waiting);
    if (run !== runs) return; // a later search has begun
    $("search").classList.remove("busy");
    result = legend.result = next;
    const hits = result ? result.hits.map((hit) => hit.row) : [];
    if (result && view.state.colour !== "similarity") {
      colourBefore = view.state.colour;
      view.set({ colour: "similarity" });
    } else if (!result && view.state.colour === "similarity") {
      view.set({ colour: colourBefore || view.defaultColour() });
    } else recolour();
    overlay.hits = hits.slice(0, 50);
    results.show(result, title);
    if (hits.length && like < 0 && !hits.includes(view.state.selected)) actions.open(hits[0]);
    else panel.show(view.state.selected, markedSentence());
    $("results").scrollTop = 0;
    redraw();
    ClacMap.result = result && { ...result, number: run };
    document.documentElement.dataset.searches = String(run);
    markLater(run);
  }

  /* Adds the sentences that match best, which the server sends after the hits. */
  async function markLater(run) {
    const found = await result?.later?.().catch(() => null);
    if (!found || run !== runs) return;
    for (const { row, sentence } of found.hits) {
      const hit = result.hits.find((h) => h.row === row);
      if (hit) hit.sentence = sentence;
    }
    panel.mark(markedSentence());
  }

  function markedSentence() {
    const row = view.state.selected;
    const hit = result?.hits.find((h) => h.row === row);
    if (hit?.sentence) return hit.sentence;
    return result?.kind === "words" ? search.sentence(row, ClacMap.Search.tokens(view.state.query)) : null;
  }

  function applyTheme() {
    document.documentElement.dataset.theme = theme();
    recolour();
    if (panel.viewer && view.state.selected >= 0) panel.drawStructure(false);
    redraw();
  }

  function changed(keys) {
    const has = (...names) => names.some((name) => keys.has(name));
    if (has("theme")) applyTheme();
    if (has("query", "like")) runSearch();
    if (has("crystals", "texts", "elements", "filters")) {
      refilter();
      results.show(result, $("results-title").textContent);
      $("show-crystals").checked = view.state.crystals;
      $("show-texts").checked = view.state.texts;
    }
    if (has("colour", "element", "filters")) recolour();
    if (has("selected")) {
      panel.show(view.state.selected, markedSentence());
      results.mark();
      bringIntoView(view.state.selected);
    }
    if (has("density")) $("tool-density").ariaPressed = String(isDense());
    redraw();
  }

  function bringIntoView(row) {
    if (row < 0) return;
    const [left, top] = overlay.place(row), { width, height } = overlay.camera();
    if (left < 20 || top < 20 || left > width - 20 || top > height - 20) {
      view.set({ x: data.x[row], y: data.y[row] });
    }
  }

  function setTool(tool) {
    overlay.tool = tool;
    for (const name of ["pan", "lasso"]) $(`tool-${name}`).ariaPressed = String(name === tool);
    $("overlay").classList.toggle("lasso", tool === "lasso");
  }

  function escape() {
    if ($("help-dialog").open) return; // closes itself
    if (document.activeElement === $("query") && $("query").value !== view.state.query) $("query").value = view.state.query;
    else if (results.selection) results.select(null);
    else if (view.state.selected >= 0) actions.open(-1);
    else if (view.state.query || view.state.like >= 0) actions.clear();
    document.activeElement?.blur();
  }

  function listen() {
    $("search").addEventListener("submit", (event) => {
      event.preventDefault();
      view.set({ query: $("query").value.trim(), like: -1 });
    });
    $("query").addEventListener("search", () => { if (!$("query").value) view.set({ query: "" }); });
    // The words are counted once, while the query is being typed.
    $("query").addEventListener("focus", () => setTimeout(() => search.kind === "words" && search.index(), 30));
    $("query").addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") { event.preventDefault(); results.move(0, null); }
    });
    $("colour").onchange = () => { colourBefore = null; view.set({ colour: $("colour").value }); };
    $("element").onchange = () => view.set({ element: $("element").value });
    $("elements").oninput = () => view.set({ elements: $("elements").value });
    $("show-crystals").onchange = () => view.set({ crystals: $("show-crystals").checked });
    $("show-texts").onchange = () => view.set({ texts: $("show-texts").checked });
    $("tool-pan").onclick = () => setTool("pan");
    $("tool-lasso").onclick = () => setTool("lasso");
    $("tool-density").onclick = () => view.set({ density: !isDense() });
    $("zoom-in").onclick = () => overlay.zoom(1.4);
    $("zoom-out").onclick = () => overlay.zoom(1 / 1.4);
    $("zoom-reset").onclick = () => view.set({ x: 0, y: 0, zoom: 1 });
    $("theme").onclick = () => view.set({ theme: theme() === "dark" ? "light" : "dark" });
    $("help").onclick = () => $("help-dialog").showModal();
    dark.addEventListener("change", applyTheme);
    new ResizeObserver(redraw).observe($("map"));
    addEventListener("hashchange", () => { view.read(); restore(); });
    addEventListener("keydown", (event) => {
      if (event.key === "Escape") return escape();
      const isTyping = event.target.matches("input, select, textarea");
      if (isTyping || event.ctrlKey || event.metaKey || event.altKey || $("help-dialog").open) return;
      const run = {
        "/": () => $("query").focus(), "?": () => $("help-dialog").showModal(),
        "+": () => overlay.zoom(1.4), "=": () => overlay.zoom(1.4), "-": () => overlay.zoom(1 / 1.4),
        0: () => view.set({ x: 0, y: 0, zoom: 1 }), l: () => setTool(overlay.tool === "lasso" ? "pan" : "lasso"),
        d: () => view.set({ density: !isDense() }), t: () => $("theme").click(),
        n: () => results.move(1, null), p: () => results.move(-1, null),
        s: () => view.state.selected >= 0 && actions.like(view.state.selected),
        Enter: event.target === $("overlay") ? () => results.move(0, null) : null,
      }[event.key];
      if (!run) return;
      event.preventDefault();
      run();
    });
  }

  /* Everything from the state: at the start, and when the address changes. */
  function restore() {
    $("query").value = view.state.query;
    $("elements").value = view.state.elements;
    $("element").value = view.state.element;
    $("show-crystals").checked = view.state.crystals;
    $("show-texts").checked = view.state.texts;
    $("tool-density").ariaPressed = String(isDense());
    document.documentElement.dataset.theme = theme();
    refilter();
    recolour();
    panel.show(view.state.selected, null);
    results.show(null);
    return runSearch();
  }

  function describe() {
    const p = data.provenance, { name, seed, explained } = data.layout;
    const percent = (share) => `${(100 * share).toFixed(0)} %`;
    const plane = name === "pca"
      ? `principal components (${explained.map(percent).join(" and ")} of the variance)` : `UMAP, seed ${seed}`;
    const line = [["model", p.model], ["step", p.step === null ? null : number(p.step)], ["data", p.data],
      ["layout", plane], ["checksum", p.checksum?.slice(0, 12)]].filter(([, value]) => value);
    $("status").replaceChildren(...line.map(([key, value]) => el("span", { title: key === "checksum" ? p.checksum : "" },
      el("b", {}, key), ` ${value}`)));
    $("title").textContent = `${number(data.n)} crystals`;
    document.title = `Map of ${number(data.n)} crystals – ${p.model || "clac_jax"}`;
    $("n-crystals").textContent = number(data.n);
    $("n-texts").textContent = number(data.m);
    const present = new Set();
    for (let row = 0; row < data.n; row++) for (const symbol of data.elementsOf(row)) present.add(symbol);
    $("element").replaceChildren(...data.symbols.filter((s) => present.has(s)).map((s) => el("option", { value: s }, s)));
    if (!present.has(view.state.element)) view.state.element = [...present][0];
    $("keys").replaceChildren(...KEYS.flatMap(([key, text]) => [el("dt", {}, key), el("dd", {}, text)]));
  }

  function describeMode() {
    const isModel = search.kind === "model";
    $("mode").textContent = isModel ? "model search" : "word search";
    $("mode").dataset.kind = search.kind;
    $("mode").title = isModel ? "The model of this server encodes the query."
      : "This page has no model: the words are looked for in the stored texts and formulas. " +
        "The command clac-jax serve shows the same page with the model.";
    $("help-text").textContent = `${$("mode").title} A word with a minus before it is excluded. ` +
      "Nothing is loaded from other hosts; the address of the page holds its state.";
  }

  try {
    data = ClacMap.data = await ClacMap.load();
    view = ClacMap.view = new ClacMap.View(data);
    view.read();
    scatter = new ClacMap.Scatter($("points"), data);
    overlay = ClacMap.overlay = new ClacMap.Overlay($("overlay"), data, view, actions);
    legend = new ClacMap.Legend($("legend"), $("colour"), data, view);
    results = new ClacMap.Results(data, view, actions);
    search = ClacMap.search = new ClacMap.Search(data);
    panel = ClacMap.panel = new ClacMap.CrystalPanel($("crystal"), data, view, search, actions);
    scatter.restore = () => { recolour(); redraw(); };
    describe();
    refilter();
    document.documentElement.dataset.theme = theme();
    recolour();
    redraw();
    await Promise.all([ClacMap.loadDetails(data), search.connect().catch(fail)]);
    describeMode();
    listen();
    view.onChange(changed);
    await restore();
    redraw();
    document.documentElement.dataset.ready = "true";
  } catch (error) {
    fail(error);
    throw error;
  }
})();
