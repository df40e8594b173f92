// The panels of ci, of a verification, of a prediction.

const STATUS = { passed: "var(--good)", failed: "var(--bad)", trouble: "var(--warn)" };
const ORDER = ["trouble", "failed", "passed"];

/** A word in the colour of what it says. */
const badge = (word, colour) => el("span", { class: "badge", style: `color: ${colour}` }, word);

/** A number as a threshold has it. */
const plainNumber = (n) => (n === null || n === undefined ? "-" : String(Number(n.toPrecision(6))));

function ciPanels() {
  const ordered = [...doc.runs.entries()].sort(
    ([, a], [, b]) => ORDER.indexOf(a.status) - ORDER.indexOf(b.status),
  );
  const rows = ordered.map(([i, run]) => [
    el("a", { href: `#run-${i}` }, visible(run.name)),
    badge(run.status, STATUS[run.status]),
    visible(run.verb ?? "-"),
    visible(run.summary, 200),
    run.failed.map((f) => visible(f.threshold)).join("; ") || "-",
    run.seconds.toFixed(1),
  ]);
  const heads = ["check", "status", "verb", "verdict", "over", "seconds"];
  return [
    panel(
      "runs",
      "Checks",
      `Of ${visible(doc.config)}; what could not be run or failed comes first. A name leads to its details.`,
      tableOf("checks", heads, rows),
      true,
    ),
    ...ordered.map(([i, run]) => runPanel(run, i)),
  ];
}

function runPanel(run, i) {
  const inputs = Object.entries(run.inputs).map(([name, value]) => [
    name,
    [value].flat().map((one) => visible(one)).join(", "),
  ]);
  const failed = run.failed.map((f) => [
    visible(f.threshold),
    f.layer === null ? "all" : String(f.layer),
    f.not_finite ?? plainNumber(f.value),
    plainNumber(f.limit),
  ]);
  const figures = Object.entries(run.metrics)
    .filter(([name]) => !name.includes("/layer_"))
    .map(([name, value]) => [visible(name), plainNumber(value)]);
  return panel(
    `run-${i}`,
    `${visible(run.name)}: ${run.status}`,
    visible(run.summary),
    [
      labelled(...inputs),
      run.details.length
        ? el("ul", {}, ...run.details.map((text) => el("li", {}, visible(text))))
        : null,
      failed.length
        ? tableOf("thresholds", ["threshold", "layer", "value", "limit"], failed, { plain: true })
        : null,
      figures.length
        ? el(
            "details",
            {},
            el("summary", {}, `${plural(figures.length, "figure")}`),
            tableOf("figures", ["figure", "value"], figures, { plain: true }),
          )
        : null,
    ],
    run.status !== "passed",
  );
}

function verifyPanels() {
  const right = doc.rows - doc.rows_wrong;
  const counts = [
    ["right", right, "var(--good)"],
    ["wrong", doc.rows_wrong, "var(--bad)"],
    ["other slot order", doc.rows_reordered, "var(--bar-2)"],
    ["masked as padding", doc.rows_masked, "var(--bar-3)"],
    ["padding not masked", doc.rows_unmasked, "var(--bar-3)"],
    ["without a route", doc.rows_missing, "var(--chance)"],
    ["made up", doc.rows_made_up, "var(--bad)"],
    ["on no rank", doc.routes_absent, "var(--bad)"],
    ["more than once", doc.routes_repeated, "var(--bad)"],
  ].filter(([, n], i) => i < 2 || n);
  const found = [
    panel(
      "rows",
      "Rows",
      doc.rows ? "Of the tensors, held against the dump's routes." : "No row could be compared.",
      lyingBars(
        "rows by what they are",
        counts.map(([name, n, colour]) => ({
          name,
          label: amount(n),
          parts: [[n, colour, plural(n, "row")]],
        })),
        { left: 120, height: 24 },
      ),
    ),
    panel("padding", "Padding", null, paddingTable()),
  ];
  return [...found, ...filesPanel(), ...holdsPanel(), ...wrongRowsPanel()];
}

const paddingTable = () => {
  const rows = Object.entries(doc.padding_rows).map(([kind, n]) => [visible(kind), amount(n)]);
  return rows.length
    ? tableOf("padding", ["kind", "rows"], rows, { plain: true })
    : el("p", { class: "note" }, "No padding rows.");
};

function filesPanel() {
  const named = [
    ["not there", doc.absent_files],
    ["no such rank and micro-batch", doc.extra_files],
    ["does not fit", doc.misfits],
    ["faulty", doc.faults],
    ["bytes are not the manifest's", doc.changed_files],
  ];
  const rows = named.flatMap(([what, paths]) => paths.map((path) => [visible(path), what]));
  if (!rows.length) return [];
  return [panel("files", "Files", null, tableOf("files", ["file", "what"], rows), true)];
}

/** Whose rows are where, and which layouts the tensors match. */
function holdsPanel() {
  const place = (of) =>
    Object.entries(of)
      .map(([axis, n]) => `${axis} ${n}`)
      .join(", ");
  const moves = doc.moves.map((m) => [place(m.place), place(m.holds), amount(m.files)]);
  const suspects = doc.suspects.map((s) => [
    visible(s.frameworks.join(", ")),
    s.form,
    Object.entries(s.options)
      .map(([name, value]) => `${name} ${value ?? "none"}`)
      .join(", ") || "-",
    String(s.shift),
    String(s.layer_shift),
    percent(s.rate),
  ]);
  const heads = ["layout", "form", "options", "shift", "layer shift", "rows that match"];
  return [
    moves.length
      ? panel("moves", "Rows of others", null, tableOf("moves", ["place", "holds", "files"], moves))
      : null,
    suspects.length
      ? panel(
          "suspects",
          "Layouts that the tensors match",
          null,
          tableOf("suspects", heads, suspects),
          true,
        )
      : null,
  ].filter(Boolean);
}

function wrongRowsPanel() {
  if (!doc.examples.length) return [];
  const rows = doc.examples.map((e) => [
    visible(e.file),
    ...[e.layer, e.row, e.sample, e.position].map(String),
    e.got.join(" "),
    e.expected.join(" "),
  ]);
  const heads = ["file", "layer", "row", "sample", "position", "got", "expected"];
  return [panel("wrong", "First wrong rows", null, tableOf("wrong rows", heads, rows), true)];
}

/** Points: a difference of rates, with its sign. */
const points = (rate) =>
  rate === null ? "-" : `${rate > 0 ? "+" : ""}${(100 * rate).toFixed(2)} points`;

function predictPanels() {
  const kinds = [
    ["frozen", "var(--chance)"],
    ["extrapolated", "var(--bar-2)"],
    ["predicted", "var(--bar)"],
  ].filter(([kind]) => doc.comparisons.some((c) => c[kind]));
  const series = kinds.map(([name, colour]) => ({
    name,
    colour,
    dash: null,
    points: doc.comparisons
      .filter((c) => c[name])
      .map((c) => ({
        x: c.lag,
        y: c[name].mismatch.value ?? 0,
        low: c[name].mismatch.low,
        high: c[name].mismatch.high,
        text: `${visible(c.version)}, lag ${c.lag}: ${percent(c[name].mismatch.value)}`,
      })),
  }));
  const found = [
    panel(
      "curves",
      "Stale rows, frozen and predicted",
      "Share of rows with another expert set than the later version's, by lag; bands are 95 % intervals.",
      [
        curves("stale rows over lag", series, { under: "updates between the two versions" }),
        keys(...series.map((s) => [s.colour, s.name])),
      ],
    ),
  ];
  return [...found, ...doc.comparisons.map(gainPanel)];
}

/** What prediction gains over freezing, layer by layer. */
function gainPanel(c, i) {
  const bars = c.layers.map((e) => {
    const { value, low, high } = e.predicted.gain;
    return {
      name: String(e.layer),
      tip: `layer ${e.layer}`,
      label: points(value),
      parts: [
        [
          Math.max(value ?? 0, 0),
          "var(--good)",
          `accuracy ${percent(e.predicted.accuracy.value)}, frozen ${percent(e.frozen.accuracy.value)}: ${points(value)}${low === null ? "" : ` (${points(low)} to ${points(high)})`}`,
        ],
      ],
    };
  });
  return panel(
    `gain-${i}`,
    `Gain by layer at ${visible(c.version)}`,
    "Accuracy of predicted routes over frozen ones, in percentage points; a layer without a bar gains nothing.",
    lyingBars("gain by layer", bars, { right: 90 }),
  );
}
