"use strict";
/* The data of the map. The files data/*.js call head() and block(): a page opened from a folder may
   load scripts, but may not fetch files. A block is base64 of gzip of little-endian numbers or JSON. */

window.ClacMap = (() => {
  const FORMAT = 1;
  const packed = new Map();
  let described = null;

  function head(values) { described = values; }
  function block(name, text) { packed.set(name, text); }

  async function bytes(name) {
    const text = packed.get(name);
    if (text === undefined) return null;
    packed.delete(name); // needed once; a large map should not be held twice
    const binary = atob(text);
    const array = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) array[i] = binary.charCodeAt(i);
    const stream = new Blob([array]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  async function numbers(name, Type) {
    const buffer = await bytes(name);
    return buffer && new Type(buffer);
  }

  async function json(name) {
    const buffer = await bytes(name);
    return buffer && JSON.parse(new TextDecoder().decode(buffer));
  }

  /* Everything that the map itself needs. Points 0..n-1 are crystals, n..n+m-1 are texts. */
  async function load() {
    if (!described) throw new Error("The folder data/ is missing. Copy the whole folder of the map.");
    if (described.format !== FORMAT) {
      throw new Error(`The data have format ${described.format}; this page reads format ${FORMAT}. ` +
        "Make the map again with `clac-jax map`.");
    }
    const n = described.crystals, m = described.texts;
    const data = { ...described, n, m, columns: [] };
    const points = await numbers("points", Float32Array);
    data.x = new Float32Array(n + m);
    data.y = new Float32Array(n + m);
    for (let i = 0; i < n + m; i++) {
      data.x[i] = points[2 * i];
      data.y[i] = points[2 * i + 1];
    }
    data.points = points;
    data.textRow = await numbers("text_rows", Int32Array);
    data.textOf = new Int32Array(n).fill(-1); // crystal -> its text
    data.textRow.forEach((row, text) => { data.textOf[row] = text; });
    const names = await json("names");
    data.ids = names.ids;
    data.formulas = names.formulas;
    for (const column of described.columns) {
      const values = await numbers(`column:${column.key}`,
        column.categories ? Uint8Array : Float32Array);
      data.columns.push({ ...column, values });
    }
    data.column = (key) => data.columns.find((column) => column.key === key);
    data.rowOf = new Map(data.ids.map((id, row) => [id, row]));
    data.rowOfPoint = (point) => (point < n ? point : data.textRow[point - n]);
    data.elementsOf = elementsReader(data.formulas);
    return data;
  }

  /* What is needed on a click or by a search; a map of very many crystals has none of it. */
  async function loadDetails(data) {
    data.sentences = await json("sentences");
    data.structures = await loadStructures();
    for (const name of ["vectors", "text_vectors"]) {
      const codes = await numbers(name, Int8Array);
      data[name] = codes && { codes, scales: await numbers(`${name}:scales`, Float32Array) };
    }
  }

  async function loadStructures() {
    const sizes = await numbers("sizes", Uint32Array);
    if (!sizes) return null;
    const lattices = await numbers("lattices", Float32Array);
    const elements = await numbers("numbers", Uint8Array);
    const coords = await numbers("coords", Float32Array);
    const starts = new Uint32Array(sizes.length + 1);
    sizes.forEach((size, i) => { starts[i + 1] = starts[i] + size; });
    return (row) => ({
      lattice: [0, 1, 2].map((k) => Array.from(lattices.subarray(9 * row + 3 * k, 9 * row + 3 * k + 3))),
      numbers: elements.subarray(starts[row], starts[row + 1]),
      coords: coords.subarray(3 * starts[row], 3 * starts[row + 1]),
    });
  }

  function elementsReader(formulas) {
    const known = new Map();
    return (row) => {
      if (!known.has(row)) known.set(row, new Set(formulas[row].match(/[A-Z][a-z]?/g) || []));
      return known.get(row);
    };
  }

  return { head, block, load, loadDetails };
})();
