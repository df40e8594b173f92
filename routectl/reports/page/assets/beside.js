// The panels of two reports side by side.

const SIDES = [
  ["a", "A", "var(--bar)"],
  ["b", "B", "var(--bar-3)"],
];
const MAPS = 12; // layer figures that are drawn, those in which the reports part

/** A figure: a share in percent, a count whole, another number in a few digits. */
const figureText = (value, rate) =>
  value === null
    ? "-"
    : rate
      ? percent(value)
      : Number.isInteger(value)
        ? amount(value)
        : String(Number(value.toPrecision(4)));

/** What B has more than A. */
function partText(value, rate) {
  if (value === null) return "-";
  if (value === 0) return "0";
  return rate ? points(value) : `${value > 0 ? "+" : "-"}${figureText(Math.abs(value), false)}`;
}

const figureRow = (name, f, rate) => [
  name,
  figureText(f.a, rate),
  figureText(f.b, rate),
  partText(f.difference, rate),
];

function besidePanels() {
  const heads = ["figure", "A", "B", "B - A"];
  const changed = doc.figures.filter((f) => f.a !== f.b),
    same = doc.figures.filter((f) => f.a === f.b);
  const rows = [...changed, ...same].map((f) => figureRow(visible(f.name), f, f.rate));
  const parting = doc.layer_figures.filter((f) => f.worst.length);
  const shown = parting.slice(0, MAPS).map(layersBeside);
  const note = `${amount(changed.length)} of ${plural(doc.figures.length, "figure")} differ; they come first.`;
  const sides = SIDES.map(([key, name, colour]) =>
    el(
      "div",
      {},
      el("h3", {}, badge(name, colour), " ", el("span", { class: "plain" }, visible(doc[key].path))),
      doc[key].verdict ? el("p", { class: "note" }, visible(doc[key].verdict)) : null,
      el("ul", {}, ...doc[key].about.map((line) => el("li", {}, visible(line)))),
    ),
  );
  return [
    panel("sides", "The two reports", null, el("div", { class: "three" }, ...sides), true),
    ...shown.slice(0, 1),
    panel("both", "Figures of both", note, tableOf("figures", heads, rows)),
    ...shown.slice(1),
    ...worstPanel(parting),
  ];
}

/** A figure by layer, of both. */
function layersBeside(f, i) {
  const series = SIDES.map(([key, name, colour]) => ({
    name,
    colour,
    dash: null,
    points: f.layers
      .filter((e) => e[key] !== null)
      .map((e) => ({
        x: e.layer,
        y: e[key],
        text: `layer ${e.layer}: ${figureText(e[key], f.rate)}, B less A ${partText(e.difference, f.rate)}`,
      })),
  }));
  const first = f.layers.find((e) => e.layer === f.worst[0]);
  return panel(
    `layers-${i}`,
    `${visible(f.name)} by layer`,
    `They part most in layer ${first.layer}: ${figureText(first.a, f.rate)} and ${figureText(first.b, f.rate)}.`,
    [
      curves(`${f.name} by layer`, series, {
        under: "layer",
        zero: false,
        told: (value) => figureText(value, f.rate),
      }),
      keys(...series.map((s) => [s.colour, s.name])),
    ],
  );
}

function worstPanel(parting) {
  const rows = parting.flatMap((f) =>
    f.worst.map((layer) => {
      const pair = f.layers.find((e) => e.layer === layer);
      const [name, ...rest] = figureRow(visible(f.name), pair, f.rate);
      return [name, String(layer), ...rest];
    }),
  );
  if (!rows.length) return [];
  const heads = ["figure", "layer", "A", "B", "B - A"];
  const table = tableOf("layers that part", heads, rows);
  return [panel("parting", "Layers where they part most", null, table, true)];
}
