// The panels of check and show.

const SEVERITY = { error: "var(--bad)", warning: "var(--bar-2)", note: "var(--bar)" };

function checkPanels() {
  return [...findingPanels(), ...explanationPanels()];
}

function findingPanels() {
  if (!doc.findings.length) return [];
  const bars = doc.findings.map((f) => ({
    name: f.code,
    count: f.rows || f.samples,
    colour: SEVERITY[f.severity],
    text: `${f.code}: ${visible(f.title)}\n${plural(f.rows, "row")}, ${plural(f.samples, "sample")}`,
  }));
  const colours = keys(...Object.entries(SEVERITY).map(([name, colour]) => [colour, name]));
  const dash = (value) => (value === null ? "-" : visible(value));
  const places = doc.findings.flatMap((f) =>
    f.places.map((p) => [f.code, ...[p.sample, p.position, p.layer].map(dash)]),
  );
  const heads = ["code", "sample", "position", "layer"];
  return [
    panel(
      "codes",
      "Findings by code",
      "Rows of each finding, or samples where it is of whole samples (logarithmic).",
      [histogram("findings by code", bars), colours],
    ),
    panel(
      "places",
      "First places",
      "Up to five of each finding; - is all of them.",
      tableOf("places of findings", heads, places),
    ),
  ];
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
  const note = `${amount(told.rows_mismatched)} of ${amount(told.rows)} rows differ, ${amount(told.rows_explained)} of them explained.`;
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

function showPanels(view) {
  const bar = (key, format) =>
    doc.layers.map((e) => ({
      name: String(e.layer),
      tip: `layer ${e.layer}`,
      label: e[key] === null ? "-" : format(e[key]),
      parts: [[e[key], "var(--bar)", `${key} ${e[key]}`]],
    }));
  return [
    panel(
      "vio",
      "Busiest expert by layer",
      "max_vio: how far the busiest expert is over the even share; 0 is even.",
      lyingBars("max_vio by layer", bar("max_vio", short)),
    ),
    panel(
      "missing",
      "Entropy of the load by layer",
      "As a share of the even load's; 1 is even.",
      lyingBars("entropy by layer", bar("entropy", short), { most: 1 }),
    ),
    ...(detail?.load ? [loadPanel(view)] : []),
  ];
}
