// How mismatched rows are spread: over margins, experts, samples.

function marginPanel(counts) {
  const m = counts.margins,
    title = "How near mismatched rows were to a tie",
    { eps } = doc.margins;
  if (!m) return untold("margins", title, "of other tokens or samples: no row here has a margin");
  const kind = (bin) =>
    bin.to === 0
      ? 0
      : bin.to !== null && bin.to <= eps * 1.000001
        ? 1
        : bin.above !== null && bin.above < eps
          ? 1
          : 2;
  const sides = ["old", "new"]
    .filter((side) => m[side])
    .map((side) =>
      el(
        "div",
        {},
        el("p", { class: "note" }, `By the margin of ${side.toUpperCase()}`),
        histogram(
          `mismatched rows by margin of ${side}`,
          m[side].map((bin) => ({
            name:
              bin.to === 0
                ? "0"
                : bin.to === null
                  ? `>${short(bin.above)}`
                  : bin.to.toExponential(0).replace("e-", "e−"),
            count: bin.rows_mismatched,
            colour: FLIPS[kind(bin)][2],
            text: `margin ${bin.to === 0 ? "0" : `above ${bin.above ?? 0} up to ${bin.to ?? "any"}`}\n${amount(bin.rows_mismatched)}${bin.rows === null ? "" : ` of ${amount(bin.rows)}`} rows mismatched${bin.rows === null ? "" : ` (${percent(rateOf(bin.rows_mismatched, bin.rows))})`}`,
          })),
          { of: "mismatched rows", under: "margin up to" },
        ),
      ),
    );
  const said = FLIPS.map(
    ([key, name]) =>
      `${amount(sum(m[key]))} ${name}${key === "ties" || key === "near_ties" || key === "clear_flips" ? "s" : ""}`,
  ).join(", ");
  return panel(
    "margins",
    title,
    `${said}. Near is up to ${short(eps)}; rounding explains ties and most near-ties, a clear flip needs a reason.`,
    [
      el("div", { class: "three" }, ...sides),
      keys(...FLIPS.slice(0, 3).map(([, name, colour]) => [colour, name])),
    ],
    true,
  );
}

/** Loads by side: of each shown layer, how often each expert, or cell of them, was taken. */
function loadPanel({ shown, load: sides }) {
  const per = detail.load.experts_per_cell,
    heading = "Which experts are taken";
  if (!sides) return untold("load", heading, "of all tokens together: choose all tokens");
  const names = Object.keys(sides);
  const shares = Object.fromEntries(
    names.map((side) => [
      side,
      sides[side].map((line) => {
        const all = sum(line);
        return line.map((n) => rateOf(n, all) ?? 0);
      }),
    ]),
  );
  if (names.length === 2)
    shares.difference = shares.new.map((line, r) => line.map((n, c) => n - shares.old[r][c]));
  const most = Math.max(...names.flatMap((side) => shares[side].flat()), 1e-9);
  const apart = names.length === 2 ? Math.max(...shares.difference.flat().map(Math.abs), 1e-9) : 0;
  const maps = Object.entries(shares).map(([side, grid]) => {
    const scale = () => (side === "difference" ? differenceScale(apart) : rateScale(most, 1));
    const expert = (c) => (per === 1 ? `expert ${c}` : `experts ${c * per}-${(c + 1) * per - 1}`);
    const counts = (r, c) =>
      side === "difference"
        ? `${amount(sides.old[r][c])} old, ${amount(sides.new[r][c])} new`
        : `${amount(sides[side][r][c])} times`;
    const title =
      { old: "Old", new: "New", difference: "New less old", dump: "Share of each expert" }[side] ??
      side;
    return el(
      "div",
      {},
      el("p", { class: "note" }, title),
      heatmap({
        label: `expert load, ${title}`,
        rows: shown.map(layerName),
        columns: grid[0].map((_, c) => String(c * per)),
        value: (r, c) => grid[r][c],
        scale,
        title: "expert",
        height: Math.min(ROW(shown.length), 14),
        describe: (r, c) =>
          `layer ${layerName(shown[r])}, ${expert(c)}: ${percent(grid[r][c])} of the layer, ${counts(r, c)}`,
      }),
      legendOf(scale(), "share"),
    );
  });
  return panel(
    "load",
    heading,
    `Share of a layer's load, by layer and expert; the even share is ${percent(1 / (doc.old ?? doc.dump).num_experts)}.`,
    el("div", { class: "three" }, ...maps),
    true,
  );
}

function samplePanel(view, choose) {
  const kept = new Map(sequences.map((s, i) => [s.entry.sample, i]));
  const link = (name) =>
    el(
      "button",
      { type: "button", class: "link", onclick: () => choose(kept.get(name)) },
      visible(name),
    );
  const listed = samplesOf(view),
    title = "Samples, the worst first";
  if (!listed) return untold("samples", title, "of all rows: choose all layers and tokens");
  const told = (n) => (n === null ? "-" : amount(n));
  const rows = listed.map(([name, tokens, tokensBad, all, bad]) => [
    kept.has(name) ? link(name) : visible(name),
    ...[tokens, tokensBad, all, bad].map(told),
    percent(rateOf(bad, all)),
  ]);
  const heads = ["sample", "tokens", "tokens differ", "rows", "rows differ", "rate"];
  const some = detail.samples.rows.length < doc.sequences.compared;
  const note = [
    `${amount(rows.length)} of ${amount(doc.sequences.compared)}${some ? ", those that are worst in the whole run" : ""}; a name that is a link opens the sample below.`,
    allLayers(view) ? "" : " How many tokens differ is known of all layers together.",
    view.sequence === null ? "" : " All samples are listed, whichever is chosen.",
  ];
  return panel("samples", title, note.join(""), tableOf("samples", heads, rows), true);
}
