// The token view: one of the worst sequences, its tokens shaded by how many layers differ.

const SHOWN = 2000; // tokens drawn at once; the others come with "more"

/** A reader of sequence i; layers by index are those that count. */
function tokenPanel(view, i) {
  const seq = sequences[i].whole,
    { entry } = seq;
  const shown = shownLayers(view);
  const texts = entry.token_texts ?? null;
  const found = new Map(); // by token, its layers that differ
  const differing = (t) =>
    found.get(t) ??
    found
      .set(
        t,
        shown.filter((l) => seq.differs(t, l)),
      )
      .get(t);
  const ramp = RAMPS[isDark() ? "dark" : "light"];
  const listed = [...Array(seq.tokens).keys()].filter(
    (t) => view.place === "all" || seq.place(t) === view.place,
  );
  const most = Math.max(1, ...listed.map((t) => differing(t).length));
  const shareOf = (count) => FAINT + (1 - FAINT) * Math.sqrt(count / most); // of the ramp
  const middle = Math.max(1, Math.round(most * ((0.5 - FAINT) / (1 - FAINT)) ** 2)); // a count is whole
  const box = el("div", {
    class: texts ? "tokens" : "tokens ids",
    role: "listbox",
    "aria-label": "tokens; arrow keys move, Enter shows both sides",
  });
  const sides = el(
    "div",
    { class: "sides", "aria-live": "polite" },
    el("p", { class: "note" }, "Pick a token to see both sides, layer by layer."),
  );
  const chips = new Map();

  function chip(t) {
    const layers = differing(t);
    const text = texts
      ? textOf(texts[t])
      : String(entry.token_ids ? entry.token_ids[t] : seq.position(t));
    const node = el(
      "span",
      {
        role: "option",
        tabindex: -1,
        "data-t": t,
        "aria-label": `position ${seq.position(t)}, ${layers.length} of ${shown.length} layers differ`,
      },
      text,
    );
    if (layers.length) {
      const shade = mixed(ramp, shareOf(layers.length));
      node.style.background = `rgb(${shade.join(",")})`;
      node.classList.add(isPale(shade) ? "light" : "dark");
    }
    chips.set(t, node);
    return node;
  }

  function fill(from) {
    const end = Math.min(from + SHOWN, listed.length);
    for (let n = from; n < end; n++) {
      const t = listed[n],
        place = seq.place(t);
      if (n === 0 || place !== seq.place(listed[n - 1]))
        box.append(
          el(
            "b",
            {},
            `${place === "unknown" ? "tokens" : place}, from position ${seq.position(t)}`,
          ),
        );
      box.append(chip(t));
    }
    if (end < listed.length) {
      const more = el(
        "button",
        {
          type: "button",
          onclick: () => {
            more.remove();
            fill(end);
          },
        },
        `${amount(listed.length - end)} more tokens`,
      );
      box.append(more);
    }
  }

  function pick(t, focus) {
    box.querySelector(".picked")?.classList.remove("picked");
    for (const node of box.querySelectorAll("[tabindex='0']")) node.tabIndex = -1;
    const node = chips.get(t);
    node.classList.add("picked");
    node.tabIndex = 0;
    if (focus) node.focus();
    sides.replaceChildren(...bothSides(view, seq, t, shown));
  }

  const tokenAt = (target) => (target.dataset?.t === undefined ? null : Number(target.dataset.t));
  box.addEventListener("click", (event) => {
    const t = tokenAt(event.target);
    if (t !== null) pick(t, true);
  });
  box.addEventListener("pointermove", (event) => {
    const t = tokenAt(event.target);
    t === null ? hideTip() : showTip(hoverText(seq, t, differing(t)), event.clientX, event.clientY);
  });
  box.addEventListener("pointerleave", hideTip);
  box.addEventListener("keydown", (event) => {
    const t = tokenAt(event.target);
    if (t === null) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      pick(t, true);
    }
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -10, ArrowDown: 10 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const next =
      listed[clamp(listed.indexOf(t) + step, 0, Math.min(listed.length, chips.size) - 1)];
    event.target.tabIndex = -1;
    chips.get(next).tabIndex = 0;
    chips.get(next).focus();
  });
  fill(0);
  if (listed.length) chips.get(listed[0]).tabIndex = 0;
  const cut =
    entry.kept < entry.tokens
      ? ` Its ${amount(entry.kept)} of ${amount(entry.tokens)} tokens with most mismatches are here.`
      : "";
  const what = texts
    ? ""
    : entry.token_ids
      ? " Numbers are token ids; --tokenizer shows text."
      : " Numbers are positions: the dumps do not know the tokens.";
  return panel(
    "tokens",
    `Tokens of sample ${visible(entry.sample)}`,
    `The ${isDark() ? "brighter" : "darker"}, the more layers differ: up to ${most} of ${shown.length}.${cut}${what}`,
    [
      el("div", { class: "reader" }, box, sides),
      legendOf(
        {
          ramp: RAMPS[isDark() ? "dark" : "light"],
          from: "0",
          ...(middle < most ? { middle: String(middle), place: shareOf(middle) } : {}),
          to: String(most),
          root: true,
        },
        "layers that differ",
      ),
    ],
    true,
  );
}

/** A token's text with line ends and what is invisible made visible. */
function textOf(text) {
  const shown = (char) => ({ "\n": "⏎\n", "\t": "⇥" })[char] ?? escapeOf(char);
  return text === "" ? "·" : String(text).replace(HIDDEN, shown);
}

function hoverText(seq, t, layers) {
  const lines = layers.slice(0, 8).map((l) => {
    const { old, new: now } = seq.sets(t, l);
    const only = (a, b) => a.filter((id) => !b.includes(id)).join(" ") || "-";
    return `layer ${layerName(l)}: ${only(old, now)} → ${only(now, old)}`;
  });
  if (layers.length > 8) lines.push(`and ${plural(layers.length - 8, "more layer")}`);
  return [
    `position ${seq.position(t)}: ${plural(layers.length, "layer")} with other experts`,
    ...lines,
  ].join("\n");
}

/** Both sides of a token, layer by layer; ids of one side alone are marked. */
function bothSides(view, seq, t, shown) {
  const ids = (own, other) =>
    own.flatMap((id, n) => [
      n ? " " : "",
      other.includes(id) ? String(id) : el("mark", {}, String(id)),
    ]);
  const rows = shown.map((l) => {
    if (seq.missing(t, l))
      return el(
        "tr",
        {},
        el("th", { scope: "row" }, layerName(l)),
        el("td", { colspan: 2 }, "no route on a side"),
      );
    const { old, new: now } = seq.sets(t, l);
    return el(
      "tr",
      { class: seq.differs(t, l) ? "differs" : null },
      el("th", { scope: "row" }, layerName(l)),
      el("td", {}, ...ids(old, now)),
      el("td", {}, ...ids(now, old)),
    );
  });
  const id = seq.entry.token_ids ? `, token ${seq.entry.token_ids[t]}` : "";
  const position = seq.position(t);
  const first = shown.find((l) => seq.differs(t, l));
  const own = {
    ...view,
    place: "all",
    sequence: sequences.findIndex((s) => s.entry === seq.entry),
  };
  const command = commandOf(
    own,
    first === undefined
      ? layerNumbers[shown[0]]
      : shown
          .filter((l) => seq.differs(t, l))
          .map((l) => layerNumbers[l])
          .join(","),
    position,
    position,
  );
  return [
    el(
      "p",
      { class: "note" },
      `Position ${position}${id}, ${seq.place(t)}. Ids of one side alone are underlined.`,
    ),
    el(
      "table",
      {},
      el(
        "thead",
        {},
        el("tr", {}, ...["layer", "old", "new"].map((h) => el("th", { scope: "col" }, h))),
      ),
      el("tbody", {}, ...rows),
    ),
    el("div", { class: "cell" }, ...copied(command)),
  ];
}
