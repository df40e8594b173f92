// Charts as SVG: bars, histograms, curves. Each returns an element.

/** An SVG that says its numbers when pointed at. */
function drawing(width, height, label, ...marks) {
  const found = svgEl(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    ...marks,
  );
  found.addEventListener("pointermove", (event) => {
    const text = event.target.getAttribute("data-tip");
    text ? showTip(text, event.clientX, event.clientY) : hideTip();
  });
  found.addEventListener("pointerleave", hideTip);
  return found;
}

const rect = (x, y, width, height, fill, text) =>
  svgEl("rect", {
    x,
    y,
    width: Math.max(width, 0),
    height: Math.max(height, 0),
    fill,
    "data-tip": text,
    rx: 1,
  });
const line = (x1, y1, x2, y2, attributes = {}) =>
  svgEl("line", { x1, y1, x2, y2, class: "axis", ...attributes });
const word = (x, y, text, attributes = {}) => svgEl("text", { x, y, ...attributes }, text);

/**
 * A bar a row, lying. entries: name, parts ([value, colour, text] end to end), whisker [low, high],
 * tick (a value to compare with), label. lines: [value, name] to compare with; those beyond the axis are named with an arrow.
 */
function lyingBars(
  label,
  entries,
  { lines = [], height = ROW(entries.length), most = null, width = 560, left = 40, right = 62 } = {},
) {
  const WIDTH = width,
    LEFT = left,
    RIGHT = right,
    TOP = 0;
  const totals = entries.flatMap((e) => [sum(e.parts.map((p) => p[0] ?? 0)), e.whisker?.[1] ?? 0]);
  const near = lines.filter(([value]) => value <= 2 * Math.max(...totals));
  const end = most ?? (Math.max(...totals, ...near.map(([value]) => value)) || 1);
  const x = (value) => LEFT + (value / end) * (WIDTH - LEFT - RIGHT);
  const every = Math.ceil(12 / height);
  const marks = entries.flatMap((entry, i) => {
    const y = TOP + i * height,
      bar = height > 8 ? height - 2 : height - 0.5;
    let from = 0;
    const bars = entry.parts.map(([value, colour, text]) => {
      const mark = rect(
        x(from),
        y,
        x(from + (value ?? 0)) - x(from),
        bar,
        colour,
        `${entry.tip ?? entry.name}\n${text}`,
      );
      from += value ?? 0;
      return mark;
    });
    const middle = y + bar / 2;
    if (entry.tick)
      bars.push(
        line(x(entry.tick), y - 1, x(entry.tick), y + bar + 1, {
          stroke: "var(--ink)",
          class: "",
          "stroke-width": 2,
          "data-tip": entry.tickText,
        }),
      );
    if (entry.whisker)
      bars.push(
        line(x(entry.whisker[0]), middle, x(entry.whisker[1]), middle, {
          stroke: "var(--ink)",
          class: "",
          "stroke-width": 1.5,
        }),
      );
    if (i % every === 0)
      bars.push(
        word(LEFT - 6, middle, entry.name, {
          "text-anchor": "end",
          "dominant-baseline": "central",
        }),
        word(x(Math.max(from, entry.whisker?.[1] ?? 0)) + 4, middle, entry.label, {
          "dominant-baseline": "central",
          class: "label",
        }),
      );
    return bars;
  });
  const foot = TOP + entries.length * height;
  lines.forEach(([value, name], i) => {
    const inside = value <= end;
    if (inside)
      marks.push(
        line(x(value), TOP, x(value), foot, {
          stroke: "var(--chance)",
          class: "",
          "stroke-dasharray": "4 3",
        }),
      );
    marks.push(
      word(
        inside ? clamp(x(value), LEFT + 40, WIDTH - 70) : WIDTH - 2,
        foot + 14 + 13 * i,
        `${name} ${percent(value)}${inside ? "" : " →"}`,
        { "text-anchor": inside ? "middle" : "end" },
      ),
    );
  });
  return drawing(WIDTH, foot + 16 + 13 * lines.length, label, ...marks);
}

/**
 * Standing bars of counts, on a logarithmic axis, which says so: 0, 1, then tens.
 * entries: name, count, colour, text; of: what is counted; under: what the bars are.
 */
function histogram(label, entries, { of = "rows", under = "" } = {}) {
  const WIDTH = 460,
    TALL = 160,
    LEFT = 44,
    TOP = 32,
    BASE = TOP + TALL;
  const most = Math.max(1, ...entries.map((e) => e.count));
  const height = (count) => (Math.log10(1 + count) / Math.log10(1 + most)) * TALL;
  const step = (WIDTH - LEFT - 8) / Math.max(entries.length, 6);
  const every = Math.ceil((entries.some((e) => e.name.length > 3) ? 46 : 26) / step);
  const tens = Math.floor(Math.log10(most));
  const ticks = [0, ...Array.from({ length: tens + 1 }, (_, n) => 10 ** n)];
  const apart = Math.ceil((12 * (tens + 1)) / TALL);
  const axis = ticks.flatMap((tick, n) => [
    line(LEFT, BASE - height(tick), WIDTH - 4, BASE - height(tick)),
    n === 0 || (n - 1) % apart === 0
      ? word(LEFT - 6, BASE - height(tick), rounded(tick), {
          "text-anchor": "end",
          "dominant-baseline": "central",
        })
      : null,
  ]);
  const marks = entries.flatMap((entry, i) => {
    const tall = height(entry.count),
      x = LEFT + 4 + i * step;
    return [
      rect(
        x + step * 0.08,
        BASE - tall,
        step * 0.84,
        tall,
        entry.colour ?? "var(--bar)",
        entry.text ?? `${entry.name}: ${amount(entry.count)}`,
      ),
      i % every === 0
        ? word(x + step / 2, BASE + 14, entry.name, { "text-anchor": "middle" })
        : null,
      entry.count && (step > 44 || i % Math.ceil(44 / step) === 0)
        ? word(x + step / 2, BASE - tall - 4, amount(entry.count), {
            "text-anchor": "middle",
            class: "label",
          })
        : null,
    ];
  });
  return drawing(
    WIDTH,
    BASE + 32,
    label,
    word(4, 10, `${of}, on a logarithmic axis`),
    ...[...axis, ...marks].filter(Boolean),
    word((LEFT + WIDTH) / 2, BASE + 29, under, { "text-anchor": "middle" }),
  );
}

/** A power of ten in few characters: 1, 100, 10k, 1M. */
const rounded = (n) => (n < 1e3 ? String(n) : n < 1e6 ? `${n / 1e3}k` : `${n / 1e6}M`);

/** A round step at least so large: 1, 2 or 5 times a power of ten. */
function stepOf(least) {
  const ten = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].find((n) => n * ten >= least) * ten;
}

/**
 * Curves with bands. series: name, colour, dash, points ({x, y, low, high, text}); lines as above.
 * The axis begins at 0 where zero says so; told says a value of it.
 */
function curves(
  label,
  series,
  { under, lines = [], zero = true, told = (value) => `${short(100 * value)} %` },
) {
  const WIDTH = 620,
    TALL = 230,
    LEFT = 54,
    TOP = 8,
    RIGHT = 16,
    BASE = TOP + TALL;
  const points = series.flatMap((s) => s.points);
  const highest =
    Math.max(...points.map((p) => p.high ?? p.y), ...lines.map(([value]) => value)) || 1;
  const lowest = Math.min(...(zero ? [0] : []), ...points.map((p) => p.low ?? p.y));
  const step = stepOf((highest - lowest || highest) / 4),
    most = Math.ceil(highest / step) * step,
    least = Math.floor(lowest / step) * step;
  const xs = [...new Set(points.map((p) => p.x))].sort((a, b) => a - b);
  const [lo, hi] = [xs[0], xs[xs.length - 1]];
  const x = (value) =>
    LEFT + 12 + (hi === lo ? 0 : (value - lo) / (hi - lo)) * (WIDTH - LEFT - RIGHT - 24);
  const y = (value) => BASE - ((value - least) / (most - least)) * TALL;
  const ticks = Array.from(
    { length: Math.round((most - least) / step) + 1 },
    (_, i) => least + i * step,
  );
  const marks = ticks.flatMap((tick) => [
    line(LEFT, y(tick), WIDTH - RIGHT, y(tick)),
    word(LEFT - 6, y(tick), told(tick), {
      "text-anchor": "end",
      "dominant-baseline": "central",
    }),
  ]);
  const every = Math.ceil(xs.length / 16);
  xs.forEach((value, i) => {
    if (i % every === 0)
      marks.push(word(x(value), BASE + 16, short(value), { "text-anchor": "middle" }));
  });
  for (const [value, name] of lines) {
    marks.push(
      line(LEFT, y(value), WIDTH - RIGHT, y(value), {
        stroke: "var(--chance)",
        class: "",
        "stroke-dasharray": "4 3",
      }),
    );
    marks.push(
      word(WIDTH - RIGHT, y(value) - 4, `${name} ${percent(value)}`, { "text-anchor": "end" }),
    );
  }
  for (const { name, colour, dash, points: all } of series) {
    const known = all.filter((p) => p.low !== null && p.low !== undefined);
    const band = [
      ...known.map((p) => `${x(p.x)},${y(p.high)}`),
      ...known.toReversed().map((p) => `${x(p.x)},${y(p.low)}`),
    ];
    marks.push(svgEl("polygon", { points: band.join(" "), fill: colour, opacity: 0.18 }));
    for (const p of known)
      marks.push(
        line(x(p.x), y(p.low), x(p.x), y(p.high), {
          stroke: colour,
          class: "",
          "stroke-width": 1.5,
        }),
      );
    marks.push(
      svgEl("polyline", {
        points: all.map((p) => `${x(p.x)},${y(p.y)}`).join(" "),
        fill: "none",
        stroke: colour,
        "stroke-width": 2,
        "stroke-dasharray": dash,
      }),
    );
    for (const p of all)
      marks.push(
        svgEl("circle", {
          cx: x(p.x),
          cy: y(p.y),
          r: 4.5,
          fill: colour,
          "data-tip": `${name}\n${p.text}`,
        }),
      );
  }
  return drawing(
    WIDTH,
    BASE + 36,
    label,
    ...marks,
    word((LEFT + WIDTH) / 2, BASE + 33, under, { "text-anchor": "middle" }),
  );
}

/** Names of colours under a chart. */
function keys(...entries) {
  return el(
    "div",
    { class: "legend" },
    ...entries.map(([colour, name]) =>
      el("span", {}, el("i", { style: `background: ${colour}` }), name),
    ),
  );
}
