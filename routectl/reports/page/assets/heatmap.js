// Heatmaps, on a canvas: the cells may be tens of thousands.

const redraws = new Set(); // canvases, which draw themselves when they get a width
const ROW = (rows) => Math.max(4, Math.min(26, Math.floor(460 / Math.max(rows, 1))));
const EDGE = 56; // pixels left of a heatmap's cells, for the names of rows

/**
 * A heatmap. rows and columns are names; value(r, c) is a number or null; scale() gives colours.
 * Arrow keys move a cursor, Enter or a click picks; describe(r, c) is what is said of a cell.
 */
function heatmap({
  label,
  rows,
  columns,
  value,
  scale,
  describe,
  pick = () => {},
  height = ROW(rows.length),
  title = "",
}) {
  const canvas = el("canvas", {
    tabindex: 0,
    role: "application",
    "aria-roledescription": "heatmap",
    "aria-label": `${label}. Arrow keys move, Enter picks a cell.`,
  });
  const axis = 18;
  let cursor = null,
    cell = 0;

  function draw() {
    const width = canvas.clientWidth,
      ratio = devicePixelRatio || 1;
    if (!width) return;
    const tall = rows.length * height + axis;
    canvas.style.height = `${tall}px`;
    canvas.width = width * ratio;
    canvas.height = tall * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const { colour } = scale();
    cell = (width - EDGE) / columns.length;
    for (let r = 0; r < rows.length; r++) {
      for (let c = 0; c < columns.length; c++) {
        const found = value(r, c);
        if (found === null) continue;
        pen.fillStyle = colour(found);
        const left = Math.floor((EDGE + c * cell) * ratio) / ratio,
          right = Math.floor((EDGE + (c + 1) * cell) * ratio) / ratio;
        pen.fillRect(left, r * height, right - left, height > 8 ? height - 1 : height);
      }
    }
    drawNames(pen, width);
    if (cursor) {
      pen.strokeStyle = css("--focus");
      pen.lineWidth = 2;
      pen.strokeRect(
        EDGE + cursor.c * cell - 1,
        cursor.r * height - 1,
        Math.max(cell, 3) + 2,
        height + 1,
      );
    }
  }

  function drawNames(pen, width) {
    pen.fillStyle = css("--quiet");
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    const every = Math.ceil(13 / height);
    rows.forEach((name, r) => {
      if (r % every === 0) pen.fillText(name, EDGE - 6, (r + 0.5) * height, EDGE - 8);
    });
    pen.textAlign = "left";
    const step = Math.ceil(64 / cell);
    columns.forEach((name, c) => {
      const x = EDGE + c * cell;
      if (c % step === 0 && x < width - 30)
        pen.fillText(name, x, rows.length * height + axis / 2 + 2);
    });
    pen.textAlign = "right";
    if (title) pen.fillText(title, EDGE - 6, rows.length * height + axis / 2 + 2);
  }

  function at(event) {
    const c = Math.floor((event.offsetX - EDGE) / cell),
      r = Math.floor(event.offsetY / height);
    return c < 0 || c >= columns.length || r < 0 || r >= rows.length ? null : { r, c };
  }
  function choose(place) {
    cursor = place;
    draw();
    pick(place.r, place.c);
  }
  canvas.addEventListener("pointermove", (event) => {
    const place = at(event);
    if (place && value(place.r, place.c) !== null)
      showTip(describe(place.r, place.c), event.clientX, event.clientY);
    else hideTip();
  });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("click", (event) => {
    const place = at(event);
    if (place) choose(place);
  });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[
      event.key
    ];
    if (event.key === "Enter" && cursor) choose(cursor);
    if (!move) return;
    event.preventDefault();
    const { r, c } = cursor ?? { r: 0, c: 0 };
    const next = cursor
      ? { r: clamp(r + move[0], 0, rows.length - 1), c: clamp(c + move[1], 0, columns.length - 1) }
      : { r, c };
    choose(next);
    say(describe(next.r, next.c));
  });
  canvas.redraw = draw;
  redraws.add(canvas);
  new ResizeObserver(draw).observe(canvas);
  return canvas;
}

/** Draw what is on the page now: paper does not wait. */
function redrawAll() {
  for (const canvas of redraws) canvas.isConnected ? canvas.redraw() : redraws.delete(canvas);
}
