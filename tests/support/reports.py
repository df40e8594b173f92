"""A document of every schema that is printed as text, with much in it; and how each is printed."""

import copy
import io
import json

import msgspec
import numpy as np

from routectl.checkpoints.predictor import PredictorFacts, PredictorLayer
from routectl.ops.predict.scores import PredictionScores, predictor_scores
from routectl.reports.check.text import render_check
from routectl.reports.ci.text import render_ci
from routectl.reports.diff.text import render_diff
from routectl.reports.document import visible_document
from routectl.reports.pack.text import render_packed, render_verified
from routectl.reports.predict.document import prediction_document
from routectl.reports.predict.text import render_prediction
from routectl.reports.recompute.text import render_recompute
from routectl.reports.show.text import render_checkpoint, render_summary
from routectl.reports.staleness.series_text import render_series
from routectl.reports.staleness.text import render_staleness
from routectl.reports.text.tables import open_console
from support.recordings import FIXTURES
from support.schemas import TYPES

__all__ = ["REPORTS", "Terminal", "golden", "many_layers", "printed_report", "render_for"]

RENDERS = {
    "diff": render_diff,
    "check": render_check,
    "recompute": render_recompute,
    "show": render_summary,
    "checkpoint": render_checkpoint,
    "staleness": render_staleness,
    "staleness_series": render_series,
    "predict": render_prediction,
    "pack": render_packed,
    "verify": render_verified,
    "ci": render_ci,
}
LONG = "/data/runs/2026-11-28_grpo-qwen3-30b-a3b/step_000120/rollouts/samples.jsonl"


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        """Always."""
        return True


def golden(name):
    """A document of fixtures/golden."""
    return json.loads((FIXTURES / "golden" / f"{name}.json").read_text("utf-8"))


def many_layers(document, number=48):
    """A diff of so many layers: those that it has, again and again, with fewer mismatches."""
    found = copy.deepcopy(document)
    old, found["layers"] = found["layers"], []
    for layer in range(number):
        one = copy.deepcopy(old[layer % len(old)])
        one["layer"] = layer
        one["rows_mismatched"] = max(one["rows_mismatched"] - 60 * (layer % 11), 0)
        one["mismatch_rate"] = one["rows_mismatched"] / one["rows"]
        found["layers"].append(one)
    for place in found["detail"]["places"]:
        for name in ("rows", "rows_mismatched"):
            place[name] = [place[name][layer % len(old)] for layer in range(number)]
    return found


def predicted():
    """Scores of three kinds of routes at two later versions, and a threshold that is crossed."""
    layer = PredictorLayer(1, None, 1, 1, 1, 1)
    later = ("step_000121", "step_000122")
    facts = PredictorFacts(
        "qwen3_moe", "step_000120", later, {"step_000120": "ab"}, 9, 3, 1, (layer,)
    )
    ids_TLK = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    kinds = ("frozen", "extrapolated", "predicted")
    routes = {kind: ids_TLK + n for n, kind in enumerate(kinds)}
    rows, lens = np.arange(6) < 4, (2, 2, 2)
    scores = tuple(
        predictor_scores(routes, ids_TLK, (name, lag), (1, 3), (rows, lens))
        for lag, name in enumerate(later, 1)
    )
    found = PredictionScores("step_000120", "step_000119", scores, (), 4, 2)
    sources = dict.fromkeys(later, "recomputed")
    return prediction_document(found, facts, LONG, sources, (("gain:1%", later[0], -0.5),))


def packed():
    """A manifest of 96 samples on 64 ranks."""
    file = {"path": "dp0-cp0-tp0-pp0/mb0000.safetensors", "micro_batch": 3, "dp": 0, "cp": 0}
    layout = dict.fromkeys(
        ("pad_multiplier", "fp8", "sample_multiple", "min_local_rows", "bucket", "seq_len", "plan")
    )
    pipeline = {"num_layers": 48, "pp": 4, "vpp": 2, "first": None, "last": None, "layout": None}
    return {
        "schema": "routectl.pack/1",
        "routectl": "0.1.0",
        "source": {
            "path": LONG,
            "format": "jsonl",
            "file_bytes": 9,
            "engine": "vllm",
            "engine_version": "0.32.0",
        },
        "layout": {
            **layout,
            "framework": "verl",
            "tp": 2,
            "cp": 2,
            "form": "thd",
            "dp": 4,
            "pipeline": {**pipeline, "embedding": False, "loss": False},
            "lens": [4096] * 96,
        },
        "tensors": {
            "dtype": "int16",
            "padding": "zero",
            "ep": 8,
            "num_experts": 128,
            "top_k": 8,
            "layers": [*range(1, 48)],
        },
        "stages": [],
        "only": {},
        "skipped": [{"sample": 3, "sample_id": "a", "why": "damaged"}],
        "rows": 393216,
        "padding_rows": 1057,
        "bytes": 297467904,
        "extents": [],
        "files": [{**file, "tp": 0, "pp": 0, "rows": 4, "bytes": 9, "sha256": "ab"}],
    }


def verified():
    """A folder with everything wrong that can be."""
    counts = ("rows_reordered", "rows_masked", "rows_unmasked", "rows_missing", "rows_made_up")
    names = [f"dp0-cp{n}-tp0-pp0/mb0003.safetensors" for n in range(4)]
    wrong = {"file": names[0], "layer": 11, "row": 2047, "sample": 17, "position": 1023}
    suspect = {"form": "thd", "shift": -1, "layer_shift": 1, "rate": 0.9982}
    frameworks = ["slime", "slime-allgather", "miles", "miles-allgather", "relax", "relax-vl"]
    moves = [({"mb": n}, {"mb": n + 1}) for n in range(12)]
    moves.append(({"mb": 2, "dp": 0, "cp": 1}, {"mb": 3, "dp": 1, "cp": 0}))
    moves.append(({"dp": 2, "cp": 1}, {"dp": 1, "cp": 0}))
    return {
        "schema": "routectl.verify/1",
        "ok": False,
        "verdict": {"exit_code": 1},
        "folder": "/data/runs/replay-tensors-of-step-000120",
        "dump": LONG,
        "files": 48,
        "absent_files": names,
        "misfits": [f"{name}: layer 1: got (1024, 4), expected (1021, 4)" for name in names],
        "extra_files": names,
        "faults": [f"{name}: no layer 3 in it" for name in names],
        "changed_files": names,
        "rows": 393216,
        "rows_wrong": 12288,
        "routes": 393120,
        "routes_absent": 1,
        "routes_repeated": 4096,
        **dict.fromkeys(counts, 1234),
        "padding_rows": {"zero": 1057, "spread": 3},
        "ep": 8,
        "ep_imbalance": 1.875,
        "ep_imbalance_padding": 4.0,
        "wrong": [
            {"file": name, "layer": n, "rows": 2048, "rows_wrong": 2000}
            | {"shift": by, "rows_shifted": some, "holds": None}
            for name, (by, some) in zip(
                names, [(-1, 1990), (None, 0), (2, 1900), (1, 9)], strict=True
            )
            for n in (11, 12)
        ],
        "examples": [{**wrong, "got": [*range(8)], "expected": [*range(100, 108)]}] * 3,
        "moves": [{"place": place, "holds": holds, "files": 1} for place, holds in moves],
        "suspects": [{**suspect, "frameworks": frameworks, "options": {"pad_multiplier": None}}],
        "suspects_of": {"micro_batch": 0, "pp": 0, "layer": 2},
    }


def ci():
    """Twelve runs: three in trouble, five that failed, the rest passed."""
    status = ["trouble"] * 3 + ["failed"] * 5 + ["passed"] * 4
    failed = ["mismatch@*:3%: 3.03 % over 3 % in layer 5"] * 2
    runs = [
        {
            "name": f"engine-against-trainer-{n}",
            "check": "engine-against-trainer",
            "key": None,
            "verb": "staleness",
            "inputs": {"old": LONG},
            "status": how,
            "exit_code": {"passed": 0, "failed": 1, "trouble": 2}[how],
            "summary": "OVER  1 threshold crossed; 2,055 of 101,616 rows (2.02 %) differ",
            "details": [] if how == "passed" else failed,
            "failed": [],
            "metrics": {},
            "seconds": 0.5,
        }
        for n, how in enumerate(status)
    ]
    return {
        "schema": "routectl.ci/1",
        "config": "routectl-ci.toml",
        "baseline": None,
        "counts": {"passed": 4, "failed": 5, "trouble": 3},
        "runs": runs,
        "verdict": {"exit_code": 2},
    }


def recomputed():
    """A dump recomputed in both modes, with a noise floor and a threshold that is crossed."""
    failure = {"threshold": "mismatch:1%", "metric": "mismatch", "layer": None, "mode": "free"}
    noise = {"rows": 101616, "rows_mismatched": 12, "mismatch_rate": 12 / 101616, "refused": None}
    refused = {"rows": 0, "rows_mismatched": 0, "mismatch_rate": None}
    file = {"samples": 96, "tokens": 17032, "file_bytes": 304000}
    return {
        "schema": "routectl.recompute/1",
        "checkpoint": "/data/checkpoints/qwen3-30b-a3b/step_000120",
        "dump": golden("diff")["old"],
        "inputs": None,
        "provenance": {"model_type": "qwen3_moe", "dtype": "bfloat16", "device": "cuda"},
        "files": [
            {**file, "mode": mode, "path": f"/data/runs/step_000120/{mode}.parquet"}
            for mode in ("free", "forced")
        ],
        "comparisons": [
            {"mode": "free", "diff": golden("diff")},
            {"mode": "forced", "diff": golden("diff.margins")},
        ],
        "not_compared": None,
        "noise": [
            {**noise, "name": "padded batches"},
            {**refused, "name": "other threads", "refused": "one thread alone was asked for"},
        ],
        "verdict": {
            "thresholds": ["mismatch:1%"],
            "failed": [{**failure, "value": 0.0202, "limit": 0.01}],
            "exit_code": 1,
        },
    }


REPORTS = {
    "diff": lambda: golden("diff"),
    "diff with margins": lambda: golden("diff.margins"),
    "diff of 48 layers": lambda: many_layers(golden("diff.detail")),
    "check": lambda: golden("check"),
    "recompute": recomputed,
    "show": lambda: golden("show"),
    "show with margins": lambda: golden("show.margins"),
    "checkpoint": lambda: golden("checkpoint"),
    "staleness": lambda: golden("staleness"),
    "series": lambda: golden("series"),
    "predict": predicted,
    "pack": packed,
    "verify": verified,
    "ci": ci,
}


def name_of(document):
    """The name of a document's schema: ``diff``."""
    return document["schema"].removeprefix("routectl.").partition("/")[0]


def render_for(document):
    """What prints a document, which must be of its type."""
    name = name_of(document)
    msgspec.convert(json.loads(json.dumps(document)), TYPES[name], strict=True)
    return RENDERS[name]


def printed_report(monkeypatch, document, columns, wrap=None):
    """A document as text: on a terminal of so many columns, without colours; in a pipe for None.

    ``wrap`` makes another render of the document's own.
    """
    for variable, value in (("TERM", "dumb"), ("LINES", 40), ("COLUMNS", columns)):
        if value is not None:
            monkeypatch.setenv(variable, str(value))
    page = io.StringIO() if columns is None else Terminal()
    render = render_for(document)
    (wrap(render) if wrap else render)(visible_document(document), open_console(page))
    return page.getvalue()
