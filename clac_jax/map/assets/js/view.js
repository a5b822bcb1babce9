"use strict";
/* The state of the page. It is kept in the part of the address after #, so that a link shows the
   same: selected crystal, colour, query, filters and camera. */

ClacMap.View = class {
  static SEPARATOR = "~";

  constructor(data) {
    this.data = data;
    this.listeners = [];
    this.state = {
      selected: -1, colour: this.defaultColour(), element: "O", query: "", like: -1,
      crystals: true, texts: true, elements: "", filters: {}, density: null, theme: null,
      supercell: 1, x: 0, y: 0, zoom: 1,
    };
  }

  defaultColour() {
    return this.data.columns.length ? this.data.columns[0].key : "modality";
  }

  onChange(listener) { this.listeners.push(listener); }

  /* Changes some values and tells the listeners which. */
  set(changes) {
    const changed = Object.keys(changes).filter((key) =>
      JSON.stringify(this.state[key]) !== JSON.stringify(changes[key]));
    if (!changed.length) return;
    Object.assign(this.state, changes);
    for (const listener of this.listeners) listener(new Set(changed));
    this.write();
  }

  setFilter(key, filter) {
    const filters = { ...this.state.filters };
    if (filter) filters[key] = filter; else delete filters[key];
    this.set({ filters });
  }

  write() {
    clearTimeout(this.pending);
    this.pending = setTimeout(() => {
      const hash = this.encode();
      if (hash !== location.hash.slice(1)) {
        history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
      }
    }, 150);
  }

  encode() {
    const s = this.state, q = new URLSearchParams();
    if (s.selected >= 0) q.set("s", this.data.ids[s.selected]);
    if (s.colour !== this.defaultColour()) q.set("c", s.colour);
    if (s.colour === "element") q.set("el", s.element);
    if (s.query) q.set("q", s.query);
    if (s.like >= 0) q.set("like", this.data.ids[s.like]);
    if (!s.crystals) q.set("crystals", "0");
    if (!s.texts) q.set("texts", "0");
    if (s.elements) q.set("has", s.elements);
    for (const [key, filter] of Object.entries(s.filters)) {
      q.append("f", [key, ...(filter.range ? ["in", ...filter.range] : ["not", ...filter.hidden])]
        .join(ClacMap.View.SEPARATOR));
    }
    if (s.density !== null) q.set("density", s.density ? "1" : "0");
    if (s.theme) q.set("theme", s.theme);
    if (s.supercell !== 1) q.set("cell", s.supercell);
    if (s.x || s.y || s.zoom !== 1) {
      q.set("v", [s.x, s.y, s.zoom].map((v) => Number(v.toPrecision(5))).join(","));
    }
    return q.toString();
  }

  /* Reads the address; anything in it that does not fit the data is left out. */
  read() {
    const q = new URLSearchParams(location.hash.slice(1)), s = this.state, data = this.data;
    const row = (name) => data.rowOf.get(q.get(name)) ?? -1;
    s.selected = row("s");
    s.like = row("like");
    s.query = q.get("q") || "";
    const colours = [...data.columns.map((c) => c.key), "modality", "element", "similarity"];
    s.colour = colours.includes(q.get("c")) ? q.get("c") : this.defaultColour();
    if (data.symbols.includes(q.get("el")) && q.get("el")) s.element = q.get("el");
    s.crystals = q.get("crystals") !== "0";
    s.texts = q.get("texts") !== "0";
    s.elements = q.get("has") || "";
    s.filters = {};
    for (const text of q.getAll("f")) {
      const [key, word, ...values] = text.split(ClacMap.View.SEPARATOR);
      const column = data.column(key);
      if (!column) continue;
      if (word === "in" && !column.categories && values.every((v) => Number.isFinite(Number(v)))) {
        s.filters[key] = { range: values.slice(0, 2).map(Number) };
      } else if (word === "not" && column.categories) {
        s.filters[key] = { hidden: values };
      }
    }
    s.density = q.has("density") ? q.get("density") === "1" : null;
    s.theme = ["light", "dark"].includes(q.get("theme")) ? q.get("theme") : null;
    s.supercell = Math.min(Math.max(parseInt(q.get("cell"), 10) || 1, 1), 3);
    const v = (q.get("v") || "").split(",").map(Number);
    [s.x, s.y, s.zoom] = v.length === 3 && v.every(Number.isFinite) && v[2] > 0 ? v : [0, 0, 1];
  }

  /* Which crystals pass all filters: Uint8Array of n. */
  passing() {
    const { data, state } = this, result = new Uint8Array(data.n).fill(1);
    for (const [key, filter] of Object.entries(state.filters)) {
      const column = data.column(key), values = column.values;
      if (filter.range) {
        const [low, high] = filter.range;
        for (let i = 0; i < data.n; i++) if (!(values[i] >= low && values[i] <= high)) result[i] = 0;
      } else {
        const hidden = new Set(filter.hidden.map((name) =>
          (name === "" ? 255 : column.categories.indexOf(name))));
        for (let i = 0; i < data.n; i++) if (hidden.has(values[i])) result[i] = 0;
      }
    }
    const words = state.elements.match(/-?[A-Z][a-z]?/g) || [];
    const without = words.filter((w) => w[0] === "-").map((w) => w.slice(1));
    const having = words.filter((w) => w[0] !== "-");
    if (words.length) {
      for (let i = 0; i < data.n; i++) {
        const present = data.elementsOf(i);
        if (!having.every((e) => present.has(e)) || without.some((e) => present.has(e))) result[i] = 0;
      }
    }
    return result;
  }

  /* Which of all points are drawn: Uint8Array of n + m. */
  visible() {
    const { data, state } = this, pass = this.passing();
    const result = new Uint8Array(data.n + data.m);
    if (state.crystals) result.set(pass);
    if (state.texts) for (let j = 0; j < data.m; j++) result[data.n + j] = pass[data.textRow[j]];
    return result;
  }
};
