"""A dump as a torch dataset."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import routectl
from routectl.dump import DumpMeta, Sample
from routectl.formats.native.container import write_native
from routectl.routes import Routes
from support.coded_files import coding_of, dump_of, expect, grouped
from support.recordings import FIXTURES

TINY = FIXTURES / "tiny_rl" / "vllm.bf16" / "samples.jsonl"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_yields_every_sample(tmp_path, workers):
    """A DataLoader, with workers of its own too, gives every sample's tensors in order."""
    some, meta = grouped(count=5)
    path, coding = tmp_path / "x.parquet", coding_of("packed", dump_of([], meta))
    write_native(some, meta, path, force=False, coding=coding)
    data = routectl.RoutesDataset(path, layers=range(2, 9))
    loader = DataLoader(data, batch_size=None, num_workers=workers)
    got = list(loader)
    assert len(data) == len(got) == 5
    for mine, other in zip(expect(some, coding), got, strict=True):
        assert other["routed_experts"].dtype == torch.uint8
        assert other["layers"] == [2, 5]
        np.testing.assert_array_equal(other["routed_experts"], mine.routes.ids_TLK[:, 1:])
        np.testing.assert_array_equal(other["token_ids"], mine.token_ids)
        assert (other["sample_id"], other["group_id"]) == (mine.sample_id, "g")
        assert not other["missing"].any()
        assert "logprobs" not in other


def test_other_formats_give_tensors_too():
    """A recording is a dataset as it is, and a pickled one opens again."""
    data = pickle.loads(pickle.dumps(routectl.RoutesDataset(TINY)))
    dump = routectl.open_dump(TINY)
    assert len(data) == len(dump)
    np.testing.assert_array_equal(data[3]["routed_experts"], dump[3].routes.ids_TLK)
    np.testing.assert_allclose(data[3]["logprobs"], dump[3].logprobs, rtol=1e-6)
    with pytest.raises(IndexError):
        data[len(data)]


@pytest.mark.parametrize(
    ("num_experts", "dtype"),
    [
        (256, torch.uint8),
        (257, torch.int16),
        (32768, torch.int16),
        (32769, torch.int32),
    ],
)
def test_ids_are_of_a_dtype_that_torch_knows_well(tmp_path, num_experts, dtype):
    """Ids are uint8, int16 or int32, and never negative; a sample without routes has none."""
    ids = np.array([[[num_experts - 1]]], np.uint8 if num_experts <= 256 else np.uint16)
    routes = Routes(ids, (0,), num_experts, 3, np.array([[False]]))
    path = tmp_path / "x.parquet"
    meta = DumpMeta("", "", (0,), num_experts, 1)
    write_native([Sample(routes), Sample(None, "none")], meta, path, force=False)
    data = routectl.RoutesDataset(path)
    assert data[0]["routed_experts"].dtype == dtype
    assert data[0]["routed_experts"].tolist() == [[[num_experts - 1]]]
    assert data[0]["start"] == 3
    assert data[1] == {"sample_id": "none"}


def test_a_dump_is_iterated_and_selected():
    """``for sample in open_dump(p)`` and ``select(layers=...)``: layers without routes are passed
    over, none at all is refused, samples come in the order asked for.
    """
    dump = routectl.open_dump(TINY)
    assert sum(1 for _ in dump) == len(dump)
    part = dump.select(layers=range(4, 12), samples=[5, 1])
    assert part.meta.layers_L == (4, 5)
    assert len(part) == 2
    np.testing.assert_array_equal(part[0].routes.ids_TLK, dump[5].routes.ids_TLK[:, 4:])
    assert dump.select() is dump
    with pytest.raises(routectl.MismatchError, match=r"got layers \[6, 7\], expected some of"):
        dump.select(layers=[7, 6])
