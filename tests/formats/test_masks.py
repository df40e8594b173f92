"""Masks of every door: 0 and 1, whatever their type; anything else is one line that says where."""

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from routectl import open_dump
from routectl.errors import FormatError
from routectl.formats.documents.masks import flags_in
from routectl.formats.responses.offline import read_record
from routectl.formats.trainers.fields import whole_mask
from routectl.formats.trainers.grids import read_grid
from routectl.formats.trainers.micro_batches import read_micro_batches
from support.recordings import DEEPSEEK, DEEPSEEK_CONFIG

ODD = [-1, 2, 255, 0.5, -1.0, 1e308, 5e-324, math.nan, math.inf, -math.inf]
WHOLE = [0, 1, False, True, 0.0, 1.0, -0.0]


@given(arrays.arrays(st.sampled_from(["i1", "u1", "i8", "f2", "f4", "f8", "?"]), (2, 3)))
def test_flags_are_zero_and_one(values):
    """A mask is what is 1; any number but 0 and 1 is refused, the first of them named."""
    plain = values.ravel().tolist()
    odd = [x for x in plain if x not in (0, 1)]
    if not odd:
        assert flags_in(values, "here").ravel().tolist() == [x == 1 for x in plain]
        return
    with pytest.raises(FormatError, match=r"here: loss_mask: got .* expected 0 or 1"):
        flags_in(values, "here")


def grid(name, value):
    """A padded batch of two samples, with one value in one of its masks."""
    masks = {"attention_mask": np.ones((2, 4)), "response_mask": np.array([[0.0, 0, 1, 1]] * 2)}
    masks = {**masks, "loss_mask": masks["response_mask"], "router_padding_mask": np.zeros((2, 4))}
    masks = {**masks, "prompt_mask": 1 - masks["response_mask"]} if name == "prompt_mask" else masks
    masks = {key: mask.copy() for key, mask in masks.items()}
    masks[name][1, 2] = value
    ids = np.ones((2, 4, 1, 2), np.int64)
    return {**masks, "input_ids": np.ones((2, 4), np.int64), "routed_experts": ids}


@pytest.mark.parametrize("value", ODD)
class TestDoors:
    """Numbers that are no flag."""

    @pytest.mark.parametrize(
        "name",
        ["attention_mask", "response_mask", "loss_mask", "router_padding_mask", "prompt_mask"],
    )
    def test_grids(self, name, value):
        """Every mask of a padded batch."""
        doc = grid(name, value)
        if name == "response_mask":
            del doc["loss_mask"]
        with pytest.raises(FormatError, match=r"x\.pt.*: got .* expected 0 or 1"):
            list(read_grid(doc, "routed_experts", Path("x.pt")))

    def test_lists_and_tensors(self, value):
        """Masks of one response, as lists or as arrays."""
        for part in ([1, value], np.array([1, value])):
            with pytest.raises(FormatError, match=r"s: loss_mask: got .* at 1, expected 0 or 1"):
                whole_mask(part, 2, 4, "s")

    def test_records(self, value):
        """Masks of JSON records."""
        doc = {"prompt_token_ids": [1], "token_ids": [2, 3], "loss_mask": [1, value]}
        with pytest.raises(FormatError, match=r"s: loss_mask: got .*, expected 0 or 1"):
            read_record(doc, "s")

    def test_micro_batches(self, value, tmp_path):
        """Masks of prime-rl's MessagePack."""
        batch = [[1, 2], [0, value], [], [-1.0, -1.0], [0, 1], [2], [], [], [], None, None]
        path = tmp_path / "rank_0.bin"
        path.write_bytes(msgspec.msgpack.encode([batch]))
        with pytest.raises(FormatError, match=r"loss_mask: got .* at 1, expected 0 or 1"):
            read_micro_batches(path)


@pytest.mark.parametrize("flags", [["1", 0], [None, 1], [[1], 0], "01", {"0": 1}])
def test_what_is_no_number(flags):
    """Strings, nulls and lists are refused in JSON."""
    doc = {"prompt_token_ids": [1], "token_ids": [2, 3], "loss_mask": flags}
    with pytest.raises(FormatError, match="s: loss_mask: "):
        read_record(doc, "s")


def test_flags_of_every_type():
    """0 and 1 as booleans, integers and floats are masks alike."""
    for flags in (WHOLE, [float(f) for f in WHOLE], [int(f) for f in WHOLE]):
        doc = {"prompt_token_ids": [1], "token_ids": [2] * len(flags), "loss_mask": flags}
        wanted = [False, *(bool(f) for f in WHOLE)]
        assert read_record(doc, "s").loss_mask.tolist() == wanted
        assert whole_mask(flags, 1, 1 + len(flags), "s").tolist() == wanted


def test_a_dump_says_which_sample(tmp_path):
    """The line of a dump names the file, the line and the mask."""
    lines = (DEEPSEEK / "samples.jsonl").read_text("utf-8").splitlines()[:3]
    doc = json.loads(lines[1])
    doc["loss_mask"] = [0.5] * len(doc["token_ids"])
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([lines[0], json.dumps(doc), lines[2]]), "utf-8")
    with pytest.raises(FormatError, match=r"a\.jsonl.*2.*loss_mask: got 0\.5, expected 0 or 1"):
        list(open_dump(path, model=DEEPSEEK_CONFIG))
