"use strict";
/* What lies over the points: the selected crystal, numbered hits, the line from a crystal to its
   text, the lasso; and everything the pointer and the keys do on the map. */

ClacMap.Overlay = class {
  static REACH = 12; // pixels from the pointer within which a point is picked

  constructor(canvas, data, view, actions) {
    Object.assign(this, { canvas, data, view, actions });
    this.hovered = -1;
    this.hits = [];
    this.lasso = null;
    this.tool = "pan";
    this.selection = null;
    this.listen();
  }

  camera() {
    const { x, y, zoom } = this.view.state;
    const width = this.canvas.clientWidth, height = this.canvas.clientHeight;
    return { x, y, width, height, unit: 0.46 * Math.min(width, height) * zoom };
  }

  place(point, camera = this.camera()) {
    return [
      camera.width / 2 + (this.data.x[point] - camera.x) * camera.unit,
      camera.height / 2 - (this.data.y[point] - camera.y) * camera.unit,
    ];
  }

  /* The visible point nearest to a place on the canvas, or -1. */
  pick(left, top, reach = ClacMap.Overlay.REACH) {
    const camera = this.camera(), { x, y } = this.data;
    const u = camera.x + (left - camera.width / 2) / camera.unit;
    const v = camera.y - (top - camera.height / 2) / camera.unit;
    let best = (reach / camera.unit) ** 2, found = -1;
    for (let i = 0; i < x.length; i++) {
      const away = (x[i] - u) ** 2 + (y[i] - v) ** 2;
      if (away < best && this.visible[i]) { best = away; found = i; }
    }
    return found;
  }

  /* ---- drawing ---- */

  draw(density) {
    const ratio = window.devicePixelRatio || 1, camera = this.camera(), canvas = this.canvas;
    const width = Math.round(camera.width * ratio), height = Math.round(camera.height * ratio);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const ink = canvas.getContext("2d");
    ink.setTransform(ratio, 0, 0, ratio, 0, 0);
    ink.clearRect(0, 0, camera.width, camera.height);
    if (density) this.drawDensity(ink, density, camera);
    const style = getComputedStyle(document.documentElement);
    this.ink = { text: style.getPropertyValue("--ink"), paper: style.getPropertyValue("--paper"),
      accent: style.getPropertyValue("--accent") };
    ink.font = "600 11px system-ui, sans-serif";
    this.drawSelection(ink, camera);
    this.hits.forEach((row, rank) => this.drawHit(ink, row, rank, camera));
    const selected = this.view.state.selected;
    if (selected >= 0) {
      this.drawPair(ink, selected, camera);
      this.drawRing(ink, selected, 9, 2.5, camera);
      this.drawLabel(ink, selected, camera);
    }
    if (this.hovered >= 0) {
      const row = this.data.rowOfPoint(this.hovered);
      this.drawPair(ink, row, camera);
      this.drawRing(ink, this.hovered, 7, 1.5, camera);
    }
    if (this.lasso) this.drawLasso(ink);
  }

  drawDensity(ink, density, camera) {
    const sheet = this.sheet ||= document.createElement("canvas");
    sheet.width = density.image.width;
    sheet.height = density.image.height;
    sheet.getContext("2d").putImageData(density.image, 0, 0);
    ink.imageSmoothingEnabled = false;
    ink.drawImage(sheet, 0, 0, density.cell * sheet.width, density.cell * sheet.height);
  }

  drawRing(ink, point, radius, width, camera) {
    const [left, top] = this.place(point, camera);
    for (const [colour, extra] of [[this.ink.paper, 2.5], [this.ink.text, 0]]) {
      ink.strokeStyle = colour;
      ink.lineWidth = width + extra;
      ink.beginPath();
      if (point < this.data.n) ink.arc(left, top, radius, 0, 7);
      else {
        ink.moveTo(left, top - radius - 2);
        ink.lineTo(left + radius + 2, top);
        ink.lineTo(left, top + radius + 2);
        ink.lineTo(left - radius - 2, top);
        ink.closePath();
      }
      ink.stroke();
    }
  }

  /* A line from a crystal to its text, if both are on the map. */
  drawPair(ink, row, camera) {
    const text = this.data.textOf[row];
    if (text < 0) return;
    const [a, b] = this.place(row, camera), [c, d] = this.place(this.data.n + text, camera);
    for (const [colour, width] of [[this.ink.paper, 4], [this.ink.text, 1.5]]) {
      ink.strokeStyle = colour;
      ink.lineWidth = width;
      ink.beginPath();
      ink.moveTo(a, b);
      ink.lineTo(c, d);
      ink.stroke();
    }
    this.drawRing(ink, this.data.n + text, 4, 1.5, camera);
    this.drawRing(ink, row, 4, 1.5, camera);
  }

  drawHit(ink, row, rank, camera) {
    const [left, top] = this.place(row, camera);
    ink.beginPath();
    ink.arc(left, top, rank < 10 ? 8.5 : 5.5, 0, 7);
    ink.fillStyle = rank < 10 ? this.ink.accent : "transparent";
    ink.strokeStyle = rank < 10 ? this.ink.paper : this.ink.accent;
    ink.lineWidth = 1.5;
    ink.fill();
    ink.stroke();
    if (rank >= 10) return;
    ink.fillStyle = "#fff";
    ink.textAlign = "center";
    ink.textBaseline = "middle";
    ink.font = `600 ${rank < 9 ? 11 : 9}px system-ui, sans-serif`;
    ink.fillText(rank + 1, left, top + 0.5);
  }

  drawLabel(ink, row, camera) {
    const [left, top] = this.place(row, camera), text = this.data.formulas[row].replace(/\d/g, (digit) => "₀₁₂₃₄₅₆₇₈₉"[digit]);
    ink.font = "600 13px system-ui, sans-serif";
    ink.textAlign = "left";
    ink.textBaseline = "middle";
    ink.lineWidth = 4;
    ink.lineJoin = "round";
    ink.strokeStyle = this.ink.paper;
    ink.strokeText(text, left + 14, top);
    ink.fillStyle = this.ink.text;
    ink.fillText(text, left + 14, top);
  }

  drawSelection(ink, camera) {
    if (!this.selection) return;
    ink.strokeStyle = this.ink.text;
    ink.lineWidth = 1;
    ink.beginPath();
    for (const row of this.selection) {
      if (!this.visible[row]) continue;
      const [left, top] = this.place(row, camera);
      ink.moveTo(left + 4.5, top);
      ink.arc(left, top, 4.5, 0, 7);
    }
    ink.stroke();
  }

  drawLasso(ink) {
    ink.beginPath();
    this.lasso.forEach(([left, top], i) => (i ? ink.lineTo(left, top) : ink.moveTo(left, top)));
    ink.closePath();
    ink.globalAlpha = 0.12;
    ink.fillStyle = this.ink.accent;
    ink.fill();
    ink.globalAlpha = 1;
    ink.strokeStyle = this.ink.accent;
    ink.lineWidth = 1.5;
    ink.stroke();
  }

  /* ---- pointer ---- */

  listen() {
    const canvas = this.canvas;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    let start = null, moved = false;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      const { x, y } = this.view.state;
      start = { at: at(event), x, y, lasso: this.tool === "lasso" || event.shiftKey };
      moved = false;
      if (start.lasso) this.lasso = [start.at];
    });
    canvas.addEventListener("pointermove", (event) => {
      const [left, top] = at(event);
      if (!start) {
        this.hover(this.pick(left, top));
        return;
      }
      if (Math.hypot(left - start.at[0], top - start.at[1]) > 3) moved = true;
      if (!moved) return;
      if (start.lasso) {
        this.lasso.push([left, top]);
        this.actions.redraw();
      } else {
        const { unit } = this.camera();
        canvas.classList.add("moving");
        this.view.set({ x: start.x - (left - start.at[0]) / unit,
          y: start.y + (top - start.at[1]) / unit });
      }
    });
    const end = (event) => {
      if (!start) return;
      const wasLasso = start.lasso, [left, top] = at(event);
      start = null;
      canvas.classList.remove("moving");
      if (wasLasso && moved) this.select(this.lasso);
      this.lasso = null;
      if (!moved) {
        const point = this.pick(left, top);
        if (point >= 0) this.actions.open(this.data.rowOfPoint(point));
      }
      this.actions.redraw();
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", () => { start = null; this.lasso = null; });
    canvas.addEventListener("pointerleave", () => this.hover(-1));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), at(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  hover(point) {
    if (point === this.hovered) return;
    this.hovered = point;
    this.actions.hover(point);
  }

  /* Zooms about a place on the canvas, by default its centre. */
  zoom(factor, [left, top] = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2]) {
    const camera = this.camera(), state = this.view.state;
    const zoom = Math.min(Math.max(state.zoom * factor, 0.3), 400);
    const keep = 1 / camera.unit - state.zoom / zoom / camera.unit;
    this.view.set({ zoom, x: state.x + (left - camera.width / 2) * keep,
      y: state.y - (top - camera.height / 2) * keep });
  }

  /* The crystals inside a polygon of places on the canvas. */
  select(polygon) {
    const camera = this.camera(), rows = [];
    for (let i = 0; i < this.data.n; i++) {
      if (this.visible[i] && inside(this.place(i, camera), polygon)) rows.push(i);
    }
    this.actions.select(rows);

    function inside([x, y], corners) {
      let odd = false;
      for (let i = 0, j = corners.length - 1; i < corners.length; j = i++) {
        const [a, b] = corners[i], [c, d] = corners[j];
        if ((b > y) !== (d > y) && x < (c - a) * (y - b) / (d - b) + a) odd = !odd;
      }
      return odd;
    }
  }

  /* ---- keys ---- */

  key(event) {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const arrow = arrows[event.key];
    if (!arrow || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (event.shiftKey) {
      const step = 60 / this.camera().unit;
      this.view.set({ x: this.view.state.x + step * arrow[0], y: this.view.state.y + step * arrow[1] });
      return;
    }
    const row = this.neighbour(this.view.state.selected, arrow);
    if (row >= 0) this.actions.open(row);
  }

  /* The nearest visible crystal in a direction; from the centre if none is selected. */
  neighbour(row, [right, up]) {
    const { x, y, n } = this.data, state = this.view.state;
    const [u, v] = row >= 0 ? [x[row], y[row]] : [state.x, state.y];
    let best = Infinity, found = -1;
    for (let i = 0; i < n; i++) {
      if (i === row || !this.visible[i]) continue;
      const dx = x[i] - u, dy = y[i] - v;
      const along = dx * right + dy * up, aside = Math.abs(dx * up - dy * right);
      if (row >= 0 && (along <= 0 || aside > along)) continue;
      const cost = row >= 0 ? along + 1.5 * aside : Math.hypot(dx, dy);
      if (cost < best) { best = cost; found = i; }
    }
    return found;
  }
};
