// The document inside the page, and what charts ask of it: counts by layer and position for what
// the toolbar selects. Indices: p place, l layer (its index), b bin of positions, t token.

const saved = JSON.parse(document.getElementById("document").textContent);
const modes = saved.schema === "routectl.recompute/1" ? saved.comparisons : [];
// what is drawn: of a recompute, the dump against its first mode
const doc = modes.length ? { ...modes[0].diff, detail: saved.detail } : saved;
const detail = doc.detail ?? null;
const schemaOf = (one) => String(one.schema).replace(/^routectl\.|\/\d+$/g, "");
const schema = schemaOf(doc);
const layerNumbers = (doc.layers ?? []).map((entry) => entry.layer);

const sum = (values) => values.reduce((a, b) => a + b, 0);
const zeros = (rows, columns) => Array.from({ length: rows }, () => new Array(columns).fill(0));
const addedUp = (lists) => lists.reduce((a, b) => a.map((n, i) => n + b[i]));
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
/** Unsigned integers of so many bytes, little-endian. */
const integersOf = (text, size) => {
  const bytes = bytesOf(text);
  return size === 4
    ? new Uint32Array(bytes.buffer)
    : size === 2
      ? new Uint16Array(bytes.buffer)
      : bytes;
};

/** The value of a float16 that is not negative; null where it is NaN: a margin not known. */
function halfOf(pattern) {
  if (pattern > 0x7c00) return null;
  if (pattern === 0x7c00) return Infinity;
  const exponent = pattern >> 10,
    fraction = pattern & 1023;
  return exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
}
const bitAt = (bytes, i) => (bytes[i >> 3] >> (i & 7)) & 1;

/** One of the worst sequences: every row of it, both sides. */
class Sequence {
  constructor(entry) {
    this.entry = entry;
    this.tokens = entry.kept;
    this.layers = layerNumbers.length;
    this.topK = doc.old.top_k;
    this.old = integersOf(entry.old, entry.id_bytes);
    this.changed = integersOf(entry.new_mismatched, entry.id_bytes);
    const margins = (text) => (text ? integersOf(text, 2) : null);
    this.margins = [margins(entry.old_margins), margins(entry.new_margins)];
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

  /** The margins of a mismatched row on each side, null where one is not known. */
  marginsOf(t, l) {
    const at = this.rank[t * this.layers + l];
    return this.margins.map((side) => (side === null ? null : halfOf(side[at])));
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
