"use strict";
/* Colours: categories that colour-blind readers can tell apart (after Okabe and Ito), and viridis,
   whose steps look alike everywhere, for numbers. */

ClacMap.colours = (() => {
  const CATEGORIES = {
    light: ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00",
      "#8a7d00", "#6a51a3", "#7f7f7f", "#8c564b", "#17a2a2", "#b2df8a"],
    dark: ["#4aa8e0", "#f0b030", "#2cc295", "#e39bc4", "#8fd0f5", "#f07f3a",
      "#d8cc3c", "#a793e0", "#a8a8a8", "#c49c94", "#4fd0d0", "#b2df8a"],
  };
  const UNKNOWN = { light: "#c3c7cf", dark: "#4a5060" };
  const VIRIDIS = ["#440154", "#482374", "#404388", "#345e8d", "#29788e", "#20908c", "#22a784",
    "#44be70", "#79d151", "#bdde26", "#fde725"].map(parse);
  const NO_VALUE = 255;

  function parse(hex) {
    return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  }

  /* A share from 0 to 1 -> [r, g, b]. */
  function viridis(share) {
    const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
    const i = Math.min(Math.floor(place), VIRIDIS.length - 2), t = place - i;
    return VIRIDIS[i].map((c, k) => Math.round(c + (VIRIDIS[i + 1][k] - c) * t));
  }

  function css([r, g, b]) { return `rgb(${r}, ${g}, ${b})`; }

  /* A function value -> share of the scale of a column. */
  function scale(column) {
    const { low, high } = column;
    if (column.log && low > 0) {
      const a = Math.log(low), b = Math.log(high);
      return (value) => (Math.log(value) - a) / (b - a);
    }
    return (value) => (value - low) / (high - low);
  }

  /* The value at a share of the scale: the inverse of `scale`. */
  function valueAt(column, share) {
    const { low, high } = column;
    if (column.log && low > 0) return Math.exp(Math.log(low) + share * Math.log(high / low));
    return low + share * (high - low);
  }

  function swatch(code, theme) {
    return CATEGORIES[theme][code % CATEGORIES[theme].length];
  }

  /* Colours of n crystals: Uint8Array of 4 n. */
  function paint(column, n, theme) {
    const result = new Uint8Array(4 * n);
    const unknown = parse(UNKNOWN[theme]);
    const at = column.categories ? null : scale(column);
    const swatches = column.categories && column.categories.map((_, i) => parse(swatch(i, theme)));
    for (let i = 0; i < n; i++) {
      const value = column.values[i];
      let colour = unknown;
      if (swatches) { if (value !== NO_VALUE) colour = swatches[value]; }
      else if (Number.isFinite(value)) colour = viridis(at(value));
      result.set(colour, 4 * i);
      // Poor matches fade, so that the good ones are seen in a crowd.
      result[4 * i + 3] = !column.fades ? 255 : Number.isFinite(value)
        ? 255 * Math.min(Math.max(0.3 + at(value), 0.3), 1) : 50;
    }
    return result;
  }

  function isKnown(column, row) {
    const value = column.values[row];
    return column.categories ? value !== NO_VALUE : Number.isFinite(value);
  }

  /* A number in at most four digits. */
  function format(value) {
    if (!Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size >= 1e5 || size < 1e-3)) return value.toExponential(1);
    if (Number.isInteger(value)) return value.toLocaleString("en");
    return String(Number(value.toPrecision(size < 1 ? 3 : 4)));
  }

  function show(column, row) {
    if (!isKnown(column, row)) return null;
    const value = column.values[row];
    return column.categories ? column.categories[value] : format(value);
  }

  return { UNKNOWN, parse, viridis, css, scale, valueAt, swatch, paint, isKnown, format, show };
})();
