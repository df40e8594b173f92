// The panels of staleness: over version lag, by layer, over the steps of a run.

const FEWEST = 8; // clusters from which there are intervals: ops/adding/fewest.py
const COLOURS = { free: "var(--bar)", forced: "var(--bar-2)" };
const whiskerOf = (interval) => (interval ? [interval.low, interval.high] : null);

function stalenessPanels() {
  const modes = [...new Set(doc.comparisons.map((c) => c.mode))];
  const level = `${plainNumber(100 * doc.level)} %`;
  const few = doc.comparisons[0].intervals.clusters < FEWEST;
  const within = few ? `no intervals: fewer than ${FEWEST} ${doc.clusters}s` : `${level} intervals`;
  const said = (c) =>
    `${percent(c.mismatch_rate)}${c.intervals.mismatch_rate ? ` (${level}: ${percent(c.intervals.mismatch_rate.low)} to ${percent(c.intervals.mismatch_rate.high)})` : ""}, ${amount(c.rows_mismatched)} of ${amount(c.rows)} rows`;
  const point = (c, x) => ({
    x,
    y: c.mismatch_rate ?? 0,
    low: c.intervals.mismatch_rate?.low,
    high: c.intervals.mismatch_rate?.high,
    text: `lag ${x}: ${said(c)}`,
  });
  const series = modes.flatMap((mode) => {
    const of = (kind) => doc.comparisons.filter((c) => c.kind === kind && c.mode === mode);
    const stale = doc.by_lag.filter((c) => c.mode === mode).sort((a, b) => a.lag - b.lag);
    return [
      {
        name: `staleness, ${mode}`,
        colour: COLOURS[mode] ?? "var(--bar)",
        dash: null,
        points: stale.map((c) => point(c, c.lag)),
      },
      {
        name: `mismatch (engine against its own version), ${mode}`,
        colour: "var(--bar-3)",
        dash: null,
        points: of("mismatch").map((c) => point(c, 0)),
      },
    ].filter((s) => s.points.length);
  });
  const lines = doc.noise.map((n) => [n.mismatch_rate ?? 0, `noise: ${n.name}`]);
  const mode = doc.drift.mode;
  const speeds = doc.drift.speeds.filter((s) => s.layer !== null && s.mismatch_rate !== null);
  const lives = new Map(doc.drift.half_lives.map((h) => [h.layer, h]));
  const bars = speeds.map((s) => ({
    name: String(s.layer),
    tip: `layer ${s.layer}`,
    label: percent(s.mismatch_rate),
    whisker: whiskerOf(s.mismatch_interval),
    parts: [
      [
        s.mismatch_rate,
        "var(--bar)",
        `${percent(s.mismatch_rate)} at lag ${s.lag}, ${amount(s.rows_mismatched)} of ${amount(s.rows)} rows\nhalf-life ${lives.get(s.layer)?.updates == null ? "not known" : `${short(lives.get(s.layer).updates)} updates`}`,
      ],
    ],
  }));
  const found = [
    panel(
      "curves",
      "What differs over version lag",
      `Share of rows with another expert set; lag 0 is the engine's mismatch. ${few ? `There are ${within}` : `Bands are ${within} over ${doc.clusters}s`}.`,
      [
        curves("mismatch rate over version lag", series, {
          under: "updates between the two versions",
          lines,
        }),
        keys(...series.map((s) => [s.colour, s.name])),
      ],
      !bars.length,
    ),
  ];
  if (bars.length)
    found.push(
      panel(
        "drift",
        `Drift per layer, ${mode}`,
        `Rows with another expert set at lag ${speeds[0].lag}; ${few ? within : `whiskers are ${within}`}.`,
        lyingBars("staleness by layer", bars, { height: ROW(bars.length) }),
      ),
    );
  return [...advicePanel(), ...replayPanel(level), ...found, ...lagMap(mode)];
}

const REPLAYS = { none: "var(--bar)", R2: "var(--bar-2)", R3: "var(--bar-3)" };
const timesOf = (ratio) => `${ratio >= 9.95 ? Math.round(ratio) : ratio.toFixed(2)}x`;

/** What replay gains: k3 without it, with R2 and with R3, side by side at each version's weights. */
function replayPanel(level) {
  const versions = doc.gain?.versions ?? [];
  if (!versions.length) return [];
  const charts = versions.flatMap((one) => {
    const bars = one.modes
      .filter((mode) => mode.k3 !== null)
      .map((mode) => ({
        name: mode.mode,
        tip: `${visible(one.version)}, ${mode.mode === "none" ? "no replay" : `replay ${mode.mode}`}`,
        label: `${short(mode.k3)}${mode.gain === null ? "" : ` (${timesOf(mode.gain)})`}`,
        whisker: whiskerOf(mode.intervals.k3),
        parts: [[mode.k3, REPLAYS[mode.mode], replayText(one, mode, level)]],
      }));
    if (!bars.length) return [];
    const lag = one.lag === null ? "" : `, lag ${one.lag}`;
    const label = `k3 by replay at ${visible(one.version)}${lag}`;
    return [
      el("h3", {}, `${visible(one.version)}${lag}`),
      lyingBars(label, bars, { height: 24, left: 44, right: 116 }),
    ];
  });
  return [
    panel(
      "replays",
      "What replay gains",
      `k3 of ${amount(versions[0].tokens)} response tokens against the dump's own log-probs: none replays nothing, R2 the trainer's own routes, R3 the engine's; in brackets, how many times lower. Each version has an axis of its own; ${versions.every((one) => one.clusters < FEWEST) ? `no intervals: fewer than ${FEWEST} ${doc.clusters}s` : `whiskers are ${level} intervals over ${doc.clusters}s`}.`,
      [...charts, keys(...Object.entries(REPLAYS).map(([name, colour]) => [colour, name]))],
    ),
  ];
}

/** The figures of a mode, in lines. */
function replayText(one, mode, level) {
  const { k3 } = mode.intervals;
  const within = k3 ? ` (${level}: ${short(k3.low)} to ${short(k3.high)})` : "";
  const gain = mode.gain_interval;
  const times = gain ? ` (${level}: ${timesOf(gain.low)} to ${timesOf(gain.high)})` : "";
  const lines = [`k3 ${short(mode.k3)}${within}, ${amount(one.tokens)} tokens`];
  if (mode.gain !== null) lines.push(`${timesOf(mode.gain)} lower than without replay${times}`);
  lines.push(mode.f_taus.map((f) => `F(${f.tau}) ${percent(f.f_tau)}`).join(", "));
  return lines.join("\n");
}

/** What the run should do, and what is alarming. */
function advicePanel() {
  const { mode, findings } = doc.advice;
  if (!findings.length) return [];
  const items = findings.map((f) =>
    el(
      "li",
      { class: f.alarm ? "alarm" : null },
      el("strong", {}, `${f.alarm ? "Alarm, " : ""}${visible(f.about)}: `),
      visible(f.text),
      el("div", { class: "quiet" }, f.evidence.map((text) => visible(text)).join("; ")),
    ),
  );
  return [
    panel(
      "advice",
      mode === null
        ? "What it means"
        : `What it means: replay ${mode === "none" ? "is not needed" : mode}`,
      null,
      el("ul", {}, ...items),
      true,
    ),
  ];
}

/** Staleness by layer and lag, where there are several lags. */
function lagMap(mode) {
  const parts = doc.by_lag.filter((c) => c.mode === mode).sort((a, b) => a.lag - b.lag);
  if (parts.length < 2) return [];
  const names = parts[0].layers.map((e) => String(e.layer));
  const most = Math.max(...parts.flatMap((c) => c.layers.map((e) => e.mismatch_rate ?? 0))) || 1;
  const map = heatmap({
    label: "staleness by layer and lag",
    rows: names,
    columns: parts.map((c) => String(c.lag)),
    title: "lag",
    value: (r, c) => parts[c].layers[r].mismatch_rate,
    scale: () => rateScale(most),
    describe: (r, c) =>
      `layer ${names[r]}, lag ${parts[c].lag}: ${percent(parts[c].layers[r].mismatch_rate)}`,
  });
  return [
    panel(
      "lags",
      "Layer × lag",
      `Share of rows with another expert set, ${mode}.`,
      [map, legendOf(rateScale(most), "staleness")],
      parts.length > 8,
    ),
  ];
}

function seriesPanels() {
  const names = doc.trends.map((t) => t.figure).filter((name) => !/^half_life$|k3$/.test(name));
  const series = names.map((name, i) => ({
    name,
    colour: PALETTE[i % PALETTE.length],
    dash: i >= PALETTE.length ? "4 3" : null,
    points: doc.steps
      .filter((s) => s.figures[name] != null)
      .map((s) => ({
        x: s.step,
        y: s.figures[name],
        text: `step ${s.step}: ${percent(s.figures[name])}`,
      })),
  }));
  return [
    panel(
      "curves",
      "Rates over the steps of the run",
      null,
      [
        curves("rates over steps", series, { under: "step" }),
        keys(...series.map((s) => [s.colour, s.name])),
      ],
      true,
    ),
  ];
}
