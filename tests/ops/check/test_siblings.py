"""Which of the samples of one prompt is unlike the others."""

from dataclasses import replace

import numpy as np
import pytest

from routectl.ops.check.check import Checker, CheckOptions, check, learn
from support.checks import only
from support.dumps import make_dump, make_routes, make_sample


def group(*odd, size=4, tokens=40):
    """Samples of one prompt that took the same experts for it, but for those at ``odd`` places."""
    rng = np.random.default_rng(7)
    draws = [rng.permuted(np.tile(np.arange(4), (tokens, 3, 1)), axis=2)[..., :2] for _ in odd]
    same = rng.permuted(np.tile(np.arange(4), (tokens, 3, 1)), axis=2)[..., :2]
    of = dict(zip(odd, draws, strict=True))
    return make_dump(
        [
            make_sample(
                make_routes(of.get(i, same).tolist()), f"s{i}", [1] * tokens, [2 + i], group_id="g"
            )
            for i in range(size)
        ]
    )


@pytest.mark.parametrize("odd", range(4))
def test_the_one_that_is_unlike_the_others_is_blamed(odd):
    """The first of the group as well as another, once, and with whom it was compared."""
    found = only(check(group(odd), options=CheckOptions(by_tokens=False)), "R601")
    assert [place.sample for place in found.places] == [f"s{odd}"]
    assert found.samples == 1
    assert found.places[0].note == f"unlike sample s{0 if odd else 1}"


def test_filler_of_the_first_hides_no_other():
    """Where the first has filler for its prompt, the next one stands in for it."""
    samples = list(group(2, size=5))
    filler_TLK = np.zeros_like(samples[0].routes.ids_TLK)
    samples[0] = replace(samples[0], routes=make_routes(filler_TLK.tolist()))
    found = check(make_dump(samples), options=CheckOptions(by_tokens=False))
    assert [place.sample for place in only(found, "R102").places] == ["s0"]
    (place,) = only(found, "R601").places
    assert (place.sample, place.note) == ("s2", "unlike sample s1")


def test_of_two_the_second_is_named():
    """Nobody says which of two is right, nor of three that all differ: this is told."""
    told = "unlike sample s0; no third says which of the two is wrong"
    for dump, names in ((group(0, size=2), ["s1"]), (group(0, 1, size=3), ["s1", "s2"])):
        found = only(check(dump, options=CheckOptions(by_tokens=False)), "R601")
        assert [(p.sample, p.note) for p in found.places] == [(name, told) for name in names]


def test_blame_does_not_depend_on_the_cut():
    """Each sample looked at by itself, as shards do, comes to the same findings."""
    dump, options = group(0), CheckOptions(by_tokens=False)
    lesson, reader = learn(dump, options)
    parts = [Checker(reader, lesson, options).partial([i]) for i in range(len(dump))]
    whole = parts[2] + parts[0] + parts[3] + parts[1]
    assert (
        whole.result(Checker(reader, lesson, options)).findings
        == check(dump, options=options).findings
    )
