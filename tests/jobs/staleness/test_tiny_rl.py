"""The recorded numbers of the trained model, from its checkpoints at v0, v1 and v2.

The expected figures come from fixtures/tiny_rl, computed by programs that share no code with
routectl.
"""

import runpy
from dataclasses import replace

import numpy as np
import pytest

from routectl.dump import Dump
from routectl.formats import open_dump
from routectl.ops.diff.diff import diff
from support.recordings import FIXTURES
from support.tiny_rl import COMPARISONS, ENGINE, TINY, TRUTH, VERSIONS, assert_recorded

MISMATCHED = (2_055, 8_536, 12_565, 8_749, 12_780)  # the data README's table, in this order


def fed(dump):
    """The dump without the row of each last token, which an engine never feeds."""

    def load(index):
        sample = dump[index]
        routes = sample.routes
        cut = {"ids_TLK": routes.ids_TLK[:-1], "margin_TL": routes.margin_TL[:-1]}
        return replace(sample, routes=replace(routes, **cut))

    return Dump(dump.meta, dump.keys, load)


@pytest.fixture(scope="module")
def sides(tiny_dumps):
    """The engine's dump and the recomputed ones, by name, with the same rows."""
    return {"engine": open_dump(ENGINE)} | {name: fed(dump) for name, dump in tiny_dumps.items()}


@pytest.mark.models
@pytest.mark.parametrize("version", VERSIONS)
def test_recorded_routes_come_out_of_the_checkpoints(version, tiny_dumps):
    """Every row of transformers' recorded routes is a row that recompute gives, as a set."""
    recorded = open_dump(TINY / f"routes_{version}.fp32.npz", model=TINY / "config.json")
    assert len(recorded) == len(tiny_dumps[version]) == 96
    for theirs, ours in zip(recorded, tiny_dumps[version], strict=True):
        np.testing.assert_array_equal(theirs.token_ids, ours.token_ids)
        rows = theirs.routes.num_tokens
        assert (theirs.routes.start, rows) == (0, ours.routes.num_tokens - 1)
        ids_TLK = np.sort(ours.routes.ids_TLK[:rows], axis=2)
        np.testing.assert_array_equal(ids_TLK, np.sort(theirs.routes.ids_TLK, axis=2))


@pytest.mark.models
@pytest.mark.parametrize(
    ("name", "mismatched"),
    list(zip(COMPARISONS, MISMATCHED, strict=True)),
    ids=map("/".join, COMPARISONS.values()),
)
def test_comparisons_come_out_of_the_checkpoints(name, mismatched, sides):
    """Mismatch, staleness and total are the recorded ones: in total, per layer, by swaps."""
    old, new = (sides[side] for side in COMPARISONS[name])
    result, truth = diff(old, new), TRUTH[name]
    assert (result.rows, result.rows_mismatched) == (101_616, mismatched)
    assert_recorded(result, truth)


@pytest.mark.models
@pytest.mark.parametrize(
    ("version", "k3", "f2"),
    [
        ("v0", 0.0015548, 0.000868),
        ("v1", 0.017467, 0.009766),
    ],
)
def test_logprobs_come_out_of_the_checkpoints(version, k3, f2, sides):
    """k3 and F(2) of the sampled tokens against the engine's log-probs are the recorded ones."""
    sums, truth = diff(sides["engine"], sides[version]).logprobs, TRUTH[f"logprob fp32 {version}"]
    assert (sums.tokens, sums.over_tau / sums.tokens) == (truth["tokens"], truth["F2"])
    assert round(sums.over_tau / sums.tokens, 6) == f2
    assert sums.sum_of("k3") / sums.tokens == pytest.approx(truth["k3"], rel=1e-5)
    assert sums.sum_of("k3") / sums.tokens == pytest.approx(k3, rel=5e-5)
    assert -sums.sum_of("d") / sums.tokens == pytest.approx(truth["k1"], abs=1e-7)


def test_a_damaged_checkpoint_is_refused(tmp_path, monkeypatch):
    """Weights whose digest is not the recorded one are not unpacked."""
    script = runpy.run_path(str(FIXTURES / "tiny_rl_checkpoints.py"))
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(script["SUMS"].read_text("ascii").replace("f3cc", "f3cd"), "ascii")
    monkeypatch.setitem(script["unpack"].__globals__, "SUMS", sums)
    with pytest.raises(ValueError, match=r"v0\.xz: damaged"):
        script["unpack"](tmp_path)
    assert list(tmp_path.iterdir()) == [sums]
