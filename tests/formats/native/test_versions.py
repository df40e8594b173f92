"""Native files of every version that was ever written, by the code that wrote them, are read.

fixtures/versions/README.md says which commit wrote which. Shape suffixes: T rows, L MoE layers,
K top_k.
"""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from routectl.formats import open_dump
from routectl.formats.native.container import check_native
from routectl.formats.native.schema import CODED, SCHEMAS, WITH_GATES
from support.recordings import FIXTURES, decode, read_lines

FOLDER = FIXTURES / "versions" / "native"
PATHS = sorted(FOLDER.glob("*.parquet"))
TINY = [path for path in PATHS if "tables" in path.name]  # samples of tiny_rl
FOUR = [path for path in PATHS if path not in TINY]


def _truth(i):
    """What the i-th of the four samples holds, by name."""
    with np.load(FOLDER / "truth.npz", allow_pickle=False) as truth:
        return {n.partition(".")[0]: truth[n] for n in truth.files if n.endswith(f".{i}")}


def _blocks(path):
    """The metadata of a native file, as JSON text."""
    return pq.read_schema(path).metadata[b"routectl"].decode()


def test_the_truth_is_that_of_the_recording():
    """What the files are held against is the recording's own payload, decoded by hand."""
    recorded = FIXTURES / "recordings" / "vllm-0.32.0" / "deepseek_v3.bf16.grpo" / "samples.jsonl"
    for i, line in enumerate(read_lines(recorded)[:4]):
        truth, ids_TLK = _truth(i), decode(line["routed_experts_b64npy"])[:, 1:]
        there_TL = ~truth["missing"]
        assert np.array_equal(truth["ids"][there_TL], ids_TLK[there_TL])
        assert truth["prompt"].tolist() == line["prompt_token_ids"]


def test_there_is_a_file_of_each_version():
    """Every container version and every codec that is known has a file."""
    assert {path.name[0] for path in PATHS} == {s[-1] for s in (*SCHEMAS, WITH_GATES, CODED)}
    blocks = "".join(map(_blocks, PATHS))
    for name in ("plain", "packed", "set", "context", "delta", "token"):
        assert f'"codec": "{name}"' in blocks


@pytest.mark.parametrize("path", FOUR, ids=lambda path: path.stem)
def test_a_file_of_before_holds_what_was_written(path):
    """Ids, missing rows, margins, gates, tokens and log-probs are those that went in."""
    dump = open_dump(path)
    assert (dump.meta.layers_L, dump.meta.num_experts, dump.meta.top_k) == ((1, 2, 3, 4), 32, 4)
    assert len(dump) == 4
    assert dump[3].routes is None
    ascending = '"sorted": true' in _blocks(path)
    for i, sample in enumerate(dump):
        truth, routes = _truth(i), sample.routes
        assert sample.prompt_ids.tolist() == truth["prompt"].tolist()
        assert sample.response_ids.tolist() == truth["response"].tolist()
        assert sample.logprobs.tolist() == truth["logprobs"].tolist()
        assert [dataclasses.astuple(s) for s in sample.weight_spans] == [
            ("v3", 0, 10),
            ("v4", 10, len(sample.response_ids)),
        ]
        if routes is None:
            continue
        there_TL = ~truth["missing"]
        found_TL = routes.missing_TL if i == 1 else np.zeros_like(there_TL)
        assert np.array_equal(found_TL, truth["missing"])
        wanted = np.sort(truth["ids"]) if ascending else truth["ids"]
        assert np.array_equal(routes.ids_TLK[there_TL], wanted[there_TL])
        for name in ("margin_TL", "group_margin_TL"):
            margin_TL = getattr(routes, name)
            assert (margin_TL is not None) == getattr(dump.meta, name.replace("_TL", "s"))
            if margin_TL is not None:
                assert np.array_equal(margin_TL, truth[name[:-3]], equal_nan=True)
        assert (sample.gates is not None) == dump.meta.gates
        if sample.gates is not None:
            assert np.array_equal(sample.gates.logprobs_TLK, truth["gates"], equal_nan=True)


@pytest.mark.parametrize("path", TINY, ids=lambda path: path.stem)
def test_counted_tables_of_before_are_read(path):
    """A trained model's routes, for which a codec keeps tables, are the recording's, ascending."""
    recorded = read_lines(FIXTURES / "tiny_rl" / "vllm.bf16" / "samples.jsonl")
    dump = open_dump(path)
    assert len(dump) == 16
    for sample, line in zip(dump, recorded, strict=False):
        wanted = np.sort(decode(line["routed_experts_b64npy"]))
        assert np.array_equal(sample.routes.ids_TLK, wanted)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_digests_of_before_still_hold(path):
    """A file with digests passes its check; one of before digests has none to pass."""
    digests = b"routectl.digest" in pq.read_metadata(path).metadata
    assert check_native(path) == (len(open_dump(path)) if digests else None)
