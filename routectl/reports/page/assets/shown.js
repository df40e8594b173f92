// The panels of show: what a dump holds, what a checkpoint is made of.

function showPanels() {
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
      "entropy",
      "Entropy of the load by layer",
      "As a share of the even load's; 1 is even.",
      lyingBars("entropy by layer", bar("entropy", short), { most: 1 }),
    ),
    ...(detail?.load ? [loadPanel(loadOfDump())] : []),
  ];
}

/** The load of a summary's dump, as loadPanel takes it. */
const loadOfDump = () => ({ shown: [...layerNumbers.keys()], load: { dump: detail.load.dump } });

const PALETTE = [
  "var(--bar)",
  "var(--bar-2)",
  "var(--bar-3)",
  "var(--chance)",
  "var(--good)",
  "var(--accent)",
];

/** Bytes in words: 1.2 GB. */
function bytesText(n) {
  if (n === null || n === undefined) return "-";
  const unit = [
    [1e12, "TB"],
    [1e9, "GB"],
    [1e6, "MB"],
    [1e3, "kB"],
  ].find(([size]) => n >= size);
  return unit ? `${(n / unit[0]).toPrecision(3)} ${unit[1]}` : `${n} B`;
}

function checkpointPanels() {
  const dtypes = doc.dtypes.map((e) => e.dtype);
  const colourOf = (dtype) => PALETTE[dtypes.indexOf(dtype) % PALETTE.length];
  const names = keys(...dtypes.map((dtype) => [colourOf(dtype), dtype]));
  return [layersPanel(colourOf, names), storedPanel(colourOf), layerTable()];
}

/** A bar a layer: dense ones are named so. */
function layersPanel(colourOf, names) {
  const moe = new Set(doc.layers);
  if (!doc.layer_bytes.length)
    return panel(
      "layers",
      "Layers",
      `Layers are stored stacked in one tensor each: sizes by layer are not told. MoE: ${layerRuns(doc.layers)}.`,
      null,
    );
  const bars = doc.layer_bytes.map((e) => ({
    name: `${e.layer} ${e.moe ? "MoE" : "dense"}`,
    tip: `layer ${e.layer}, ${e.moe ? "MoE" : "dense"}`,
    label: bytesText(e.bytes),
    parts: Object.entries(e.dtypes ?? { bytes: e.bytes }).map(([dtype, n]) => [
      n,
      e.dtypes ? colourOf(dtype) : "var(--bar)",
      `${dtype} ${bytesText(n)} of ${bytesText(e.bytes)}`,
    ]),
  }));
  const dense = doc.layer_bytes.length - moe.size;
  return panel(
    "layers",
    "Layers",
    `Bytes of each decoder layer as stored: ${amount(moe.size)} MoE, ${amount(dense)} dense.`,
    [lyingBars("bytes by layer", bars, { left: 74 }), names],
  );
}

/** Weights by dtype, and what a streamed run reads of them. */
function storedPanel(colourOf) {
  const lying = { left: 74, height: 24 };
  const stored = doc.dtypes.map((e) => ({
    name: e.dtype,
    label: bytesText(e.bytes),
    parts: [[e.bytes, colourOf(e.dtype), `${bytesText(e.bytes)} in ${plural(e.tensors, "tensor")}`]],
  }));
  return panel(
    "stored",
    "Weights by dtype",
    `${bytesText(doc.tensor_bytes)} in ${plural(doc.tensors, "tensor")} of ${plural(doc.files, "file")}.`,
    [
      lyingBars("bytes by dtype", stored, lying),
      el("h2", {}, "What a streamed run reads"),
      ...streamed(lying),
    ],
  );
}

function streamed(lying) {
  const largest = doc.largest_layer;
  const note = (text) => el("p", { class: "note" }, text);
  if (!largest) return [note("Not told: layers are stored stacked.")];
  const bars = [
    ["in layers", doc.streamed_bytes, `of ${plural(doc.layer_bytes.length, "layer")}`],
    ["the largest", largest.bytes, `layer ${largest.layer}`],
    ["routers", doc.router.bytes, `of ${plural(doc.layers.length, "layer")}`],
    ["outside", doc.other_bytes, "embeddings, norms, head, MTP, towers"],
  ].map(([name, bytes, text]) => ({
    name,
    label: bytesText(bytes),
    parts: [[bytes, "var(--bar)", `${bytesText(bytes)} ${text}`]],
  }));
  return [
    note("The layers once a batch, one after the other; what is outside of them is no layer's."),
    lyingBars("bytes that are streamed", bars, lying),
  ];
}

function layerTable() {
  const routers = new Map((doc.layer_routers ?? []).map((r) => [r.layer, r]));
  const sizes = new Map(doc.layer_bytes.map((e) => [e.layer, e]));
  const layers = sizes.size ? [...sizes.keys()] : doc.layers;
  const [experts, hidden] = doc.router.shape;
  const rows = layers.map((layer) => {
    const own = sizes.get(layer),
      router = routers.get(layer);
    const moe = doc.layers.includes(layer);
    return [
      String(layer),
      moe ? "MoE" : "dense",
      own ? bytesText(own.bytes) : "-",
      own?.dtypes
        ? Object.entries(own.dtypes)
            .map(([dtype, n]) => `${dtype} ${bytesText(n)}`)
            .join(", ")
        : "-",
      moe ? `${router?.dtype ?? doc.router.dtypes.join("/")} [${experts}, ${hidden}]` : "-",
      router?.expert_bias_dtype ?? "-",
      own ? "streamed" : "-",
    ];
  });
  const heads = ["layer", "kind", "bytes", "by dtype", "router", "expert bias", "forward"];
  return panel("listed", "Layers, one by one", null, tableOf("layers", heads, rows), true);
}
