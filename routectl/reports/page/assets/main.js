// The page: toolbar, panels, tables that sort and filter.

const view = {
  from: layerNumbers[0] ?? 0,
  to: layerNumbers.at(-1) ?? 0,
  place: "all",
  sequence: null,
};
const panels = document.getElementById("panels");
const toolbar = document.getElementById("toolbar");
let reading = sequences.length ? 0 : null; // the sequence in the token view
let csv = null;

/** Panels whose failure leaves the others: a damaged document is said, not hidden. */
function drawn(make) {
  try {
    return make();
  } catch (error) {
    console.warn(error);
    return [
      panel(
        "failed",
        "Not drawn",
        `The document does not hold what a chart needs: ${visible(error.message)}`,
        null,
      ),
    ];
  }
}

function draw() {
  hideTip();
  const found = drawn(() => {
    if (schema === "diff") {
      const shown = diffPanels(view, choose);
      csv = shown.csv;
      toolbar.querySelector("output")?.replaceChildren(shown.said);
      const list = detail?.samples ? [samplePanel(view, choose)] : [];
      return [...modePanel(), ...shown.panels, ...list, ...(reading === null ? [] : [tokenPanel(view, reading)])];
    }
    return (
      {
        staleness: stalenessPanels,
        staleness_series: seriesPanels,
        check: checkPanels,
        show: showPanels,
        checkpoint: checkpointPanels,
        ci: ciPanels,
        verify: verifyPanels,
        predict: predictPanels,
        beside: besidePanels,
      }[schema]?.() ?? []
    );
  });
  panels.replaceChildren(...found);
  for (const table of panels.querySelectorAll("table[data-name]")) armTable(table);
  const chosen = schema === "diff" ? selectionOf(view) : "";
  document.getElementById("whole").textContent = chosen
    ? `Of the whole run, not of the selection above (${chosen}).`
    : "";
}

/** Which mode of a recompute is drawn, where there are several. */
function modePanel() {
  if (modes.length < 2) return [];
  const others = modes.slice(1).map((one) => visible(one.mode));
  return [
    panel(
      "mode",
      `Mode ${visible(modes[0].mode)}`,
      `The charts are of this mode; figures of ${others.join(", ")} are in the tables below.`,
      null,
      true,
    ),
  ];
}

/** Show one of the worst sequences in every chart and in the token view; null is all samples. */
function choose(index) {
  view.sequence = index;
  if (index !== null) reading = index;
  toolbar.querySelector("[name=sample]").value = index ?? "";
  draw();
  if (index !== null) document.getElementById("tokens").scrollIntoView({ block: "start" });
}

function picker(name, label, options) {
  return el(
    "label",
    {},
    label,
    el("select", { name }, ...options.map(([value, text]) => el("option", { value }, text))),
  );
}

function buildToolbar() {
  if (schema !== "diff" || !layerNumbers.length) return;
  const [first, last] = [layerNumbers[0], layerNumbers.at(-1)];
  const number = (name, value) =>
    el("input", {
      type: "number",
      name,
      min: first,
      max: last,
      value,
      "aria-label": name === "from" ? "first layer" : "last layer",
    });
  const places = (detail?.places ?? []).map((p) => p.place);
  toolbar.append(el("label", {}, "Layers", number("from", first), "to", number("to", last)));
  if (places.length > 1)
    toolbar.append(picker("place", "Tokens", [["all", "all"], ...places.map((p) => [p, p])]));
  if (sequences.length)
    toolbar.append(
      picker("sample", "Sample", [
        ["", "all"],
        ...sequences.map((s, i) => [i, visible(s.entry.sample).slice(0, 60)]),
      ]),
    );
  toolbar.append(
    el("button", { type: "button", name: "reset", onclick: reset }, "Reset"),
    el(
      "button",
      { type: "button", name: "csv", onclick: () => saveCsv("routectl-diff.csv", csv()) },
      "Download CSV",
    ),
    el("output", { "aria-label": "rows in view", "aria-live": "polite" }),
  );
  toolbar.addEventListener("change", (event) => {
    const { name, value } = event.target,
      before = JSON.stringify(view);
    if (name === "from" || name === "to") {
      view[name] = clamp(Number(value) || first, first, last);
      if (view.from > view.to) view[name === "from" ? "to" : "from"] = view[name];
      for (const side of ["from", "to"]) toolbar.querySelector(`[name=${side}]`).value = view[side];
    }
    if (name === "place") view.place = value;
    if (name === "sample") return choose(value === "" ? null : Number(value));
    if (JSON.stringify(view) !== before) draw(); // a field that is left may change nothing
  });
  toolbar.hidden = false;
}

function reset() {
  Object.assign(view, {
    from: layerNumbers[0],
    to: layerNumbers.at(-1),
    place: "all",
    sequence: null,
  });
  for (const field of toolbar.querySelectorAll("input, select"))
    field.value = { from: view.from, to: view.to, place: "all", sample: "" }[field.name];
  draw();
}

const UNITS = { B: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };

/** A cell as a number where it is one, so that 9 comes before 10, 2 % before 10 %, kB before MB. */
function keyOf(text) {
  const [, size, unit] = /^([\d.]+) ([kMGT]?B)$/.exec(text) ?? [];
  if (unit) return Number(size) * UNITS[unit];
  const plain = text.replace(/ points$/, "").replace(/[,% ]/g, "").replace(/^[<>]/, "");
  return plain !== "" && !Number.isNaN(Number(plain)) ? Number(plain) : text;
}

/** Sortable by its heads; with a filter and a CSV button, unless it is plain; close where wide. */
function armTable(table) {
  const box = table.parentElement,
    lines = [...table.tBodies[0].rows];
  for (const { cells } of lines) cells[0].classList.toggle("long", cells[0].textContent.length > 16);
  for (let column = 1; column < table.tHead.rows[0].cells.length; column++) {
    const own = lines.map((row) => row.cells[column]).filter(Boolean);
    const texts = own.map((cell) => cell.textContent);
    if (texts.every((text) => typeof keyOf(text) === "number" || !/\p{L}/u.test(text))) continue;
    for (const row of table.rows) row.cells[column]?.classList.add("words");
    for (const cell of own) cell.classList.toggle("long", cell.textContent.length > 32);
  }
  if (box.scrollWidth > box.clientWidth) table.classList.add("close");
  if (table.dataset.plain !== undefined) return;
  const body = table.tBodies[0],
    heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = el("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const keyed = [...body.rows].map((row) => [keyOf(row.cells[column].textContent), row]);
      const order = (a, b) =>
        typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
      keyed.sort(([a], [b]) => (up ? order(a, b) : order(b, a)));
      body.append(...keyed.map(([, row]) => row));
    });
  });
  const rows = () =>
    [...table.rows]
      .filter((row) => !row.hidden)
      .map((row) => [...row.cells].map((cell) => keyOf(cell.textContent)));
  const tools = el("div", { class: "tools" });
  if (body.rows.length > 12) {
    tools.append(
      el("input", {
        type: "search",
        placeholder: "filter",
        "aria-label": `filter ${table.dataset.name}`,
        oninput: (event) => {
          const wanted = event.target.value.toLowerCase();
          for (const row of body.rows)
            row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
        },
      }),
    );
  }
  tools.append(
    el(
      "button",
      {
        type: "button",
        onclick: () => saveCsv(`routectl-${table.dataset.name.replaceAll(" ", "-")}.csv`, rows()),
      },
      "CSV",
    ),
  );
  box.before(tools);
}

function buildActions() {
  const root = document.documentElement;
  const theme = el("button", { type: "button", name: "theme" });
  const name = () => {
    theme.textContent = isDark() ? "Light" : "Dark";
  };
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    name();
    draw();
  });
  name();
  document
    .getElementById("actions")
    .append(
      theme,
      el("button", { type: "button", name: "json", onclick: saveJson }, "Download JSON"),
    );
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    draw();
    redrawAll();
  });
  addEventListener("afterprint", () => {
    before ? (root.dataset.theme = before) : delete root.dataset.theme;
    draw();
  });
}

function saveJson() {
  const link = el("a", {
    href: URL.createObjectURL(new Blob([JSON.stringify(saved)], { type: "application/json" })),
    download: `routectl-${schemaOf(saved)}.json`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

buildActions();
buildToolbar();
for (const table of document.querySelectorAll("#figures table[data-name]")) armTable(table);
document.getElementById("figures").hidden = !document.querySelector("#figures :is(p:not(.note), dl, table)");
draw();
document.documentElement.dataset.ready = "yes";
