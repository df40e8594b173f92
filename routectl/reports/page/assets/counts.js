// What a selection adds up to: of all samples, by the counts of each place; of one of the worst
// sequences, row by row. Indices: p place, l layer (its index), b bin, s number of swapped ids.

/** Layers by index that a view shows. */
const shownLayers = (view) =>
  [...layerNumbers.keys()].filter(
    (l) => layerNumbers[l] >= view.from && layerNumbers[l] <= view.to,
  );

const allLayers = (view) => shownLayers(view).length === layerNumbers.length;

/** Whether a view leaves nothing out: then the document's own figures hold. */
const isWhole = (view) => view.place === "all" && view.sequence === null;

/** What a view shows, in words; empty where that is everything. */
function selectionOf(view) {
  const layers = view.from === view.to ? `layer ${view.from}` : `layers ${view.from} to ${view.to}`;
  return [
    allLayers(view) ? null : layers,
    view.place === "all" ? null : view.place === "unknown" ? "other tokens" : `${view.place} tokens`,
    view.sequence === null ? null : `sample ${visible(sequences[view.sequence].entry.sample)}`,
  ]
    .filter(Boolean)
    .join(", ");
}

const KINDS = ["ties", "near_ties", "clear_flips"];
const edges = detail?.margin_edges ?? [];

/** Bins of margins, empty ones left out; rows are null where only mismatched ones are known. */
const binsOf = (rows, bad) =>
  bad
    .map((n, b) => ({
      above: b ? edges[b - 1] : null,
      to: edges[b] ?? null,
      rows: rows === null ? null : rows[b],
      rows_mismatched: n,
    }))
    .filter((bin) => (bin.rows === null ? bin.rows_mismatched : bin.rows));

/** Mismatched rows of layers without a known margin: those that the three kinds leave. */
function withUnknown(kinds, bad) {
  const known = (i) => sum(KINDS.map((key) => kinds[key][i]));
  return { ...kinds, margin_unknown: bad.map((n, i) => n - known(i)) };
}

/** Margins of whole layers, by the document's own figures. */
function marginsOfLayers(shown, bad) {
  const own = shown.map((l) => doc.layers[l].margins);
  if (!doc.margins || own.some((m) => !m)) return null;
  const side = (name) => {
    const bins = new Map();
    for (const bin of own.flatMap((m) => m[name] ?? [])) {
      const found = bins.get(bin.to) ?? { ...bin, rows: 0, rows_mismatched: 0 };
      found.rows += bin.rows;
      found.rows_mismatched += bin.rows_mismatched;
      bins.set(bin.to, found);
    }
    const order = (bin) => bin.to ?? Infinity;
    return bins.size ? [...bins.values()].sort((a, b) => order(a) - order(b)) : null;
  };
  const kinds = Object.fromEntries(KINDS.map((key) => [key, own.map((m) => m[key])]));
  return { ...withUnknown(kinds, bad), old: side("old"), new: side("new") };
}

/** Margins of one place. */
function marginsOfPlace(place, shown, bad) {
  const m = place.margins;
  if (!m) return null;
  const side = (counts) =>
    counts &&
    binsOf(
      addedUp(shown.map((l) => counts.rows[l])),
      addedUp(shown.map((l) => counts.rows_mismatched[l])),
    );
  const kinds = Object.fromEntries(KINDS.map((key) => [key, shown.map((l) => m[key][l])]));
  return { ...withUnknown(kinds, bad), old: side(m.old), new: side(m.new) };
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
  const whole = view.place === "all";
  const layerBad = whole ? own.map((e) => e.rows_mismatched) : bad.map(sum);
  const swaps = whole
    ? own.map((e) => e.swaps)
    : places[0].swaps && shown.map((l) => places[0].swaps[l]);
  const load = whole
    ? detail?.load
    : (places[0].load ?? ((detail.places.length === 1 && detail.load) || null));
  return {
    shown,
    width: detail?.bin_width ?? 1,
    first: 0,
    rows,
    bad,
    layerRows: whole ? own.map((e) => e.rows) : rows.map(sum),
    layerBad,
    depth: !allLayers(view)
      ? null
      : whole
        ? doc.tokens_by_differing_layers
        : addedUp(places.map((p) => p.tokens_by_differing_layers)),
    swaps: swaps ? addedUp(swaps) : null,
    margins: whole ? marginsOfLayers(shown, layerBad) : marginsOfPlace(places[0], shown, layerBad),
    load: load ? { old: shown.map((l) => load.old[l]), new: shown.map((l) => load.new[l]) } : null,
  };
}

/** What rows of one sequence add up to, row by row. */
class RowTally {
  constructor(seq, shown) {
    this.seq = seq;
    this.per = detail.load?.experts_per_cell ?? 1;
    const cells = Math.ceil(doc.old.num_experts / this.per);
    this.load = { old: zeros(shown.length, cells), new: zeros(shown.length, cells) };
    this.swaps = new Array(seq.topK + 1).fill(0);
    this.kinds = Object.fromEntries(KINDS.map((key) => [key, new Array(shown.length).fill(0)]));
    this.sides = seq.margins.map((side) => side && new Array(edges.length + 1).fill(0));
  }

  add(t, l, i) {
    const { old, new: now } = this.seq.sets(t, l);
    for (const id of old) this.load.old[i][Math.floor(id / this.per)]++;
    for (const id of now) this.load.new[i][Math.floor(id / this.per)]++;
    if (!this.seq.differs(t, l)) return void this.swaps[0]++;
    this.swaps[this.seq.swap(t, l)]++;
    const margins = this.seq.marginsOf(t, l);
    margins.forEach((margin, side) => {
      if (margin === null) return;
      const bin = edges.findIndex((edge) => margin <= edge);
      this.sides[side][bin < 0 ? edges.length : bin]++;
    });
    const known = margins.filter((margin) => margin !== null);
    if (!known.length) return;
    const least = Math.min(...known);
    this.kinds[KINDS[least === 0 ? 0 : least <= doc.margins.eps ? 1 : 2]][i]++;
  }

  margins(bad) {
    if (!doc.margins || this.sides.every((side) => side === null)) return null;
    const known = (bins) => (bins?.length ? bins : null);
    const [old, now] = this.sides.map((side) => known(side && binsOf(null, side)));
    return { ...withUnknown(this.kinds, bad), old, new: now };
  }
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
    tally = new RowTally(seq, shown);
  for (let t = 0; t < seq.tokens; t++) {
    if (view.place !== "all" && seq.place(t) !== view.place) continue;
    let differing = 0,
      there = 0;
    shown.forEach((l, i) => {
      if (seq.missing(t, l)) return;
      there++;
      rows[i][Math.floor(t / width)]++;
      tally.add(t, l, i);
      if (!seq.differs(t, l)) return;
      differing++;
      bad[i][Math.floor(t / width)]++;
    });
    if (there) depth[differing]++;
  }
  const layerBad = bad.map(sum);
  return {
    shown,
    width,
    first: seq.entry.position,
    rows,
    bad,
    depth,
    swaps: tally.swaps,
    load: tally.load,
    margins: tally.margins(layerBad),
    layerRows: rows.map(sum),
    layerBad,
  };
}

/** What a view shows: counts by layer and bin, by layer, by differing layers, by swapped ids. */
const countsOf = (view) => (view.sequence === null ? countsOfAll(view) : countsOfOne(view));

/** The mean share of ids that both sides have; null where there is no row. */
function overlapOf(swaps) {
  const topK = swaps.length - 1;
  return rateOf(sum(swaps.map((n, s) => (topK - s) * n)), topK * sum(swaps));
}

/** The listed samples for a view's layers and place, the worst first: name, tokens and rows. */
function samplesOf(view) {
  const { rows: listed, parts } = detail.samples;
  const shown = shownLayers(view);
  if (view.place === "all" && allLayers(view)) return listed;
  if (!parts) return null;
  const all = detail.places.map((p) => p.place),
    places = [...all.keys()].filter((p) => view.place === "all" || all[p] === view.place);
  const bad = integersOf(parts.rows_mismatched, parts.count_bytes);
  const absent = parts.rows_absent && integersOf(parts.rows_absent, parts.count_bytes);
  const added = (counts, n) =>
    sum(
      places.flatMap((p) =>
        shown.map((l) => counts[(n * all.length + p) * layerNumbers.length + l]),
      ),
    );
  const ofPlaces = (counts) => sum(places.map((p) => counts[p]));
  const found = listed.map(([name], n) => {
    const tokens = ofPlaces(parts.tokens[n]),
      rows = tokens * shown.length - (absent ? added(absent, n) : 0);
    const differ = allLayers(view) ? ofPlaces(parts.tokens_mismatched[n]) : null;
    return [name, allLayers(view) ? tokens : null, differ, rows, added(bad, n)];
  });
  const rate = (row) => (row[3] ? row[4] / row[3] : -1);
  return found.filter((row) => row[3]).sort((a, b) => rate(b) - rate(a) || b[4] - a[4]);
}
