"use strict";
/* The points, in WebGL 2: crystals are discs, texts are diamonds. A point that is filtered out is not
   drawn. As density, the points are counted per cell of a grid and drawn as an image instead. */

ClacMap.Scatter = class {
  static VERTEX = `#version 300 es
    in vec2 place; in vec4 colour; in float kind;
    uniform vec2 centre; uniform vec2 scale; uniform float size; uniform vec2 faint;
    out vec4 tint; flat out float shape; flat out float extent;
    void main() {
      gl_Position = vec4((place - centre) * scale, 0.0, 1.0);
      shape = mod(kind, 2.0);
      extent = size * (shape > 0.5 ? 0.95 : 1.0) + 2.0;
      gl_PointSize = extent;
      tint = vec4(colour.rgb, colour.a * (shape > 0.5 ? faint.y : faint.x));
      if (kind >= 2.0) gl_Position = vec4(2.0, 2.0, 2.0, 1.0); // filtered out
    }`;
  static FRAGMENT = `#version 300 es
    precision highp float;
    in vec4 tint; flat in float shape; flat in float extent; uniform vec3 edge;
    out vec4 result;
    void main() {
      vec2 at = (gl_PointCoord - 0.5) * extent;
      float radius = extent * 0.5 - 1.0;
      float inside;
      vec3 colour = tint.rgb;
      if (shape > 0.5) { // a hollow diamond
        float away = abs(at.x) + abs(at.y);
        inside = clamp(radius - away + 0.5, 0.0, 1.0);
        inside *= mix(1.0, 0.35, clamp(radius - 1.6 - away, 0.0, 1.0));
      } else {
        float away = length(at);
        inside = clamp(radius - away + 0.5, 0.0, 1.0);
        if (radius > 2.5) colour = mix(colour, edge, 0.55 * clamp(away - radius + 1.2, 0.0, 1.0));
      }
      float alpha = tint.a * inside;
      result = vec4(colour * alpha, alpha);
    }`;
  static KIND_TEXT = 1;
  static KIND_HIDDEN = 2;

  constructor(canvas, data) {
    this.canvas = canvas;
    this.data = data;
    this.kinds = new Uint8Array(data.n + data.m).fill(1, data.n);
    const gl = canvas.getContext("webgl2", { antialias: false, premultipliedAlpha: true });
    if (!gl) throw new Error("This browser has no WebGL 2, with which the points are drawn.");
    this.gl = gl;
    this.density = null;
    this.order = null;
    this.start();
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => { this.start(); this.restore?.(); });
  }

  start() {
    const gl = this.gl;
    const program = this.program = gl.createProgram();
    for (const [type, text] of [[gl.VERTEX_SHADER, this.constructor.VERTEX],
      [gl.FRAGMENT_SHADER, this.constructor.FRAGMENT]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) {
        throw new Error(gl.getShaderInfoLog(shader));
      }
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.at = {};
    for (const name of ["centre", "scale", "size", "faint", "edge"]) {
      this.at[name] = gl.getUniformLocation(program, name);
    }
    const attribute = (name, values, size, type, normalized) => {
      const buffer = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.DYNAMIC_DRAW);
      const place = gl.getAttribLocation(program, name);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, size, type, normalized, 0, 0);
      return buffer;
    };
    const total = this.data.n + this.data.m;
    attribute("place", this.data.points, 2, gl.FLOAT, false);
    this.colourBuffer = attribute("colour", this.colours || new Uint8Array(4 * total), 4,
      gl.UNSIGNED_BYTE, true);
    this.kindBuffer = attribute("kind", this.kinds, 1, gl.UNSIGNED_BYTE, false);
    this.orderBuffer = gl.createBuffer();
    if (this.order) this.setOrder(this.order);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  /* Colours of the crystals (4 n); a text has that of its crystal unless `texts` (4 m) is given. */
  setColours(colours, texts) {
    const { n, m, textRow } = this.data;
    this.colours = new Uint8Array(4 * (n + m));
    this.colours.set(colours);
    for (let j = 0; j < m; j++) {
      const from = texts ? 4 * j : 4 * textRow[j];
      this.colours.set((texts || colours).subarray(from, from + 4), 4 * (n + j));
    }
    this.upload(this.colourBuffer, this.colours);
  }

  setVisible(visible) {
    for (let i = 0; i < visible.length; i++) {
      this.kinds[i] = (i >= this.data.n ? 1 : 0) + (visible[i] ? 0 : 2);
    }
    this.visible = visible;
    this.upload(this.kindBuffer, this.kinds);
  }

  /* The order of drawing: later points lie on top. */
  setOrder(order) {
    this.order = order;
    this.gl.bindBuffer(this.gl.ELEMENT_ARRAY_BUFFER, this.orderBuffer);
    this.gl.bufferData(this.gl.ELEMENT_ARRAY_BUFFER, order, this.gl.DYNAMIC_DRAW);
  }

  upload(buffer, values) {
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, buffer);
    this.gl.bufferSubData(this.gl.ARRAY_BUFFER, 0, values);
  }

  /* Draws; `camera` has the centre (x, y) and `unit`, the pixels per unit of the map. */
  draw(camera, style) {
    const gl = this.gl, ratio = window.devicePixelRatio || 1;
    const width = Math.round(camera.width * ratio), height = Math.round(camera.height * ratio);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    if (style.density) return;
    gl.uniform2f(this.at.centre, camera.x, camera.y);
    gl.uniform2f(this.at.scale, 2 * camera.unit / camera.width, 2 * camera.unit / camera.height);
    gl.uniform1f(this.at.size, style.size * ratio);
    gl.uniform2f(this.at.faint, style.alpha, style.textAlpha);
    gl.uniform3fv(this.at.edge, style.edge);
    gl.drawElements(gl.POINTS, this.order.length, gl.UNSIGNED_INT, 0);
  }

  /* An image of log(1 + points per cell) in viridis, with cells of `cell` pixels. */
  densityImage(camera, cell) {
    const columns = Math.ceil(camera.width / cell), rows = Math.ceil(camera.height / cell);
    const counts = new Float32Array(columns * rows);
    const { x, y } = this.data, unit = camera.unit / cell;
    const left = camera.x - camera.width / 2 / camera.unit;
    const top = camera.y + camera.height / 2 / camera.unit;
    let most = 0;
    for (let i = 0; i < x.length; i++) {
      if (!this.visible[i]) continue;
      const column = Math.floor((x[i] - left) * unit), row = Math.floor((top - y[i]) * unit);
      if (column < 0 || row < 0 || column >= columns || row >= rows) continue;
      const count = ++counts[row * columns + column];
      if (count > most) most = count;
    }
    const image = new ImageData(columns, rows), full = Math.log1p(most) || 1;
    for (let i = 0; i < counts.length; i++) {
      if (!counts[i]) continue;
      image.data.set(ClacMap.colours.viridis(Math.log1p(counts[i]) / full), 4 * i);
      image.data[4 * i + 3] = 255;
    }
    return { image, most };
  }
};
