// The panels of a diff: what is drawn of the rows that the toolbar selects.

const layerName = (l) => String(layerNumbers[l]);
const FLIPS = [
  ["ties", "tie", "var(--bar)"],
  ["near_ties", "near-tie", "var(--bar-2)"],
  ["clear_flips", "clear flip", "var(--bar-3)"],
  ["margin_unknown", "margin unknown", "var(--chance)"],
];

/** The command that shows the rows of a cell, with what was typed to make this report. */
function commandOf(view, layer, from, to) {
  const rule = ["prefix", "order"].find((name) => name in doc.samples.matched_by);
  const asked = doc.asked ?? {
    inputs: [doc.old.path, doc.new.path],
    options: [
      ...(rule ? [["--match", rule]] : []),
      ...(doc.token_selection === "all" ? [] : [["--tokens", doc.token_selection]]),
    ],
  };
  const sample = view.sequence === null ? null : sequences[view.sequence].entry.sample;
  const known = ["prompt", "response"].includes(view.place);
  return commandLine("diff", asked, [
    ...(sample === null ? [] : [["--sample", sample]]),
    ...(known ? [["--tokens", view.place]] : []),
    ["--layers", String(layer)],
    ...(from === null ? [] : [["--positions", from === to ? String(from) : `${from}-${to}`]]),
    ["--examples", "20"],
  ]);
}

/** A line under a heatmap: the picked cell, and its command to copy. */
function cellLine() {
  const text = el("span", {}, "Pick a cell to get the command that lists its rows.");
  const node = el("div", { class: "cell" }, text);
  node.show = (what, command) => {
    text.textContent = what;
    node.replaceChildren(text, ...command);
  };
  return node;
}

function whereItDiffers(view, counts) {
  const { shown, rows, bad, width, first } = counts;
  const noise = doc.noise ?? [];
  const bars = lyingBars(
    "mismatch by layer",
    shown.map((l, i) => layerBar(view, counts, l, i)),
    {
      lines: [
        ...noise.map((n) => [n.mismatch_rate ?? 0, "noise floor"]),
        [chanceMismatch(), "chance"],
      ],
      width: 300,
    },
  );
  const { margins } = counts;
  const seen = FLIPS.filter(([key]) => margins && sum(margins[key]));
  const key = seen.length ? keys(...seen.map(([, name, colour]) => [colour, name])) : null;
  const overlap = counts.swaps
    ? `Overlap ${percent(overlapOf(counts.swaps))}; sets drawn at random would share ${percent(doc.chance_overlap_rate)}.`
    : "The overlap of these rows is not in the report.";
  const floor = noise.length
    ? ` Upright marks: the noise floor, ${noise.map((n) => visible(n.name)).join(", ")}${isWhole(view) ? "" : ", of all tokens and samples"}.`
    : "";
  const side = el(
    "div",
    { id: "layer-bars" },
    el("p", { class: "note" }, "Mismatch by layer"),
    bars,
    key,
    el("p", { class: "note" }, overlap + floor),
  );
  if (!rows[0]?.length) {
    return panel(
      "where",
      "Where rows differ",
      "By layer. The layer × position heatmap needs a report made with --html, or --json --detail.",
      side,
      true,
    );
  }
  const value = (r, c) => rateOf(bad[r][c], rows[r][c]);
  const most =
    Math.max(...bad.flatMap((line, r) => line.map((n, c) => (rows[r][c] ? n / rows[r][c] : 0)))) ||
    1;
  const from = (c) => first + c * width,
    to = (c) => first + (c + 1) * width - 1;
  const describe = (r, c) =>
    `layer ${layerName(shown[r])}, positions ${from(c)}-${to(c)}: ${percent(value(r, c))}, ${amount(bad[r][c])} of ${amount(rows[r][c])} rows`;
  const cell = cellLine();
  const map = heatmap({
    label: "mismatch by layer and position",
    rows: shown.map(layerName),
    columns: rows[0].map((_, c) => String(from(c))),
    value,
    scale: () => rateScale(most),
    describe,
    title: "position",
    pick: (r, c) =>
      cell.show(
        describe(r, c),
        rows[r][c] ? copied(commandOf(view, layerNumbers[shown[r]], from(c), to(c))) : [],
      ),
  });
  return panel(
    "where",
    "Where rows differ",
    "Share of rows whose expert sets differ, by layer and token position.",
    [
      el(
        "div",
        { class: "beside" },
        el(
          "div",
          {},
          el("p", { class: "note" }, "Layer × position"),
          map,
          legendOf(rateScale(most), "mismatch"),
          cell,
        ),
        side,
      ),
    ],
    true,
  );
}

/** The mismatch of sets drawn at random: 1 - 1 / (E choose K). */
function chanceMismatch() {
  let sets = 1;
  for (let k = 0; k < doc.old.top_k; k++) sets *= (doc.old.num_experts - k) / (k + 1);
  return 1 - 1 / sets;
}

function layerBar(view, counts, l, i) {
  const rows = counts.layerRows[i],
    bad = counts.layerBad[i],
    { margins } = counts;
  const text = `${percent(rateOf(bad, rows))}, ${amount(bad)} of ${amount(rows)} rows`;
  const whole = [[rateOf(bad, rows), "var(--bar)", text]];
  const split =
    margins &&
    FLIPS.map(([key, name, colour]) => [
      rateOf(margins[key][i], rows),
      colour,
      `${amount(margins[key][i])} ${name}, of ${amount(bad)} mismatched`,
    ]);
  const noise = (doc.noise ?? [])[0]?.layers?.find(
    (e) => e.layer === layerNumbers[l],
  )?.mismatch_rate;
  const tick = noise
    ? { tick: noise, tickText: `noise floor of layer ${layerName(l)}: ${percent(noise)}` }
    : {};
  return {
    ...tick,
    name: layerName(l),
    tip: `layer ${layerName(l)}`,
    parts: split ?? whole,
    label: percent(rateOf(bad, rows)),
  };
}

/** A panel of what the report does not tell for a selection. */
const untold = (id, title, known) =>
  panel(id, title, `Not told for this selection; the report has it ${known}.`, null);

function swapPanel(counts) {
  const title = "How many experts were swapped",
    note = "Rows by the number of ids that differ.";
  if (!counts.swaps)
    return untold("swaps", title, "of all tokens together: choose all tokens, or one sample");
  return panel(
    "swaps",
    title,
    note,
    histogram(
      title,
      counts.swaps.map((count, n) => ({
        name: String(n),
        count,
        colour: n ? "var(--bar-2)" : "var(--bar)",
        text: `${plural(count, "row")} with ${n} of ${doc.old.top_k} ids that differ`,
      })),
      { under: "ids that differ" },
    ),
  );
}

function depthPanel(counts) {
  const title = "How many layers differ in a token",
    note = "Tokens by the number of their layers that differ.";
  if (!counts.depth)
    return untold("depth", title, "of all layers together: choose all layers, or one sample");
  const last = counts.depth.findLastIndex((n) => n > 0);
  return panel(
    "depth",
    title,
    note,
    histogram(
      title,
      counts.depth.slice(0, last + 1).map((count, n) => ({
        name: String(n),
        count,
        colour: n ? "var(--bar-2)" : "var(--bar)",
        text: `${plural(count, "token")} with ${plural(n, "layer")} that differ`,
      })),
      { of: "tokens", under: "layers that differ" },
    ),
  );
}

/** The panels of a diff; choose(i) opens one of the worst sequences. */
function diffPanels(view, choose) {
  const counts = countsOf(view);
  const rows = sum(counts.layerRows),
    bad = sum(counts.layerBad);
  return {
    said: `${amount(bad)} of ${amount(rows)} rows (${percent(rateOf(bad, rows))})`,
    rows,
    bad,
    csv: () => csvOf(view, counts),
    panels: [
      whereItDiffers(view, counts),
      swapPanel(counts),
      depthPanel(counts),
      ...(doc.margins ? [marginPanel(counts)] : []),
      ...(detail?.load ? [loadPanel(counts)] : []),
    ],
  };
}

function csvOf(view, counts) {
  const sample = view.sequence === null ? "" : sequences[view.sequence].entry.sample;
  const lines = [
    [
      "sample",
      "place",
      "layer",
      "position_from",
      "position_to",
      "rows",
      "rows_mismatched",
      "mismatch_rate",
    ],
  ];
  counts.shown.forEach((l, i) => {
    const line = (from, to, rows, bad) =>
      lines.push([sample, view.place, layerNumbers[l], from, to, rows, bad, rateOf(bad, rows)]);
    if (!counts.rows[i].length) return line("", "", counts.layerRows[i], counts.layerBad[i]);
    counts.rows[i].forEach((rows, b) => {
      if (rows)
        line(
          counts.first + b * counts.width,
          counts.first + (b + 1) * counts.width - 1,
          rows,
          counts.bad[i][b],
        );
    });
  });
  return lines;
}
