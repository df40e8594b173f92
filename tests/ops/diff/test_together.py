"""Pairs of small samples compared many at a time: the same figures as one by one."""

import numpy as np
import pytest

from routectl.dump import Dump
from routectl.errors import MismatchError
from routectl.formats.native.container import open_native
from routectl.ops.diff import tally
from routectl.ops.diff.diff import DiffOptions, diff_as
from routectl.ops.diff.thresholds import judge
from routectl.reports.diff.document import diff_document
from support.stored import LAYERS, small_samples, write_small_groups


@pytest.fixture(scope="module", params=range(3))
def sides(request, tmp_path_factory):
    """Two files of the same tokens: NEW in another order, with other routes here and there."""
    folder, rng = tmp_path_factory.mktemp("sides"), np.random.default_rng(request.param)
    old = list(small_samples(rng, 150, lengths=True))
    new = [old[i] for i in np.argsort(np.arange(150) + 20 * rng.random(150)) if i % 13]
    write_small_groups(folder / "old.parquet", old, 4000)
    other = np.random.default_rng(9)
    for sample in new[::3]:
        if sample.routes is not None and sample.routes.num_tokens:
            at = int(other.integers(sample.routes.num_tokens))
            sample.routes.ids_TLK[at] = np.argsort(other.random((len(LAYERS), 8)))[:, :2]
    write_small_groups(folder / "new.parquet", new, 3000)
    return [open_native(folder / f"{name}.parquet") for name in ("old", "new")]


def one_by_one(dump):
    """The same dump, whose samples are read one by one alone."""
    return Dump(dump.meta, dump.keys, dump.__getitem__)


def said(old, new, options):
    """What a comparison says, as its document."""
    result = diff_as(old, new, options)
    return diff_document(result, judge(result, ()))


@pytest.mark.parametrize(
    "options",
    [
        DiffOptions(),
        DiffOptions("tokens", examples=200),
        DiffOptions("prefix"),
        DiffOptions(tokens="prompt", layers=[2]),
        DiffOptions(tokens="response", examples=0),
        DiffOptions(part=True),
    ],
)
def test_the_same_as_one_by_one(sides, options):
    """The document of a comparison does not depend on how many samples are compared at a time."""
    assert said(*sides, options) == said(*map(one_by_one, sides), options)
    assert said(*sides[::-1], options) == said(*map(one_by_one, sides[::-1]), options)


def test_a_length_that_neither_side_knows(tmp_path):
    """A sample that cannot be cut is refused by name, also where others are compared together."""
    rng = np.random.default_rng(4)
    write_small_groups(tmp_path / "a.parquet", list(small_samples(rng, 60)), 4000)
    dump, told = open_native(tmp_path / "a.parquet"), []
    for side in (dump, one_by_one(dump)):
        with pytest.raises(MismatchError, match="needs the prompt length") as caught:
            diff_as(side, side, DiffOptions(tokens="prompt"))
        told.append(str(caught.value))
    assert told[0] == told[1]


def test_most_are_compared_together(sides, monkeypatch):
    """Samples without anything of their own are not read one by one."""
    alone = []
    add = tally.DiffTally.add

    def counted(self, *args):
        alone.append(args[2])
        add(self, *args)

    monkeypatch.setattr(tally.DiffTally, "add", counted)
    result = diff_as(*sides, DiffOptions())
    assert 0 < len(alone) < result.samples.old / 2


def test_details_are_told_one_by_one(sides):
    """Where single samples are told, each is compared by itself."""
    options = DiffOptions(each=True)
    result = diff_as(*sides, options)
    assert len(result.each) == result.samples.compared
    assert said(*sides, options) == said(*map(one_by_one, sides), options)
