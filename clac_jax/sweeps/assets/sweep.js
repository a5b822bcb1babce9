"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byNumber = new Map(data.trials.map((trial) => [trial.number, trial]));
  const valued = data.trials.filter((trial) => trial.value !== null);
  const sign = data.mode === "min" ? 1 : -1;

  // Share of the way from the worst to the best trial, by rank: one outlier hides no difference.
  const ranked = [...valued].sort((a, b) => sign * (b.value - a.value));
  const shares = new Map(
    ranked.map((trial, rank) => [trial.number, ranked.length < 2 ? 1 : rank / (ranked.length - 1)]));
  const share = (trial) => shares.get(trial.number) ?? 0;

  function number(value) {
    if (value === null) return "–";
    const short = Number(value.toPrecision(4));
    return short && Math.abs(short) < 1e-3 ? short.toExponential().replace("e-", "e−") : String(short);
  }

  function element(name, attributes, parent, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  function canvas(id, width, height, label) {
    const figure = document.getElementById(id);
    return figure && element("svg", {
      width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, figure);
  }

  function drawn(shape, trial) {
    shape.dataset.trial = trial.number;
    shape.style.setProperty("--share", `${(100 * share(trial)).toFixed(1)}%`);
    return shape;
  }

  // Scales: a function from values to positions, with `ticks`.
  function linear(low, high, from, to) {
    if (low === high) { low -= Math.abs(low) * 0.05 || 1; high += Math.abs(high) * 0.05 || 1; }
    const scale = (value) => from + (to - from) * (value - low) / (high - low);
    const step = [1, 2, 2.5, 5, 10].map((n) => n * 10 ** Math.floor(Math.log10((high - low) / 4)))
      .find((each) => (high - low) / each <= 5);
    scale.ticks = [];
    for (let k = Math.ceil(low / step); k * step <= high * (1 + 1e-12) + 1e-300; k++) {
      scale.ticks.push(Number((k * step).toPrecision(12)));
    }
    return scale;
  }

  function logarithmic(low, high, from, to) {
    const inner = linear(Math.log10(low), Math.log10(high), from, to);
    const scale = (value) => inner(Math.log10(value));
    const decades = Math.log10(high / low);
    const each = decades > 5 ? [1] : decades > 1.5 ? [1, 3] : [1, 2, 5];
    scale.ticks = [];
    for (let k = Math.floor(Math.log10(low)); k <= Math.log10(high); k++) {
      for (const n of each) {
        const tick = Number((n * 10 ** k).toPrecision(12));
        if (tick >= low * 0.9999 && tick <= high * 1.0001) scale.ticks.push(tick);
      }
    }
    return scale;
  }

  function categories(values, from, to) {
    const scale = (value) => {
      const place = values.indexOf(String(value));
      return values.length < 2 ? (from + to) / 2 : from + (to - from) * place / (values.length - 1);
    };
    scale.ticks = values;
    return scale;
  }

  const extent = (numbers) => [Math.min(...numbers), Math.max(...numbers)];

  // Parallel coordinates.
  const brushes = new Map();
  let axes = [];
  function drawParallel() {
    if (!data.axes.length || !data.trials.length) return;
    const gap = Math.max(120, Math.min(300, 980 / data.axes.length));
    const width = gap * data.axes.length + 190, height = 340, top = 46, bottom = 290;
    const svg = canvas("parallel-chart", width, height,
      `Parallel coordinates of ${data.trials.length} trials over ${data.axes.map((a) => a.key).join(", ")}`);
    axes = data.axes.map((axis, place) => ({
      title: axis.key, x: 70 + gap * place, get: (trial) => trial.params[axis.key] ?? null,
      scale: axis.values ? categories(axis.values, bottom, top)
        : (axis.log ? logarithmic : linear)(axis.low, axis.high, bottom, top) }));
    if (valued.length) {
      const ends = extent(valued.map((trial) => trial.value));
      axes.push({ title: data.monitor, x: 70 + gap * data.axes.length, get: (trial) => trial.value,
        scale: linear(...ends, ...(sign > 0 ? [top, bottom] : [bottom, top])) });
    }
    const absent = bottom + 22;  // a key that has no effect in a trial
    const lines = element("g", {}, svg);
    for (const trial of [...data.trials].sort((a, b) => share(a) - share(b))) {
      const points = axes.map((axis) => {
        const value = axis.get(trial);
        return `${axis.x},${(value === null ? absent : axis.scale(value)).toFixed(1)}`;
      });
      drawn(element("polyline", { points: points.join(" "), class: `trial ${trial.state}` }, lines), trial);
    }
    for (const axis of axes) {
      element("line", { class: "axis", x1: axis.x, x2: axis.x, y1: top, y2: bottom }, svg);
      element("text", { x: axis.x, y: 20, "text-anchor": "middle", "font-weight": 600 }, svg, axis.title);
      for (const tick of axis.scale.ticks) {
        element("text", { class: "soft", x: axis.x - 7, y: axis.scale(tick) + 4, "text-anchor": "end" },
          svg, typeof tick === "number" ? number(tick) : tick);
      }
      if (data.trials.some((trial) => axis.get(trial) === null)) {
        element("text", { class: "soft", x: axis.x, y: absent + 16, "text-anchor": "middle" }, svg, "none");
      }
      axis.mark = element("rect", { class: "brush", x: axis.x - 7, width: 14, y: 0, height: 0 }, svg);
      brushable(element("rect", { class: "grip", x: axis.x - 14, width: 28, y: top - 8, height: bottom - top + 16 },
        svg), svg, axis);
    }
  }

  function brushable(grip, svg, axis) {
    let start = null;
    const at = (event) => event.clientY - svg.getBoundingClientRect().top;
    grip.addEventListener("pointerdown", (event) => {
      start = at(event);
      grip.setPointerCapture(event.pointerId);
    });
    grip.addEventListener("pointermove", (event) => {
      if (start === null) return;
      const [low, high] = extent([start, at(event)]);
      if (high - low > 3) keep(axis, low, high);
    });
    grip.addEventListener("pointerup", () => { start = null; });
    grip.addEventListener("dblclick", () => keep(axis, 0, 0));
  }

  function keep(axis, low, high) {
    if (high > low) brushes.set(axis, [low, high]); else brushes.delete(axis);
    axis.mark.setAttribute("y", low);
    axis.mark.setAttribute("height", Math.max(high - low, 0));
    for (const trial of data.trials) {
      const out = [...brushes].some(([each, [from, to]]) => {
        const value = each.get(trial);
        return value === null || each.scale(value) < from || each.scale(value) > to;
      });
      for (const shape of shapes(trial.number)) shape.classList.toggle("out", out);
    }
  }

  // Learning curves.
  function drawCurves() {
    const curves = data.trials.filter((trial) => trial.curve.length);
    if (!curves.length) return;
    const width = 1000, height = 380, left = 70, right = 980, top = 14, bottom = 330;
    const svg = canvas("curves-chart", width, height, `${data.monitor} by epoch of ${curves.length} trials`);
    const points = curves.flatMap((trial) => trial.curve);
    const [first, last] = extent(points.map((point) => point[0]));
    const x = linear(first, last, left, right);
    const sorted = points.map((point) => point[1]).sort((a, b) => a - b);
    // The scale follows the bulk: one diverged trial must not flatten the others.
    const middle = sorted.slice(Math.floor(sorted.length * 0.02), Math.ceil(sorted.length * 0.98));
    const y = linear(...extent(middle.length ? middle : sorted), bottom, top);
    element("clipPath", { id: "curves-clip" }, svg);
    element("rect", { x: left - 4, y: top - 6, width: right - left + 8, height: bottom - top + 12 },
      svg.querySelector("clipPath"));
    for (const tick of y.ticks) {
      element("line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }, svg);
      element("text", { class: "soft", x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, svg, number(tick));
    }
    const every = Math.ceil((last - first + 1) / 16);
    for (let tick = first; tick <= last; tick += every) {
      element("text", { class: "soft", x: x(tick), y: bottom + 20, "text-anchor": "middle" }, svg, tick);
    }
    element("text", { x: (left + right) / 2, y: height - 8, "text-anchor": "middle" }, svg, "epochs trained");
    const lines = element("g", { "clip-path": "url(#curves-clip)" }, svg);
    for (const trial of [...curves].sort((a, b) => share(a) - share(b))) {
      const parent = byNumber.get(trial.parent);
      const before = parent && parent.curve.length ? [parent.curve.at(-1)] : [];
      const path = [...before, ...trial.curve].map(([epoch, value]) => `${x(epoch).toFixed(1)},${y(value).toFixed(1)}`);
      const shape = element("polyline", {
        points: path.join(" "), class: `trial ${trial.state}${trial.exploits ? " exploit" : ""}` }, lines);
      drawn(shape, trial);
      if (path.length === 1) {
        const [cx, cy] = path[0].split(",");
        drawn(element("circle", { cx, cy, r: 4, class: "node" }, lines), trial);
      }
    }
  }

  // Lineage of a population.
  function drawLineage() {
    const members = data.trials.filter((trial) => trial.member !== null);
    if (!members.length || !document.getElementById("lineage-chart")) return;
    const rows = 1 + Math.max(...members.map((trial) => trial.member));
    const columns = 1 + Math.max(...members.map((trial) => trial.generation));
    const dx = Math.max(64, Math.min(180, 860 / Math.max(columns - 1, 1))), dy = 42;
    const width = 130 + dx * (columns - 1) + 60, height = 50 + dy * rows;
    const svg = canvas("lineage-chart", width, height,
      `Lineage of ${rows} members over ${columns} generations`);
    const x = (trial) => 110 + dx * trial.generation, y = (trial) => 48 + dy * trial.member;
    for (let k = 0; k < columns; k++) {
      element("text", { class: "soft", x: 110 + dx * k, y: 18, "text-anchor": "middle" }, svg,
        k ? k : "generation 0");
    }
    for (let k = 0; k < rows; k++) {
      element("text", { class: "soft", x: 84, y: 52 + dy * k, "text-anchor": "end" }, svg, `member ${k}`);
    }
    for (const trial of [...members].sort((a, b) => a.exploits - b.exploits)) {
      const parent = byNumber.get(trial.parent);
      if (!parent) continue;
      const [x0, y0, x1, y1] = [x(parent), y(parent), x(trial), y(trial)], bend = (x1 - x0) / 2;
      drawn(element("path", { d: `M${x0},${y0}C${x0 + bend},${y0} ${x1 - bend},${y1} ${x1},${y1}`,
        class: `trial${trial.exploits ? " exploit" : ""}` }, svg), trial);
    }
    for (const trial of members) {
      drawn(element("circle", { cx: x(trial), cy: y(trial), r: 10, class: `node ${trial.state}` }, svg), trial);
    }
  }

  // Marking and describing trials.
  const shapes = (trial) => document.querySelectorAll(`[data-trial="${trial}"]`);
  let marked = null;
  function mark(trial) {
    for (const shape of shapes(marked)) shape.classList.remove("on");
    marked = trial === marked ? null : trial;
    for (const shape of shapes(marked)) {
      shape.classList.add("on");
      if (shape.tagName === "polyline") shape.parentNode.append(shape);  // above the others
    }
  }

  const tip = document.getElementById("tip");
  function describe(event) {
    const shape = event.target.closest("svg [data-trial]");
    tip.hidden = !shape;
    if (!shape) return;
    const trial = byNumber.get(Number(shape.dataset.trial));
    const title = trial.member === null ? `trial ${trial.name}` : trial.name;
    tip.textContent = [`${title}, ${trial.state}`, `${data.monitor} ${number(trial.value)}`,
      ...Object.entries(trial.params).map(([key, value]) =>
        `${key} = ${typeof value === "number" ? number(value) : value}`),
      ...(trial.changes ? [`changed ${trial.changes}`] : [])].join("\n");
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - box.width - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - box.height - 8)}px`;
  }

  function sort(heading) {
    const table = heading.closest("table"), place = [...heading.parentNode.children].indexOf(heading);
    const way = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const each of heading.parentNode.children) each.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
    const key = (row) => row.children[place].dataset.sort;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [one, other] = [key(a), key(b)];
      if (!one || !other) return (one ? 0 : 1) - (other ? 0 : 1);  // the empty ones last, both ways
      const [x, y] = [Number(one), Number(other)];
      const order = Number.isNaN(x - y) ? one.localeCompare(other) : x - y;
      return way * order || a.dataset.trial - b.dataset.trial;
    });
    table.tBodies[0].append(...rows);
  }

  drawLineage();
  drawParallel();
  drawCurves();
  document.addEventListener("pointermove", describe);
  document.addEventListener("click", (event) => {
    const heading = event.target.closest("#trials-table thead th");
    if (heading) return sort(heading);
    const shape = event.target.closest("[data-trial]");
    if (shape) mark(shape.dataset.trial);
  });
})();
