// The panels of a check: each finding with its cause and what to do, then what was compared.

const SEVERITY = {
  error: "var(--bad)",
  warning: "var(--bar-2)",
  undecided: "var(--bar-2)",
  note: "var(--bar)",
};

function checkPanels() {
  const found = doc.findings.map(findingCard);
  const list = panel(
    "findings",
    "Findings",
    doc.findings.length
      ? "What was found, the worst first: where, why, and what to do about it."
      : "Nothing was found: every rule that this dump can be held against holds.",
    found,
    true,
  );
  return [list, ...explanationPanels(), ...liftPanel()];
}

/** A list of labelled lines; those without words are left out. */
const labelled = (...lines) =>
  el(
    "dl",
    {},
    ...lines.flatMap(([label, words]) => (words ? [el("dt", {}, label), el("dd", {}, words)] : [])),
  );

/** Layers in words: 0-3, 7. */
function layerRuns(layers) {
  const runs = [];
  for (const layer of layers) {
    const last = runs.at(-1);
    if (last && layer === last[1] + 1) last[1] = layer;
    else runs.push([layer, layer]);
  }
  return runs.map(([a, b]) => (a === b ? String(a) : `${a}-${b}`)).join(", ");
}

function findingCard(f, index) {
  const size = [
    f.rows ? plural(f.rows, "row") : null,
    f.samples ? plural(f.samples, "sample") : null,
    f.layers.length ? `layer${f.layers.length === 1 ? "" : "s"} ${layerRuns(f.layers)}` : null,
  ];
  return el(
    "article",
    { class: "finding", style: `border-color: ${SEVERITY[f.severity]}`, id: `finding-${index}` },
    el(
      "h3",
      {},
      el("span", { class: "badge", style: `color: ${SEVERITY[f.severity]}` }, f.severity),
      ` ${f.code} `,
      el("span", { class: "plain" }, visible(f.detail ? `${f.title}: ${f.detail}` : f.title)),
    ),
    labelled(
      ["in", size.filter(Boolean).join(", ")],
      ["cause", visible(f.cause)],
      ["do", visible(f.action)],
      ["seen in", f.upstream.map((name) => visible(name)).join(", ")],
    ),
    f.places.length ? placesTable(f) : null,
    el("div", { class: "cell" }, ...copied(commandOfFinding(f))),
  );
}

/** The command that looks for a finding alone. */
function commandOfFinding(f) {
  const inputs = [doc.dump.path],
    options = doc.reference ? [["--against", doc.reference.path]] : [];
  const asked = doc.asked ?? { inputs, options };
  const kept = asked.options.filter(([flag]) => flag !== "--ignore");
  return commandLine("check", { ...asked, options: kept }, [["--select", f.code]]);
}

/** The first places of a finding; columns that say nothing are left out. */
function placesTable(f) {
  const columns = ["sample", "position", "layer", "note"].filter(
    (key) => key === "sample" || f.places.some((p) => p[key] !== null && p[key] !== undefined),
  );
  const rows = f.places.map((p) =>
    columns.map((key) => (p[key] === null || p[key] === undefined ? "all" : visible(p[key]))),
  );
  return tableOf(`first places of ${f.code}`, columns, rows, { plain: true });
}

function explanationPanels() {
  const told = doc.explanation;
  if (!told) return [];
  const layers = told.layers.map((e) => {
    const text = `${amount(e.rows_mismatched)} of ${plural(e.rows, "row")}`;
    return {
      name: String(e.layer),
      tip: `layer ${e.layer}`,
      label: percent(e.mismatch_rate),
      parts: [[e.mismatch_rate, "var(--bar)", text]],
    };
  });
  const note = `${amount(told.rows_mismatched)} of ${amount(told.rows)} rows differ, ${amount(told.rows_explained)} of them explained by findings.`;
  const bars = lyingBars("mismatch by layer", layers);
  const found = [panel("mismatch", "Mismatch by layer", note, bars)];
  if (!told.hypotheses.length) return found;
  const tried = told.hypotheses
    .slice(0, 16)
    .map((h) => [
      visible(h.hypothesis),
      percent(h.mismatch_rate_before),
      percent(h.mismatch_rate),
      amount(h.rows),
    ]);
  const table = tableOf("hypotheses", ["hypothesis", "as it is", "left", "rows"], tried);
  return [...found, panel("tried", "What undoing each hypothesis would leave", null, table)];
}

/** How far the routes follow their tokens, where that could be measured. */
function liftPanel() {
  const told = doc.by_tokens;
  if (!told || !told.layers.length) return [];
  const bars = told.layers.map((e) => ({
    name: String(e.layer),
    tip: `layer ${e.layer}`,
    label: e.bits.toFixed(2),
    parts: [[Math.max(e.bits, 0), "var(--bar)", `${e.bits.toFixed(3)} bits an id`]],
  }));
  const note =
    told.smallest_run === null
      ? "Bits by which an id is better known by its token than by its layer alone."
      : `Bits by which an id is better known by its token than by its layer alone; ${amount(told.smallest_run)} rows of other tokens in a row would show.`;
  return [panel("lift", "How far routes follow their tokens", note, lyingBars("lift", bars))];
}
