"use strict";
/* The list of colourings, and the legend, which is the filter as well: categories are switched on
   and off, numbers have a range. */

ClacMap.Legend = class {
  static BINS = 28;

  constructor(root, select, data, view) {
    Object.assign(this, { root, select, data, view });
    this.result = null; // of the last search
    this.fillSelect();
  }

  fillSelect() {
    const { el } = ClacMap, { columns } = this.data;
    const option = (key, text) => el("option", { value: key }, text);
    const group = (label, options) => el("optgroup", { label }, ...options);
    const label = (c) => (c.unit ? `${c.label} (${c.unit})` : c.label);
    this.select.replaceChildren(
      group("Kinds", [...columns.filter((c) => c.categories).map((c) => option(c.key, label(c))),
        option("element", "Contains an element"), option("modality", "Crystal or text")]),
      group("Model", [option("similarity", "Similarity to the query"),
        ...columns.filter((c) => c.key === "own_rank").map((c) => option(c.key, c.label))]),
      group("Numbers", columns.filter((c) => !c.categories && c.key !== "own_rank")
        .map((c) => option(c.key, label(c)))));
  }

  /* The column that colours the crystals now; `isFilter` says whether it can filter. */
  column() {
    const { data } = this, { colour, element } = this.view.state;
    if (colour === "modality") {
      return { key: colour, label: "Crystal or text", unit: "", categories: ["Crystals", "Texts"],
        values: new Uint8Array(data.n) };
    }
    if (colour === "element") {
      const values = new Uint8Array(data.n).map((_, row) => (data.elementsOf(row).has(element) ? 0 : 255));
      return { key: colour, label: `Contains ${element}`, unit: "", categories: [`With ${element}`], values };
    }
    if (colour === "similarity") return this.similarity();
    return { ...data.column(colour), isFilter: true };
  }

  similarity() {
    const { result, data } = this, isWords = result?.kind === "words";
    const column = { key: "similarity", unit: "", log: false, low: 0, high: 1, fades: true,
      label: isWords ? "Words in common (BM25)" : "Cosine to the query",
      values: new Float32Array(data.n).fill(NaN) };
    if (!result?.scores) return column;
    column.values = Float32Array.from(result.scores, (s) => (isWords && s <= 0 ? NaN : s));
    const known = column.values.filter(Number.isFinite).sort();
    if (known.length) {
      column.low = isWords ? 0 : known[Math.floor(known.length * 0.02)];
      column.high = known[known.length - 1];
      if (!(column.high > column.low)) column.high = column.low + 1;
    }
    return column;
  }

  draw(theme) {
    const column = this.column();
    this.select.value = this.view.state.colour;
    this.root.replaceChildren(
      column.categories ? this.categories(column, theme) : this.numbers(column, theme),
      ...this.otherFilters(column.key));
  }

  /* ---- categories ---- */

  categories(column, theme) {
    const { el, colours } = ClacMap, { view } = this;
    const counts = new Map();
    for (const code of column.values) counts.set(code, (counts.get(code) || 0) + 1);
    if (column.key === "modality") counts.set(1, this.data.m);
    const hidden = new Set(view.state.filters[column.key]?.hidden || []);
    const codes = [...column.categories.keys(), 255].filter((code) => counts.get(code));
    const nameOf = (code) => (code === 255 ? "" : column.categories[code]);
    const toggle = (name) => {
      const next = new Set(hidden);
      if (!next.delete(name)) next.add(name);
      view.setFilter(column.key, next.size ? { hidden: [...next] } : null);
    };
    const only = (name) => {
      const others = codes.map(nameOf).filter((other) => other !== name);
      const isOnly = !hidden.has(name) && others.every((other) => hidden.has(other));
      view.setFilter(column.key, isOnly ? null : { hidden: others });
    };
    return el("ul", { className: "categories", ariaLabel: `Legend: ${column.label}` }, ...codes.map((code) => {
      const name = nameOf(code), text = code === 255
        ? (column.key === "element" ? "Without" : "Unknown") : name;
      const colour = code === 255 ? colours.UNKNOWN[theme] : colours.swatch(code, theme);
      const content = [el("i", { className: "swatch", style: `background:${colour}` }),
        el("span", { className: "name" }, text.replace(/^[a-z]/, (c) => c.toUpperCase())),
        el("span", { className: "count" }, counts.get(code).toLocaleString("en"))];
      if (!column.isFilter) return el("li", {}, el("div", { className: "entry" }, ...content));
      return el("li", {},
        el("button", { type: "button", className: "entry", ariaPressed: String(!hidden.has(name)),
          title: hidden.has(name) ? "Show" : "Hide", onclick: () => toggle(name) }, ...content),
        el("button", { type: "button", className: "only", title: `Show only: ${text}`,
          ariaLabel: `Show only: ${text}`, onclick: () => only(name) }, "only"));
    }));
  }

  /* ---- numbers ---- */

  numbers(column, theme) {
    const { el, colours } = ClacMap, { BINS } = ClacMap.Legend, at = colours.scale(column);
    const counts = new Array(BINS).fill(0);
    let unknown = 0;
    for (const value of column.values) {
      if (!Number.isFinite(value)) { unknown++; continue; }
      counts[Math.min(Math.max(Math.floor(at(value) * BINS), 0), BINS - 1)]++;
    }
    const most = Math.max(...counts, 1), range = this.view.state.filters[column.key]?.range;
    const bars = counts.map((count, i) => {
      const value = colours.valueAt(column, (i + 0.5) / BINS);
      const isIn = !range || (value >= range[0] && value <= range[1]);
      return el("i", { className: isIn ? "" : "out", style: `height:${count ? 3 + 45 * Math.sqrt(count / most) : 0}px;` +
        `background:${colours.css(colours.viridis((i + 0.5) / BINS))}` });
    });
    const strip = Array.from({ length: 11 }, (_, i) => colours.css(colours.viridis(i / 10))).join(",");
    const ticks = [0, 0.5, 1].map((share) => el("span", {}, colours.format(Number(colours.valueAt(column, share).toPrecision(3)))));
    const parts = [
      el("div", { className: "histogram", ariaHidden: "true" }, ...bars),
      el("div", { className: "strip", style: `background:linear-gradient(90deg,${strip})` }),
      el("div", { className: "ticks" }, ...ticks),
      el("p", { className: "scale-title" }, column.label + (column.unit ? ` (${column.unit})` : "") +
        (column.log ? ", logarithmic" : "")),
    ];
    if (column.isFilter) parts.push(this.range(column, range));
    if (unknown) {
      parts.push(el("p", { className: "unknown" }, el("i", { className: "swatch",
        style: `background:${colours.UNKNOWN[theme]}` }),
        column.key === "similarity" ? (this.result ? "no match " : "no query yet ") : "unknown ",
        el("span", { className: "count" }, unknown.toLocaleString("en"))));
    }
    return el("div", { className: "numbers" }, ...parts);
  }

  range(column, range) {
    const { el } = ClacMap;
    const input = (name, value) => el("input", { type: "number", step: "any", value: value ?? "",
      placeholder: name === "from" ? "lowest" : "highest", ariaLabel: `${column.label} ${name}`, id: `range-${name}`,
      onchange: () => {
        const [a, b] = [low, high].map((field) => (field.value === "" ? NaN : Number(field.value)));
        this.view.setFilter(column.key, Number.isNaN(a) && Number.isNaN(b) ? null
          : { range: [Number.isNaN(a) ? -1e30 : a, Number.isNaN(b) ? 1e30 : b] });
      } });
    const shown = (value) => (value === undefined || Math.abs(value) >= 1e30 ? null : value);
    const low = input("from", shown(range?.[0])), high = input("to", shown(range?.[1]));
    return el("div", { className: "range" }, low, el("span", {}, "to"), high);
  }

  /* Filters by other columns stay in force, so they are listed, each with a button to remove it. */
  otherFilters(current) {
    const { el, colours } = ClacMap;
    const entries = Object.entries(this.view.state.filters).filter(([key]) => key !== current);
    if (!entries.length) return [];
    return [el("ul", { className: "filters", ariaLabel: "Other filters" }, ...entries.map(([key, filter]) => {
      const column = this.data.column(key);
      const show = (v) => (Math.abs(v) >= 1e30 ? "…" : colours.format(v));
      const text = filter.range ? `${column.label}: ${show(filter.range[0])} to ${show(filter.range[1])}`
        : `${column.label}: ${filter.hidden.length} hidden`;
      return el("li", {}, text, el("button", { type: "button", className: "quiet", ariaLabel: `Remove the filter ${text}`,
        onclick: () => this.view.setFilter(key, null) }, "✕"));
    }))];
  }
};
