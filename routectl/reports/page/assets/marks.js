// Elements, numbers, colours. Text is only ever set as text, never as markup, and as it may be shown.

function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svgEl(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false)
      node.setAttribute(name, value === true ? "" : shownLines(value));
  }
  node.append(
    ...children.filter((child) => child !== null && child !== undefined).map(shownLines),
  );
  return node;
}

const amount = (n) => Number(n).toLocaleString("en-US");

/** A share as a percentage; 0 % and 100 % only where it is exactly that. */
function percent(rate) {
  if (rate === null || rate === undefined || Number.isNaN(rate)) return "-";
  const value = 100 * rate;
  if (value && Math.abs(value) < 0.005) return "<0.01 %";
  if (value !== 100 && value.toFixed(2) === "100.00") return ">99.99 %";
  return `${value.toFixed(2)} %`;
}

const plural = (n, noun) => `${amount(n)} ${noun}${n === 1 ? "" : "s"}`;
const rateOf = (part, whole) => (whole ? part / whole : null);
const clamp = (n, lo, hi) => Math.min(hi, Math.max(lo, n));
const short = (n) => Number(Number(n).toPrecision(3)).toString();

// What is not seen as itself: routectl/visible.py has the same rule.
const HIDDEN = /[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu;
const SHORT = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** Text with all but its line ends visible; what is no text stays. */
const shownLines = (value) =>
  typeof value === "string"
    ? value.replace(HIDDEN, (char) => (char === "\n" ? char : escapeOf(char)))
    : value;

/** A character as its escape, as \n or \u202e. */
function escapeOf(char) {
  const code = char.codePointAt(0),
    hex = (digits) => code.toString(16).padStart(digits, "0");
  return (
    SHORT[char] ??
    (code < 256 ? `\\x${hex(2)}` : code < 65536 ? `\\u${hex(4)}` : `\\U${hex(8)}`)
  );
}

/** Text with what is invisible or turns text around escaped; a name is cut. */
const visible = (text, most = 1000) => {
  const whole = String(text);
  return whole.slice(0, most).replace(HIDDEN, escapeOf) + (whole.length > most ? "…" : "");
};

/** The bytes of a character in UTF-8 as a shell's $'' takes them, in any locale. */
const byteEscapes = (char) =>
  [...new TextEncoder().encode(char)].map((b) => `\\x${b.toString(16).padStart(2, "0")}`).join("");

/** A word of a shell command line. */
function quoted(text) {
  if (/^[\w@%+=:,./-]+$/.test(text)) return text;
  if (!text.match(HIDDEN)) return `'${text.replaceAll("'", "'\\''")}'`;
  return `$'${text.replace(/[\\']/g, "\\$&").replace(HIDDEN, byteEscapes)}'`;
}

/** Options of thresholds: what is looked at closer is not judged. */
const JUDGING = ["--fail-over", "--fail-under", "--fail-on", "--rerun", "--allow-unmatched"];

/**
 * A command line that runs where the report's own ran: what was typed, with other options in place
 * of those of their names. null where an input was a pipe, or a word has what no shell hands on.
 */
function commandLine(verb, asked, own) {
  if (asked.inputs.some((path) => /^(-|\/dev\/stdin)(::|$)/.test(path))) return null;
  const names = own.map(([flag]) => flag);
  const kept = asked.options.filter(([flag]) => !names.includes(flag) && !JUDGING.includes(flag));
  const words = [...kept, ...own].flatMap(([flag, value]) =>
    value === undefined ? [flag] : value.startsWith("-") ? [`${flag}=${value}`] : [flag, value],
  );
  const line = ["routectl", verb, ...asked.inputs, ...words];
  return line.some((word) => /\0|^\(name \d+ withheld\)$/.test(word) || !word.isWellFormed())
    ? null
    : line.map(quoted).join(" ");
}

/** A command to copy, or why there is none. */
const copied = (command) =>
  command === null
    ? [el("span", { class: "quiet" }, "No command can say this: an input was a pipe, or a name is withheld or cannot be typed.")]
    : [
        el("code", {}, command),
        el("button", { type: "button", onclick: () => copyText(command) }, "Copy command"),
      ];

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

// Ramps of even lightness, readable with any colour vision: YlGnBu (ColorBrewer) on light paper,
// cividis (Nuñez, Anderton, Renslow 2018) on dark; differences in PuOr (ColorBrewer).
const RAMPS = {
  light: ["#ffffd9", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#081d58"],
  dark: ["#00224e", "#23406f", "#4f576c", "#7d7c78", "#a59c74", "#d3c164", "#fee838"],
  lightDifference: ["#7f3b08", "#e08214", "#fdd9a6", "#f7f7f7", "#d8daeb", "#8073ac", "#2d004b"],
  darkDifference: ["#ffb45c", "#c9741a", "#6b4620", "#262c34", "#4b4470", "#8073ac", "#c9b8ff"],
};
const parts = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

/** The colour at a share of a ramp, as [r, g, b]. */
function mixed(ramp, share) {
  const at = Math.min(1, Math.max(0, share)) * (ramp.length - 1);
  const i = Math.min(Math.floor(at), ramp.length - 2);
  const [a, b] = [parts(ramp[i]), parts(ramp[i + 1])];
  return a.map((from, k) => Math.round(from + (b[k] - from) * (at - i)));
}

const isPale = ([r, g, b]) => 0.299 * r + 0.587 * g + 0.114 * b > 140;

/** A ramp as CSS colours by share; each of 256 is mixed once. */
function shades(ramp) {
  const made = [];
  return (share) => (made[Math.round(255 * share)] ??= `rgb(${mixed(ramp, share).join(",")})`);
}

/** The least share of a ramp that something above 0 has, so that it is told from nothing. */
const FAINT = 0.08;

/**
 * Colours of shares from 0 to ``most``, by their square root: small ones can be told apart.
 * middle is the value of the colour in the middle of the ramp.
 */
function rateScale(most, power = 0.5) {
  const ramp = RAMPS[isDark() ? "dark" : "light"],
    zero = css("--zero"),
    at = shades(ramp);
  const colour = (value) =>
    value > 0 ? at(FAINT + (1 - FAINT) * (value / most) ** power) : zero;
  const middle = percent(most * ((0.5 - FAINT) / (1 - FAINT)) ** (1 / power));
  return { colour, ramp, from: "0", middle, to: percent(most), root: power !== 1 };
}

/** Colours of differences from -most to most, by the square root of their size. */
function differenceScale(most) {
  const ramp = RAMPS[isDark() ? "darkDifference" : "lightDifference"];
  const at = shades(ramp);
  const side = (value) => Math.sign(value) * Math.sqrt(Math.abs(value) / most);
  return {
    colour: (value) => at(0.5 + 0.5 * side(value || 0)),
    ramp,
    from: `-${percent(most)}`,
    quarters: [`-${percent(most / 4)}`, `+${percent(most / 4)}`],
    middle: "0",
    to: `+${percent(most)}`,
    root: true,
  };
}

/**
 * What a ramp's colours mean: its ends, its middle, and whether it is one of square roots. place
 * is the share of the ramp at which the value of the middle is, where that is not the half.
 */
function legendOf(scale, what) {
  const [low, high] = scale.quarters ?? [];
  const values = [scale.from, low, scale.middle, high, scale.to].filter((v) => v !== undefined);
  const moved = scale.place && `position: relative; left: ${(100 * (scale.place - 0.5)).toFixed(1)}%`;
  const style = (value) => (value === scale.middle && moved) || null;
  return el(
    "div",
    { class: "legend" },
    scale.root ? `${what}, by its square root` : what,
    el(
      "span",
      { class: "scale" },
      el("span", {
        class: "ramp",
        style: `background: linear-gradient(90deg, ${scale.ramp.join(", ")})`,
      }),
      el("span", { class: "ticks" }, ...values.map((v) => el("span", { style: style(v) }, v))),
    ),
  );
}

const tip = document.getElementById("tip");
function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
  tip.style.top = `${y + 18 + box.height > innerHeight ? Math.max(4, y - box.height - 10) : y + 18}px`;
}
const hideTip = () => {
  tip.hidden = true;
};
const say = (text) => {
  document.getElementById("status").textContent = text;
};

function copyText(text) {
  const whole = () => say("copied");
  const area = el("textarea", { class: "unseen" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy"); // works in a file that was opened from disk
  area.remove();
  navigator.clipboard?.writeText(text).then(whole, whole) ?? whole();
}

/** Rows as a CSV file; text is visible, and what a spreadsheet would run is quoted. */
function saveCsv(name, rows) {
  const cell = (value) => {
    if (typeof value !== "string") return value === null || value === undefined ? "" : value;
    const text = /^\s*[=+\-@＝＋－＠]/.test(value) ? `'${visible(value)}` : visible(value);
    return /[",;]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const file = new Blob([rows.map((row) => row.map(cell).join(",")).join("\r\n"), "\r\n"], {
    type: "text/csv",
  });
  const link = el("a", { href: URL.createObjectURL(file), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** A section of the page; ``wide`` takes both columns. */
function panel(id, title, note, body, wide = false) {
  const head = el("h2", {}, title);
  return el(
    "section",
    { id, class: wide ? "wide" : null, "aria-label": title },
    head,
    note ? el("p", { class: "note" }, note) : null,
    ...[body].flat(),
  );
}

/**
 * A table that scrolls; the first cell of a row names it. Cells are texts or elements. A plain one
 * is short: it is not sorted, filtered or saved.
 */
function tableOf(name, heads, rows, { plain = false } = {}) {
  const head = heads.map((text) => el("th", { scope: "col" }, text));
  const body = rows.map(([first, ...rest]) =>
    el("tr", {}, el("th", { scope: "row" }, first), ...rest.map((cell) => el("td", {}, cell))),
  );
  const table = el(
    "table",
    { "data-name": name, "data-plain": plain },
    el("thead", {}, el("tr", {}, ...head)),
    el("tbody", {}, ...body),
  );
  const box = { class: "scroll", tabindex: 0, role: "region", "aria-label": name };
  return el("div", box, table);
}
