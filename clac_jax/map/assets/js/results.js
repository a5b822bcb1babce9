"use strict";
/* The table of hits, and the list of a lasso selection. */

ClacMap.Results = class {
  static NOTES = {
    model: "ranked by the model",
    words: "word search in the stored texts: no model is used here",
    crystal: "nearest by the model's vectors",
  };

  constructor(data, view, actions) {
    Object.assign(this, { data, view, actions });
    this.root = document.getElementById("results");
    this.body = document.getElementById("hits");
    this.body.addEventListener("keydown", (event) => this.key(event));
    document.getElementById("results-clear").onclick = () => actions.clear();
    document.getElementById("selection-clear").onclick = () => this.select(null);
    document.getElementById("selection-csv").onclick = () => this.csv();
    this.selection = null;
  }

  /* Shows a result, or hides the table for null. */
  show(result, title) {
    const { el } = ClacMap, { data } = this;
    this.root.hidden = !result;
    if (!result) return;
    document.getElementById("results-title").textContent = title;
    const pass = this.view.passing();
    const hits = result.hits.filter((hit) => pass[hit.row]);
    const without = result.hits.length - hits.length;
    document.getElementById("results-note").textContent = [
      hits.length ? `${hits.length} best` : "Nothing found", ClacMap.Results.NOTES[result.kind],
      without ? `${without} hidden by filters` : "", `${Math.max(1, Math.round(result.took))} ms`,
    ].filter(Boolean).join(" · ");
    document.getElementById("score-title").textContent = result.kind === "words" ? "BM25" : "Cosine";
    this.hits = hits;
    this.body.replaceChildren(...hits.map((hit, rank) => el("tr", { onclick: () => this.actions.open(hit.row) },
      el("td", { className: "num" }, String(rank + 1)),
      el("td", {}, el("button", { type: "button", className: "link", "data-row": String(hit.row) },
        ClacMap.formula(data.formulas[hit.row]))),
      el("td", { className: "id" }, data.ids[hit.row]),
      el("td", { className: "num" }, hit.score.toFixed(3)))));
    this.mark();
  }

  mark() {
    for (const row of this.body.rows) {
      const isOpen = Number(row.querySelector("button").dataset.row) === this.view.state.selected;
      row.classList.toggle("open", isOpen);
      row.ariaSelected = String(isOpen);
    }
  }

  /* Up and down between the hits. */
  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.move(step, document.activeElement);
  }

  /* Opens the next or previous hit. */
  move(step, from) {
    const buttons = [...this.body.querySelectorAll("button")];
    if (!buttons.length) return;
    let at = buttons.indexOf(from);
    if (at < 0) at = buttons.findIndex((b) => Number(b.dataset.row) === this.view.state.selected);
    const next = buttons[Math.min(Math.max(at + step, 0), buttons.length - 1)];
    next.focus({ preventScroll: true });
    next.closest("tr").scrollIntoView({ block: "nearest" });
    this.actions.open(Number(next.dataset.row));
  }

  /* ---- lasso ---- */

  select(rows) {
    const { el } = ClacMap, { data } = this;
    this.selection = rows?.length ? rows : null;
    document.getElementById("selection").hidden = !this.selection;
    this.actions.selected(this.selection);
    if (!this.selection) return;
    document.getElementById("selection-count").textContent =
      `${rows.length.toLocaleString("en")} ${rows.length === 1 ? "crystal" : "crystals"}`;
    document.getElementById("selection-list").replaceChildren(...rows.slice(0, 200).map((row) => el("li", {},
      el("button", { type: "button", className: "link", onclick: () => this.actions.open(row) },
        ClacMap.formula(data.formulas[row])), el("span", { className: "id" }, data.ids[row]))));
  }

  csv() {
    const { columns, ids, formulas } = this.data;
    const quoted = (value) => {
      const text = String(value ?? "");
      // A spreadsheet would run a text that begins like a formula.
      const safe = /^[=+@\t]|^-[^\d.]/.test(text) ? `'${text}` : text;
      return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    const value = (c, row) => (!ClacMap.colours.isKnown(c, row) ? ""
      : c.categories ? c.categories[c.values[row]] : Number(c.values[row].toPrecision(7)));
    const lines = [["id", "formula", ...columns.map((c) => c.key)],
      ...this.selection.map((row) => [ids[row], formulas[row], ...columns.map((c) => value(c, row))])];
    ClacMap.download("selection.csv", lines.map((line) => line.map(quoted).join(",")).join("\n") + "\n", "text/csv");
  }
};
