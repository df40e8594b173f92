"""Parts of a dump checked apart and added in any order are the check of the whole."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routectl.ops.check.against.compare import Comparer
from routectl.ops.check.book.bottom import Bottom, number_of
from routectl.ops.check.check import Checker, CheckOptions, partners_of
from routectl.ops.check.lesson import Reader, learn
from routectl.reports.check.document import check_document
from support.checks import loaded
from support.faults import BASES, FAULTS, spoilt
from support.more_faults import MORE_FAULTS, as_read

EVERY = {fault.name: fault for fault in (*FAULTS, *MORE_FAULTS)}
NAMES = ["clean", *EVERY]
OF_EACH_CODE = {fault.code: name for name, fault in EVERY.items()}.values()


def added(parts, rng):
    """Partials added in a random tree, each through a pickle."""
    parts = [pickle.loads(pickle.dumps(part)) for part in parts]
    while len(parts) > 1:
        one, other = (parts.pop(int(rng.integers(len(parts)))) for _ in range(2))
        parts.append(one + other)
    return parts[0]


def in_parts(dump, options, rng, reference=None):
    """The documents of a dump checked whole, and in random parts by readers of their own."""
    lesson, reader = learn(dump, options)

    def checker(reader):
        comparer = None
        if reference is not None:
            comparer = Comparer(dump.meta, reference, partners_of(dump, reference))
        return Checker(reader, lesson, options, comparer=comparer)

    first = checker(reader)
    whole = first.partial(range(len(dump)))
    owner = rng.integers(0, int(rng.integers(1, 7)), len(dump))
    shares = [np.flatnonzero(owner == n).tolist() for n in np.unique(owner)]
    parts = [checker(Reader(dump)).partial(share) for share in shares]
    found = added(parts, rng)
    return [check_document(p.result(first)) for p in (whole, found)]


def documents(name):
    """A recording with a fault, or without, checked whole and in parts."""
    fault = EVERY.get(name)
    bases = [b for b in BASES if fault is None or not fault.bases or b.name in fault.bases]
    base = bases[NAMES.index(name) % len(bases)]
    dump, reference = loaded(base.dump), None
    if fault is None or fault.against:
        reference = loaded(base.reference)
    if fault is not None:
        dump = as_read(spoilt(fault, base, dump, 0.2))
    options = CheckOptions(by_tokens=reference is None)
    return in_parts(dump, options, np.random.default_rng(NAMES.index(name)), reference)


@pytest.mark.parametrize("name", NAMES[::9])
def test_any_cut_gives_the_same_document(name):
    """Random parts of a clean or faulty recording, added in a random tree, are the whole's."""
    whole, parts = documents(name)
    assert whole == parts


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_EACH_CODE)
def test_any_cut_of_any_fault(name):
    """The same of a fault of each finding, in one of the recordings that it is put into."""
    whole, parts = documents(name)
    assert whole == parts


@settings(max_examples=30)
@given(st.lists(st.integers(0, 30), max_size=80), st.integers(1, 6), st.integers(0, 99))
def test_least_numbers_are_kept_whatever_the_tree(keys, most, seed):
    """Entries of the least numbers hold exact sums, and all others one sum, in any tree."""
    rng = np.random.default_rng(seed)
    parts = [Bottom(most) for _ in range(int(rng.integers(1, 5)))]
    for key in keys:
        parts[int(rng.integers(len(parts)))].add(number_of(str(key)), 1)
    whole = Bottom(most) + added(parts, rng)
    counts = {number_of(str(key)): keys.count(key) for key in keys}
    kept = sorted(counts)[:most]
    assert whole.held == {n: counts[n] for n in kept}
    assert (whole.rest or 0) == len(keys) - sum(whole.held.values())
