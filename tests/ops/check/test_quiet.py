"""Small samples checked many at a time: the same findings as one by one."""

import numpy as np
import pytest

from routectl.dump import Dump
from routectl.formats.native.container import open_native
from routectl.ops.check import check as room
from routectl.ops.check.check import CheckOptions, check
from routectl.reports.check.document import check_document
from support.stored import small_samples, write_small_groups


@pytest.fixture(scope="module", params=[(0, 0.3), (1, 0.3), (2, 0.02), (3, 0.0)])
def dump(request, tmp_path_factory):
    """A file of small samples, some of which have something wrong or rare."""
    seed, odd = request.param
    path = tmp_path_factory.mktemp("quiet") / "a.parquet"
    write_small_groups(path, small_samples(np.random.default_rng(seed), 300, odd), 3000)
    return open_native(path)


def said(dump, options):
    """What a check says, as its document."""
    return check_document(check(dump, options=options), None)


@pytest.mark.parametrize(
    "options", [CheckOptions(), CheckOptions(by_tokens=False), CheckOptions(zero_experts=1)]
)
def test_the_same_as_one_by_one(dump, options):
    """The document of a check does not depend on how many samples are looked at at a time."""
    alone = Dump(dump.meta, dump.keys, dump.__getitem__)
    assert said(dump, options) == said(alone, options)


def test_most_are_counted_together(dump, monkeypatch):
    """Of samples that are sound most are not looked at one by one."""
    alone = []
    add = room.Checker._add

    def counted(self, index, *args):
        alone.append(index)
        return add(self, index, *args)

    monkeypatch.setattr(room.Checker, "_add", counted)
    found = check(dump)
    assert len(alone) < 0.8 * found.samples
