"use strict";
/* The panel of the selected crystal: structure, rank of its own text, narrative, properties and
   neighbours. */

ClacMap.el = (name, properties = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value; else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

/* A formula with subscripts. */
ClacMap.formula = (text) => {
  const parts = text.split(/(\d+)/).filter(Boolean)
    .map((part) => (/^\d/.test(part) ? ClacMap.el("sub", {}, part) : part));
  return ClacMap.el("span", { className: "formula" }, ...parts);
};

ClacMap.download = (name, text, type) => {
  const link = ClacMap.el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};

ClacMap.CrystalPanel = class {
  static NEAREST = 6;
  static EXAMPLES = ["a layered oxide with a wide band gap", "cubic perovskite", "hexagonal nitride insulator",
    "a metal with a high bulk modulus", "lithium phosphate -cobalt"];

  constructor(root, data, view, search, actions) {
    Object.assign(this, { root, data, view, search, actions });
    this.options = { boundary: true, across: true };
    this.viewer = null;
    this.frame = ClacMap.el("div", { className: "structure", role: "img" });
  }

  /* Shows a crystal, or the invitation to choose one; `sentence` is marked in its narrative. */
  show(row, sentence) {
    const { el } = ClacMap, { data } = this;
    if (row < 0) {
      this.root.replaceChildren(
        el("p", { className: "empty" },
          "Click a point to see its structure, its text and its nearest neighbours, or describe a crystal:"),
        el("div", { className: "examples" }, ...ClacMap.CrystalPanel.EXAMPLES.map((text) =>
          el("button", { type: "button", onclick: () => this.actions.ask(text) }, text))));
      return;
    }
    this.row = row;
    const id = data.ids[row];
    const parts = [
      el("div", { className: "bar" },
        el("h2", {}, ClacMap.formula(data.formulas[row])),
        el("span", { className: "id" }, id),
        el("button", { type: "button", className: "quiet", id: "close-crystal", ariaLabel: "Close",
          onclick: () => this.actions.open(-1) }, "✕")),
      this.facts(row),
      ...(data.structures ? [this.frame, this.structureTools(row)] : []),
      this.rank(row),
      el("div", { className: "row" }, el("button", { type: "button", id: "like",
        disabled: !data.vectors && !this.search.service,
        onclick: () => this.actions.like(row) }, "Search by this crystal")),
      this.narrative(row, sentence),
      this.properties(row),
      this.neighbours(row, "vectors", "Nearest crystals"),
      this.neighbours(row, "text_vectors", "Nearest texts"),
    ];
    this.root.replaceChildren(...parts.filter(Boolean));
    if (data.structures) this.drawStructure(true);
  }

  facts(row) {
    const words = this.data.columns.filter((c) => c.categories || c.key === "space_group")
      .map((c) => ({ c, text: ClacMap.colours.show(c, row) })).filter(({ text }) => text !== null)
      .map(({ c, text }) => ClacMap.el("li", { title: c.label },
        c.key === "space_group" && !c.categories ? `space group ${text}` : text));
    return ClacMap.el("ul", { className: "facts" }, ...words);
  }

  /* ---- structure ---- */

  structureTools(row) {
    const { el } = ClacMap, { data } = this, id = data.ids[row];
    const crystal = data.structures(row);
    const toggle = (key, text, title) => el("button", { type: "button", title, ariaPressed: String(this.options[key]),
      onclick: (event) => {
        this.options[key] = !this.options[key];
        event.target.ariaPressed = String(this.options[key]);
        this.drawStructure(false);
      } }, text);
    const sizes = [1, 2, 3].map((size) => el("button", { type: "button",
      ariaLabel: `Supercell ${size} × ${size} × ${size}`, id: `supercell-${size}`,
      ariaPressed: String(this.view.state.supercell === size),
      onclick: () => {
        this.view.set({ supercell: size });
        sizes.forEach((b, i) => { b.ariaPressed = String(i + 1 === size); });
        this.drawStructure(true);
      } }, `${size}³`));
    const elements = [...new Set(crystal.numbers)].map((z) => data.symbols[z]).sort()
      .map((symbol) => el("li", {}, el("i", { className: "ball",
        style: `background:${ClacMap.structure.colourOf(symbol)}` }), symbol));
    return el("div", {},
      el("div", { className: "structure-tools" },
        el("span", { className: "group", role: "group", ariaLabel: "Supercell" }, ...sizes),
        toggle("boundary", "Boundary", "Copies of the atoms on the faces of the cell"),
        toggle("across", "Across faces", "Atoms outside the cell that are bonded to one inside"),
        el("button", { type: "button", title: "Turn back", onclick: () => this.drawStructure(true) }, "Reset"),
        el("button", { type: "button", id: "cif", onclick: () => ClacMap.download(`${id}.cif`,
          ClacMap.structure.cif(crystal, data.symbols, id, data.formulas[row]), "chemical/x-cif") }, "CIF")),
      el("ul", { className: "elements" }, ...elements));
  }

  drawStructure(fit) {
    const { data } = this, dark = this.actions.theme() === "dark";
    const crystal = data.structures(this.row);
    if (!this.viewer) {
      this.viewer = $3Dmol.createViewer(this.frame, { antialias: true, disableFog: true });
      new ResizeObserver(() => { this.viewer.resize(); }).observe(this.frame);
    }
    const expanded = ClacMap.structure.expand(crystal, data.symbols, data.radii,
      { supercell: this.view.state.supercell, ...this.options });
    const { viewer } = this;
    viewer.setBackgroundColor(dark ? 0x1b2029 : 0xf7f8fa);
    ClacMap.structure.draw(viewer, crystal, expanded, data.radii, data, dark);
    if (fit) {
      viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
      // Seen a little from the side and from above, so that the cell has depth.
      viewer.rotate(-72, "x");
      viewer.rotate(-18, "y");
      viewer.rotate(10, "x");
      viewer.zoomTo();
      viewer.zoom(0.9);
    }
    viewer.render();
    const n = crystal.numbers.length;
    this.frame.ariaLabel = `Structure of ${data.formulas[this.row]}: ${n} ${n === 1 ? "atom" : "atoms"} in the cell`;
    this.expanded = expanded;
  }

  /* ---- text ---- */

  rank(row) {
    const { el } = ClacMap, column = this.data.column("own_rank");
    if (!column || !Number.isFinite(column.values[row])) return null;
    const rank = column.values[row], n = this.data.n.toLocaleString("en");
    return el("p", { className: "rank" }, "Its own text ranks it ", el("b", {}, ordinal(rank)),
      ` of ${n} crystals.`);

    function ordinal(value) {
      if (!Number.isInteger(value)) return value.toLocaleString("en");
      const tail = value % 100 >= 11 && value % 100 <= 13 ? "th" : ["th", "st", "nd", "rd"][value % 10] || "th";
      return value.toLocaleString("en") + tail;
    }
  }

  narrative(row, marked) {
    const { el } = ClacMap, sentences = this.data.sentences?.[row];
    if (!sentences?.length) return null;
    const plain = (text) => text?.replace(/\s+/g, " ").trim();
    return el("section", { id: "narrative" }, el("h3", {}, "Text"),
      el("p", {}, ...sentences.flatMap((sentence) => [
        plain(sentence) === plain(marked)
          ? el("mark", { title: "The sentence that matches the query best" }, sentence) : sentence, " "])));
  }

  /* Marks a sentence in the narrative that is shown. */
  mark(sentence) {
    const shown = document.getElementById("narrative");
    if (shown) shown.replaceWith(this.narrative(this.row, sentence));
  }

  properties(row) {
    const { el } = ClacMap;
    const rows = this.data.columns.filter((c) => !c.categories && !["space_group", "own_rank"].includes(c.key))
      .map((c) => [c, ClacMap.colours.show(c, row)]).filter(([, text]) => text !== null)
      .map(([c, text]) => el("tr", {}, el("th", { scope: "row" }, c.label),
        el("td", { className: "num" }, text), el("td", { className: "unit" }, c.unit)));
    if (!rows.length) return null;
    return el("section", {}, el("h3", {}, "Properties"), el("table", { className: "properties" },
      el("tbody", {}, ...rows)));
  }

  neighbours(row, among, title) {
    const { el } = ClacMap, { data, search } = this;
    const scores = search.cosines("vectors", row, among);
    if (!scores) return null;
    const ofText = among === "text_vectors";
    const hits = search.best(scores, ofText ? -1 : row, ClacMap.CrystalPanel.NEAREST)
      .map((hit) => ({ ...hit, row: ofText ? data.textRow[hit.row] : hit.row }));
    return el("section", {}, el("h3", {}, title), el("ol", { className: "near" }, ...hits.map((hit) => el("li", {},
      el("button", { type: "button", className: "link", onclick: () => this.actions.open(hit.row) },
        ClacMap.formula(data.formulas[hit.row])),
      el("span", { className: "id" }, data.ids[hit.row]),
      ofText && hit.row === row ? el("em", {}, "its own") : null,
      el("span", { className: "num" }, hit.score.toFixed(3))))));
  }
};
