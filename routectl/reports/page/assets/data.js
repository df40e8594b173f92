// The document inside the page, and what charts ask of it: counts by layer and position for what
// the toolbar selects. Indices: p place, l layer (its index), b bin of positions, t token.

const doc = JSON.parse(document.getElementById("document").textContent);
const detail = doc.detail ?? null;
const schema = String(doc.schema).replace(/^routectl\.|\/\d+$/g, "");
const layerNumbers = (doc.layers ?? []).map((entry) => entry.layer);

const sum = (values) => values.reduce((a, b) => a + b, 0);
const zeros = (rows, columns) => Array.from({ length: rows }, () => new Array(columns).fill(0));
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const bitAt = (bytes, i) => (bytes[i >> 3] >> (i & 7)) & 1;

/** One of the worst sequences: every row of it, both sides. */
class Sequence {
  constructor(entry) {
    this.entry = entry;
    this.tokens = entry.kept;
    this.layers = layerNumbers.length;
    this.topK = doc.old.top_k;
    const ids = (text) =>
      entry.id_bytes === 2 ? new Uint16Array(bytesOf(text).buffer) : bytesOf(text);
    this.old = ids(entry.old);
    this.changed = ids(entry.new_mismatched);
    this.marks = bytesOf(entry.differs);
    this.gaps = entry.missing === null ? null : bytesOf(entry.missing);
    this.rank = new Int32Array(this.tokens * this.layers + 1); // mismatched rows before each row
    for (let row = 0; row < this.tokens * this.layers; row++) {
      this.rank[row + 1] = this.rank[row] + bitAt(this.marks, row);
    }
  }

  position(t) {
    return this.entry.position + t;
  }
  place(t) {
    const end = this.entry.prompt_length;
    return end === null ? "unknown" : this.position(t) < end ? "prompt" : "response";
  }
  differs(t, l) {
    return bitAt(this.marks, t * this.layers + l) === 1;
  }
  missing(t, l) {
    return this.gaps !== null && bitAt(this.gaps, t * this.layers + l) === 1;
  }

  /** The ids of both sides of a row, sorted. */
  sets(t, l) {
    const row = t * this.layers + l;
    const take = (ids, at) =>
      [...ids.subarray(at * this.topK, (at + 1) * this.topK)].sort((a, b) => a - b);
    const old = take(this.old, row);
    return { old, new: this.differs(t, l) ? take(this.changed, this.rank[row]) : old };
  }

  /** How many ids a row differs by. */
  swap(t, l) {
    const { old, new: now } = this.sets(t, l);
    const a = new Set(old),
      b = new Set(now);
    return Math.max(a.size, b.size) - [...a].filter((id) => b.has(id)).length;
  }
}

const sequences = (detail?.sequences ?? []).map((entry) => {
  let whole = null;
  return {
    entry,
    get whole() {
      return (whole ??= new Sequence(entry));
    },
  };
});

/** Layers by index that a view shows. */
const shownLayers = (view) =>
  [...layerNumbers.keys()].filter(
    (l) => layerNumbers[l] >= view.from && layerNumbers[l] <= view.to,
  );

/** Whether a view leaves nothing out: then the document's own figures hold. */
const isWhole = (view) => view.place === "all" && view.sequence === null;

/** What is said before figures that no filter counts again, where a view leaves something out. */
function ofAll(view, layersFollow) {
  const layers = shownLayers(view).length === layerNumbers.length || layersFollow;
  if (isWhole(view) && layers) return "";
  return layersFollow ? "Of all tokens and samples: " : "Of the whole run, not of the selection: ";
}

/** Counts of all samples. Entries that cannot be told for a view are null. */
function countsOfAll(view) {
  const shown = shownLayers(view);
  const places = (detail?.places ?? []).filter(
    (p) => view.place === "all" || p.place === view.place,
  );
  const bins = Math.max(0, ...places.map((p) => p.rows[0].length));
  const rows = zeros(shown.length, bins),
    bad = zeros(shown.length, bins);
  for (const p of places) {
    shown.forEach((l, i) => {
      for (let b = 0; b < bins; b++) {
        rows[i][b] += p.rows[l][b];
        bad[i][b] += p.rows_mismatched[l][b];
      }
    });
  }
  const own = shown.map((l) => doc.layers[l]);
  const every = shown.length === layerNumbers.length;
  return {
    shown,
    width: detail?.bin_width ?? 1,
    first: 0,
    rows,
    bad,
    layerRows: isWhole(view) ? own.map((e) => e.rows) : rows.map(sum),
    layerBad: isWhole(view) ? own.map((e) => e.rows_mismatched) : bad.map(sum),
    depth: !every
      ? null
      : view.place === "all"
        ? doc.tokens_by_differing_layers
        : places
            .map((p) => p.tokens_by_differing_layers)
            .reduce((a, b) => a.map((n, i) => n + b[i])),
    swaps:
      view.place !== "all"
        ? null
        : own
            .map((e) => e.swaps)
            .reduce((a, b) => a.map((n, i) => n + b[i]), new Array(doc.old.top_k + 1).fill(0)),
  };
}

/** Counts of one of the worst sequences. */
function countsOfOne(view) {
  const seq = sequences[view.sequence].whole;
  const shown = shownLayers(view);
  const width = Math.max(1, Math.ceil(seq.tokens / 128));
  const bins = Math.ceil(seq.tokens / width);
  const rows = zeros(shown.length, bins),
    bad = zeros(shown.length, bins);
  const depth = new Array(shown.length + 1).fill(0),
    swaps = new Array(seq.topK + 1).fill(0);
  for (let t = 0; t < seq.tokens; t++) {
    if (view.place !== "all" && seq.place(t) !== view.place) continue;
    let differing = 0,
      there = 0;
    shown.forEach((l, i) => {
      if (seq.missing(t, l)) return;
      there++;
      rows[i][Math.floor(t / width)]++;
      if (!seq.differs(t, l)) return void swaps[0]++;
      differing++;
      bad[i][Math.floor(t / width)]++;
      swaps[seq.swap(t, l)]++;
    });
    if (there) depth[differing]++;
  }
  return {
    shown,
    width,
    first: seq.entry.position,
    rows,
    bad,
    depth,
    swaps,
    layerRows: rows.map(sum),
    layerBad: bad.map(sum),
  };
}

/** What a view shows: counts by layer and bin, by layer, by differing layers, by swapped ids. */
const countsOf = (view) => (view.sequence === null ? countsOfAll(view) : countsOfOne(view));
