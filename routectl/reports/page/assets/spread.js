// The panels of a diff that no filter counts again: margins, expert loads, samples.

function marginPanel(view) {
  const m = doc.margins;
  const kind = (bin) =>
    bin.to === 0
      ? 0
      : bin.to !== null && bin.to <= m.eps * 1.000001
        ? 1
        : bin.above !== null && bin.above < m.eps
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
            text: `margin ${bin.to === 0 ? "0" : `above ${bin.above ?? 0} up to ${bin.to ?? "any"}`}\n${amount(bin.rows_mismatched)} of ${amount(bin.rows)} rows mismatched (${percent(bin.mismatch_rate)})`,
          })),
          { under: "margin up to" },
        ),
      ),
    );
  const said = FLIPS.map(
    ([key, name]) =>
      `${amount(m[key])} ${name}${key === "ties" || key === "near_ties" || key === "clear_flips" ? "s" : ""}`,
  ).join(", ");
  return panel(
    "margins",
    "How near mismatched rows were to a tie",
    `${ofAll(view, false)}${said}. Near is up to ${short(m.eps)}; rounding explains ties and most near-ties, a clear flip needs a reason.`,
    [
      el("div", { class: "three" }, ...sides),
      keys(...FLIPS.slice(0, 3).map(([, name, colour]) => [colour, name])),
    ],
    true,
  );
}

function loadPanel(view) {
  const { experts_per_cell: per, ...sides } = detail.load;
  const shown = shownLayers(view);
  const names = Object.keys(sides);
  const shares = Object.fromEntries(
    names.map((side) => [
      side,
      shown.map((l) => {
        const all = sum(sides[side][l]);
        return sides[side][l].map((n) => rateOf(n, all) ?? 0);
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
        ? `${amount(sides.old[shown[r]][c])} old, ${amount(sides.new[shown[r]][c])} new`
        : `${amount(sides[side][shown[r]][c])} times`;
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
    "Which experts are taken",
    `${doc.old ? ofAll(view, true) : ""}Share of a layer's load, by layer and expert; the even share is ${percent(1 / (doc.old ?? doc.dump).num_experts)}.`,
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
  const rows = detail.samples.rows.map(([name, tokens, tokensBad, all, bad]) => [
    kept.has(name) ? link(name) : visible(name),
    ...[tokens, tokensBad, all, bad].map(amount),
    percent(rateOf(bad, all)),
  ]);
  const heads = ["sample", "tokens", "tokens differ", "rows", "rows differ", "rate"];
  const note = `${ofAll(view, false)}${amount(rows.length)} of ${amount(doc.sequences.compared)}; a name that is a link opens the sample below.`;
  return panel("samples", "Samples, the worst first", note, tableOf("samples", heads, rows), true);
}
