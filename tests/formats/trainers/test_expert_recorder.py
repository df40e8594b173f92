"""Dumps of SGLang's expert_distribution recorder, written by its own code (fixtures/README.md)."""

import numpy as np
import pytest
import torch

from routectl.errors import FormatError
from routectl.formats import open_dump
from routectl.formats.documents.facts import Physical
from support.building import check_line
from support.expert_maps import RECORDED, truths
from support.tiny_rl import TINY

CONFIG = TINY / "config.json"


def recorded(name, experts=None):
    """A recorder's dump."""
    return open_dump(
        RECORDED / name, model=CONFIG if experts is None else Physical(CONFIG, experts)
    )


def held_against_the_truth(dump):
    """Samples 0 to 3 are rows of the four sequences, as transformers' routers selected them."""
    for (ids, routes), sample in zip(truths(), list(dump)[:4], strict=True):
        got = sample.routes
        assert np.array_equal(got.ids_TLK, routes[got.start : got.stop])
        if sample.token_ids is not None:
            assert np.array_equal(sample.token_ids, ids[: sample.num_tokens])


def test_routes_are_logical_by_the_map_in_the_file():
    """Physical ids of 40 experts become those that were selected, by the map of the file."""
    dump = recorded("per_token.pt")
    held_against_the_truth(dump)
    assert (dump.meta.num_experts, dump.meta.top_k, dump.meta.engine) == (32, 4, "sglang")
    assert "last_physical_to_logical_map (40 physical" in dump.meta.provenance["expert_map"]


def test_what_is_of_one_sequence_is_one_sample():
    """Chunks of a prefill and decoded tokens are joined; a cached prefix is a start."""
    dump = recorded("per_token.pt")
    shapes = [(s.prompt_length, s.response_length, s.routes.start) for s in dump]
    assert shapes[:4] == [(17, 4, 0), (17, 6, 0), (17, 6, 0), (17, 9, 8)]
    assert [s.token_ids is None for s in dump] == [False, False, False, True, True]
    assert [s.cached_tokens for s in dump] == [None, None, None, 8, None]


def test_rows_that_may_be_of_two_sequences_are_samples_of_their_own():
    """When sequence 2 leaves, 1 is as long: what follows at position 23 may be of either."""
    left = recorded("per_token.pt")[4]
    _, routes = truths()[1]
    assert (left.routes.start, left.routes.stop) == (23, 29)
    assert np.array_equal(left.routes.ids_TLK, routes[23:29])


def test_maps_by_forward_pass():
    """Experts that were placed anew at pass 8: the last map gives two copies of one expert to a
    token of before, and is refused; a map a step is right.
    """
    with pytest.raises(FormatError, match=r"row 0 .*, both of them expert 16 by") as error:
        recorded("per_token.rebalanced.pt")[0]
    assert "a map a step" in error.value.hint
    held_against_the_truth(recorded("per_token.rebalanced.pt", RECORDED / "maps.json"))


def passes(*records):
    """A recorder's document of [(mode, prefills, positions)] with one layer, K 2 of 4 experts."""
    found = []
    for number, (mode, lens, positions) in enumerate(records):
        ids = torch.full((1, len(positions), 8), -1, dtype=torch.int32)
        ids[0, :, :2] = torch.tensor([[number % 4, (number + 1) % 4]])
        found.append(
            {
                "forward_pass_id": number,
                "rank": 0,
                "gatherer_key": "primary",
                "input_ids": [100 * number + p for p in positions],
                "positions": list(positions),
                "extend_seq_lens": lens,
                "forward_mode": mode,
                "topk_ids_of_layer": ids,
                "misc_objects": [],
                "global_physical_count": torch.zeros(1, 4, dtype=torch.int32),
            }
        )
    return {"records": found, "last_physical_to_logical_map": torch.arange(4)[None]}


def samples_of(tmp_path, *records):
    """What is read of such passes: prompt, response, start of each sample."""
    torch.save(passes(*records), tmp_path / "a.pt")
    dump = open_dump(tmp_path / "a.pt", model="1,2,4")
    return [(s.prompt_length, s.response_length, s.routes.start) for s in dump]


def test_mixed_passes(tmp_path):
    """In a pass of prefills and running sequences the latter come last, each as one token."""
    found = samples_of(tmp_path, (1, [3], [0, 1, 2]), (3, [2, 1], [0, 1, 3]), (2, None, [4, 2]))
    assert found == [(3, 2, 0), (2, 1, 0)]


def test_tokens_of_no_known_sequence(tmp_path):
    """A token whose sequence began before the recording is a sample from its position on."""
    found = samples_of(tmp_path, (2, None, [7, 40]), (2, None, [8, 41]), (4, None, []))
    assert found == [(7, 2, 7), (40, 2, 40)]


@pytest.mark.parametrize("name", ["logical_count", "global_physical_count"])
def test_counts_that_do_not_add_up_are_refused(tmp_path, name):
    """Of a count beyond what sums hold nothing is shown."""
    large = torch.full((1, 4), 2**62)
    doc = passes((1, [3], [0, 1, 2]))
    doc["records"][0].pop("topk_ids_of_layer")
    doc["records"][0][name] = large
    torch.save(
        {"logical_count": large[None]} if name == "logical_count" else doc, tmp_path / "a.pt"
    )
    with pytest.raises(FormatError, match="got a count of 4611686018427387904"):
        open_dump(tmp_path / "a.pt", model="1,2,4")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r.update(forward_mode=5), "speculative decoding"),
        (lambda r: r.update(positions=[0, 2, 3]), "positions do not follow"),
        (lambda r: r.update(positions=[0, 1]), "2 positions"),
        (lambda r: r.update(extend_seq_lens=[4]), "prefills of 4 tokens, of 3"),
        (lambda r: r.update(forward_pass_id="a"), "got pass 'a'"),
        (lambda r: r.update(topk_ids_of_layer=r["topk_ids_of_layer"][:, :2]), "3 tokens"),
        (lambda r: r.pop("input_ids"), "input_ids"),
    ],
)
def test_damaged_records(tmp_path, change, told):
    """What no recorder writes is refused in one line."""
    doc = passes((1, [3], [0, 1, 2]))
    change(doc["records"][0])
    torch.save(doc, tmp_path / "a.pt")
    with pytest.raises(FormatError, match=told) as error:
        open_dump(tmp_path / "a.pt", model="1,2,4")
    if "pass" not in told and "follow" not in told:
        check_line(error.value, tmp_path / "a.pt")
