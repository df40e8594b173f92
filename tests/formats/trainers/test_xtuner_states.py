"""xtuner's debug_rollout files: one that its own RolloutState made, and damaged ones."""

import numpy as np
import pytest
import torch

from routectl.dump import WeightSpan
from routectl.errors import RoutectlError
from routectl.formats import open_dump
from routectl.ops.check.check import check
from support.building import FACTS, check_line
from support.recordings import FIXTURES

RECORDED = FIXTURES / "xtuner_debug_rollout_3.pt"
TOKENS = {"70": (3, 3), "71": (3, 2), "80": (2, 5), "81": (2, 1), "82": (2, 2)}


def drawn(rows, seed):
    """The ids that the file was made with."""
    noise = np.random.default_rng(seed).random((rows, 3, 8))
    return np.argsort(noise, axis=2)[:, :, :2]


def test_recorded():
    """Routes by value, by what stood for a reference, by node and end to end are read; what the
    states say beside them, too.
    """
    dump = open_dump(RECORDED, model=FACTS)
    assert [key.sample_id for key in dump.keys] == list(TOKENS)
    for seed, (sample, (prompt, response)) in enumerate(zip(dump, TOKENS.values(), strict=True)):
        assert (sample.prompt_length, sample.response_length) == (prompt, response)
        if sample.sample_id == "81":
            assert sample.routes is None
            continue
        np.testing.assert_array_equal(sample.routes.ids_TLK, drawn(prompt + response - 1, seed))
        assert (sample.routes.start, sample.finish_reason) == (0, "stop")
        assert sample.logprobs.tolist() == [-0.5 * i for i in range(response)]
        assert sample.loss_mask.tolist() == [False] * prompt + [True] * response
    assert dump[0].weight_spans == (WeightSpan("4", 0, 2), WeightSpan("5", 2, 3))
    assert [sample.group_id for sample in dump] == ["7", "7", "8", "8", "8"]


def test_check():
    """check finds what sound states say alone: one is without routes, four are of two versions."""
    found = check(open_dump(RECORDED, model=FACTS)).findings
    assert [(finding.code, finding.samples) for finding in found] == [("R005", 1), ("R501", 4)]


def test_another_class_of_xtuners(tmp_path):
    """A name of xtuner's that is not on the list is refused by name, and nothing is imported."""
    path = tmp_path / "x.pt"
    data = RECORDED.read_bytes()
    path.write_bytes(data.replace(b"RolloutState", b"RolloutStats"))
    with pytest.raises(RoutectlError) as caught:
        open_dump(path, model=FACTS)
    check_line(caught.value, path)


def test_a_list_of_lists_of_anything_else(tmp_path):
    """Groups of plain data are no states."""
    torch.save([[{"prompt_ids": [1]}]], tmp_path / "x.pt")
    with pytest.raises(RoutectlError, match="a torch file without routes"):
        open_dump(tmp_path / "x.pt", model=FACTS)
