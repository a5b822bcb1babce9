"use strict";
/* Search. Three kinds, and the page always says which one answered:
   - model: the server's model encodes the words (only under `clac-jax serve`);
   - words: the words are looked for in the stored texts and formulas, by BM25; no model is used;
   - crystal: nearest crystals by the vectors of the model, which are in the map itself. */

ClacMap.Search = class {
  static HITS = 50;
  static MARKED = 10; // best hits whose matching sentence the server names
  static COMMON = new Set(("a an and are as at be by for from has have in is it its of on or that " +
    "the this to which with").split(" "));

  constructor(data) {
    this.data = data;
    this.service = document.documentElement.dataset.service; // set by `clac-jax serve`
    this.health = null;
  }

  /* Asks the server for its model, and refuses one that is not that of the map. */
  async connect() {
    if (!this.service) return;
    try {
      const response = await fetch(`${this.service}health`);
      this.health = response.ok ? await response.json() : null;
    } catch { this.health = null; }
    if (!this.health) this.service = "";
    else if (this.health.index.checksum !== this.data.provenance.index) {
      this.service = ""; // its rows would be others
      throw new Error("The server searches a different index from the one on this map, so only words are " +
        "looked for. Make the map again with `clac-jax map`.");
    }
  }

  get kind() { return this.service ? "model" : "words"; }

  /* {kind, hits: [{row, score, sentence}], scores: (n) or null, took}; `text` may have -words. */
  async query(text) {
    const start = performance.now();
    const { wanted, unwanted } = parts(text);
    const found = this.service
      ? await this.ask(wanted, unwanted)
      : this.words(wanted, unwanted);
    return { ...found, took: performance.now() - start };

    function parts(whole) {
      const minus = [];
      const rest = whole.replace(/(^|\s)-("[^"]*"|\S+)/g, (_, space, word) => {
        minus.push(word.replaceAll('"', ""));
        return " ";
      });
      return { wanted: rest.replace(/\s+/g, " ").trim(), unwanted: minus.filter(Boolean) };
    }
  }

  ask(wanted, unwanted) {
    const query = { not: unwanted };
    if (wanted) query.text = wanted;
    return this.post({ ...query, sentences: false }).then((found) => ({ ...found,
      // The sentences that match take longer: the model encodes each of them.
      later: () => this.post({ ...query, k: ClacMap.Search.MARKED, scores: false }) }));
  }

  async post(query) {
    // Scores of all crystals colour the map; the server sends them for that many at most.
    const body = { k: ClacMap.Search.HITS, scores: this.data.n <= 100_000, ...query };
    const response = await fetch(`${this.service}search`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(answer.error || `The server answered ${response.status}.`);
    return { kind: "model", hits: answer.hits.map(({ row, score, sentence }) =>
      ({ row, score, sentence })), scores: answer.all ? halves(answer.all) : null };

    function halves(text) {
      const binary = atob(text), values = new Float32Array(binary.length / 2);
      for (let i = 0; i < values.length; i++) {
        const bits = binary.charCodeAt(2 * i) | (binary.charCodeAt(2 * i + 1) << 8);
        const exponent = (bits >> 10) & 31, fraction = bits & 1023;
        const size = exponent === 0 ? fraction * 2 ** -24
          : exponent === 31 ? NaN : (1 + fraction / 1024) * 2 ** (exponent - 15);
        values[i] = bits & 0x8000 ? -size : size;
      }
      return values;
    }
  }

  /* ---- words ---- */

  static tokens(text) {
    return (text.toLowerCase().match(/[\p{L}\p{N}][\p{L}\p{N}./³-]*/gu) || [])
      .map((word) => word.replace(/[.-]+$/, ""))
      .map((word) => (word.length > 3 && !/\d/.test(word) ? word.replace(/(?<![su])s$/, "") : word))
      .filter((word) => word && !ClacMap.Search.COMMON.has(word));
  }

  /* word -> [row, count, row, count, ...] over all texts, formulas and ids. */
  index() {
    if (this.postings) return;
    const { data } = this, postings = this.postings = new Map();
    this.lengths = new Float32Array(data.n);
    for (let row = 0; row < data.n; row++) {
      const sentences = data.sentences?.[row] || [];
      const { tokens, formulas } = ClacMap.Search, formula = data.formulas[row];
      const words = [...tokens([formula, data.ids[row], ...sentences].join(" ")),
        ...formulas(formula)];
      this.lengths[row] = words.length;
      const counts = new Map();
      for (const word of words) counts.set(word, (counts.get(word) || 0) + 1);
      for (const [word, count] of counts) {
        if (!postings.has(word)) postings.set(word, []);
        postings.get(word).push(row, count);
      }
    }
    this.meanLength = this.lengths.reduce((a, b) => a + b, 0) / data.n || 1;
  }

  weight(word) {
    const known = (this.postings.get(word)?.length || 0) / 2;
    return known ? Math.log(1 + (this.data.n - known + 0.5) / (known + 0.5)) : 0;
  }

  /* Formulas among the words with their elements in alphabetical order: "TiCaO3" is cao3ti. */
  static formulas(text) {
    return text.split(/\s+/).filter((word) => /^([A-Z][a-z]?\d*){2,}$/.test(word)).map((word) =>
      word.match(/[A-Z][a-z]?\d*/g).sort().join("").toLowerCase());
  }

  words(wanted, unwanted) {
    this.index();
    const { tokens, formulas } = ClacMap.Search;
    const scores = new Float32Array(this.data.n), words = [...new Set([...tokens(wanted), ...formulas(wanted)])];
    for (const word of words) {
      const weight = this.weight(word), list = this.postings.get(word) || [];
      for (let i = 0; i < list.length; i += 2) {
        const row = list[i], count = list[i + 1];
        scores[row] += weight * count * 2.2 /
          (count + 1.2 * (0.25 + 0.75 * this.lengths[row] / this.meanLength));
      }
    }
    for (const word of unwanted.flatMap(ClacMap.Search.tokens)) {
      const list = this.postings.get(word) || [];
      for (let i = 0; i < list.length; i += 2) scores[list[i]] = 0;
    }
    const hits = this.best(scores, -1).filter((hit) => hit.score > 0);
    for (const hit of hits) hit.sentence = this.sentence(hit.row, words);
    return { kind: "words", hits, scores };
  }

  /* The sentence of a crystal's text that has most of the words, the rarest counting most. */
  sentence(row, words) {
    let best = 0, found = null;
    for (const sentence of this.data.sentences?.[row] || []) {
      const present = new Set(ClacMap.Search.tokens(sentence));
      const score = words.reduce((sum, word) => sum + (present.has(word) ? this.weight(word) : 0), 0);
      if (score > best) { best = score; found = sentence; }
    }
    return found;
  }

  /* ---- vectors ---- */

  /* Cosines of all crystals ("vectors") or texts ("text_vectors") with one of them. */
  cosines(of, index, among) {
    const d = this.data.dimension, a = this.data[of], b = this.data[among];
    if (!a || !b) return null;
    const query = Float32Array.from(a.codes.subarray(d * index, d * index + d), (code) =>
      code * a.scales[index]);
    const count = b.scales.length, result = new Float32Array(count);
    for (let i = 0, at = 0; i < count; i++) {
      let sum = 0;
      for (let k = 0; k < d; k++) sum += query[k] * b.codes[at++];
      result[i] = sum * b.scales[i];
    }
    return result;
  }

  /* The crystals most like one of them: by the vectors of the page, or else by the server. */
  async like(row) {
    const start = performance.now(), scores = this.cosines("vectors", row, "vectors");
    if (!scores && !this.service) return null;
    if (!scores) {
      const found = await this.post({ row });
      const hits = found.hits.filter((hit) => hit.row !== row);
      return { ...found, hits, kind: "crystal", took: performance.now() - start };
    }
    return { kind: "crystal", hits: this.best(scores, row), scores,
      took: performance.now() - start };
  }

  /* The rows with the highest scores. */
  best(scores, except, k = ClacMap.Search.HITS) {
    const rows = Array.from(scores.keys()).filter((row) => row !== except && !Number.isNaN(scores[row]));
    rows.sort((a, b) => scores[b] - scores[a] || a - b);
    return rows.slice(0, k).map((row) => ({ row, score: scores[row], sentence: null }));
  }
};
