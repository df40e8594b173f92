"""Documents that are hostile, or large, and what an HTML parser sees in their pages."""

import functools
import json
from html.parser import HTMLParser

import numpy as np

from routectl.checkpoints.predictor import PredictorFacts, PredictorLayer
from routectl.dump import Dump, DumpMeta, Sample, key_of
from routectl.ops.diff.diff import DiffOptions, diff_as
from routectl.ops.predict.scores import PredictionScores, predictor_scores
from routectl.reports.diff.document import diff_document
from routectl.reports.predict.document import prediction_document
from routectl.reports.text.wording import amount, percent
from routectl.routes import Routes
from support.dumps import make_dump
from support.poison import POISON
from support.recordings import FIXTURES

OLD = FIXTURES / "tiny_rl" / "vllm.bf16" / "samples.jsonl"
NEW = FIXTURES / "tiny_rl" / "routes_v0.margins.parquet"
HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<!--<script>",
    "line\u2028and\u2029paragraph",
    "right\u202eto left",
    "<img src=x onerror=\"document.title='owned'\">",
    "=cmd|' /C calc'!A0",
    "'; touch owned; echo '",
    "x" * 100_000,
    "\x00\x1b[31m\ud800",
    "${word} $word $$",
    POISON,
)


class Parsed(HTMLParser):
    """The elements of a page, its visible text, its data and its tables as cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.tables = [], [], [], []
        self.inside, self.scripts = [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        """Note the element; cells begin empty."""
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "link", "br"):
            self.inside.append(tag)
        if tag == "script":
            self.scripts[dict(attributes)["type"]] = ""
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        """Elements close in order."""
        assert self.inside.pop() == tag

    def handle_data(self, data):
        """Text goes to the cell, the script or the page that it is in."""
        where = self.inside[-1] if self.inside else None
        if where == "script":
            self.scripts[list(self.scripts)[-1]] += data
        elif where in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if where not in ("script", "style"):
            self.texts.append(data)

    @property
    def data(self):
        """The document inside the page."""
        return json.loads(self.scripts["application/json"])

    @property
    def text(self):
        """What is visible."""
        return "".join(self.texts)


def hostile_document():
    """A diff whose sample ids, paths, engine and model are hostile, every sample mismatched."""
    ids = np.zeros((4, 2, 2), np.uint8)
    ids[..., 1] = 1
    other = ids.copy()
    other[..., 1] = 2
    about = {
        "layers": (0, 1),
        "experts": 4,
        "path": HOSTILE[0],
        "engine": HOSTILE[1],
        "engine_version": HOSTILE[3],
        "model": HOSTILE[4],
    }
    sides = (
        make_dump(
            [Sample(Routes(array, (0, 1), 4), name, prompt_length=2) for name in HOSTILE], **about
        )
        for array in (ids, other)
    )
    return diff_document(diff_as(*sides, DiffOptions(match="id", examples=20, detail=True)))


def predicted_document():
    """A prediction of two later versions, three kinds of routes, some of them right."""
    later = np.random.default_rng(0).integers(0, 8, (600, 3, 2), np.uint8)
    scores = []
    for lag, version in enumerate(("v1", "v2"), 1):
        kinds = {"frozen": 0.2 * lag, "extrapolated": 0.15 * lag, "predicted": 0.1 * lag}
        routes = {}
        for kind, share in kinds.items():
            moved = np.random.default_rng(lag).random((600, 3, 1)) < share
            routes[kind] = np.where(moved, (later + 1) % 8, later)
        rows = np.ones(600, np.bool_), (200, 200, 200)
        scores.append(predictor_scores(routes, later, (version, lag), (1, 3, 5), rows))
    layers = tuple(PredictorLayer(n, 1.0, 1, 1, 1, 1) for n in (1, 3, 5))
    facts = PredictorFacts("qwen3_moe", "v0", ("v1",), {"v0": "ab"}, 9, 3, 1, layers)
    found = PredictionScores("v0", "extrapolated", tuple(scores), (), 600, 0)
    sources = {"v1": "recomputed", "v2": "recomputed"}
    return prediction_document(found, facts, "v0.inputs", sources, ())


def large_dumps(samples, tokens, layers=48, top_k=8, experts=128):
    """Two dumps of samples x tokens, about one row in twenty mismatched; ids by arithmetic."""
    numbers = tuple(range(layers))
    dtype = np.uint8 if experts <= 256 else np.uint16

    @functools.cache
    def ids(seed):
        rng = np.random.default_rng(seed)
        first = rng.integers(0, experts, (tokens, layers, 1))
        return ((first + 3 * np.arange(top_k)) % experts).astype(dtype)

    def changed(i):
        rng = np.random.default_rng(1000 + i)
        array = ids(i % 5).copy()
        marks = rng.random((tokens, layers), np.float32) < 0.02 * (1 + i % 5)
        array[marks, -1] = (array[marks, -1] + 1) % experts
        return array

    def dump(path, of_sample):
        words = np.arange(tokens + 1, dtype=np.int32) * 127 % 150_000
        keys = [key_of(f"sample-{i}", words[:100], words[100:] + i) for i in range(samples)]

        def load(i):
            return Sample(
                Routes(of_sample(i), numbers, experts),
                f"sample-{i}",
                prompt_ids=words[:100],
                response_ids=words[100:] + i,
                prompt_length=100,
                response_length=tokens - 99,
            )

        return Dump(DumpMeta(path, "native", numbers, experts, top_k), keys, load)

    return dump("old.parquet", lambda i: ids(i % 5)), dump("new.parquet", changed)


def said(page):
    """The line of the toolbar: how many rows are in view, and differ."""
    return page.inner_text("#toolbar output")


def line_of(counts):
    """What the toolbar says of counts."""
    rows, bad = counts["rows"], counts["rows_mismatched"]
    return f"{amount(bad)} of {amount(rows)} rows ({percent(bad / rows)})"


def added(parts):
    """Rows and mismatched rows of several entries together."""
    return {key: sum(part[key] for part in parts) for key in ("rows", "rows_mismatched")}


def tips_of(page, chart):
    """What the marks of a chart say of themselves."""
    return page.eval_on_selector_all(f"{chart} rect", "all => all.map(e => e.dataset.tip)")


def select(page, doc, tokens="all", layers="0-5", sample=()):
    """Set the toolbar to what a diff would be asked for."""
    page.click("[name=reset]")
    if sample:
        names = [entry["sample"] for entry in doc["detail"]["sequences"]]
        page.select_option("[name=sample]", str(names.index(sample[0])))
    page.select_option("[name=place]", tokens)
    for side, layer in zip(("from", "to"), (layers.split("-") * 2)[:2], strict=True):
        page.fill(f"[name={side}]", layer)
        page.dispatch_event(f"[name={side}]", "change")
