"""Rows of cached tokens against the others: an engine that kept its prefix cache through an update.

The rollouts were recorded with a cache that was kept, and with one that was flushed; the references
are the routes of the weights that the dump names.
"""

from dataclasses import replace

import pytest

from routectl.dump import Dump
from routectl.formats import open_dump
from routectl.ops.check.against.prefixes import Cached, cached_differ
from routectl.ops.check.check import CheckOptions, check
from support.checks import codes, only
from support.faults import with_ids
from support.shell import run
from support.tiny_rl import TINY

PREFIX = TINY / "prefix_cache"
QUIET = CheckOptions(by_tokens=False)


def pair(rollout, trainer):
    """A rollout and its reference."""
    return open_dump(PREFIX / rollout), open_dump(PREFIX / trainer)


def test_kept_cache_is_named():
    """R709 has the cached rows of all samples that differ; what is left is rounding (R712)."""
    old, new = pair("rollout.jsonl.gz", "trainer.parquet")
    found = check(old, new, options=QUIET)
    stale = only(found, "R709")
    assert (stale.rows, stale.samples) == (2_776, 48)
    assert "13.14 % of the rows of cached tokens" in stale.detail
    assert codes(found, "error") == {"R709"}
    assert only(found, "R712").rows == 3_533 - 2_776


def test_flushed_cache_is_clean():
    """The same prompts and weights without the cache: rounding alone."""
    found = check(*pair("flushed.jsonl.gz", "flushed.trainer.parquet"), options=QUIET)
    assert codes(found) == {"R712"}


def test_newer_rows_at_the_end_are_no_prefix():
    """Rows of newer weights from 120 on: of the later part, where the first one is as usual."""
    clean = open_dump(TINY / "vllm.bf16" / "samples.jsonl")
    newer = open_dump(TINY / "routes_v2.fp32.npz")

    def one(index):
        ids_TLK = clean[index].routes.ids_TLK.copy()
        if index >= 48:
            ids_TLK[120:] = newer[index].routes.ids_TLK[120 : len(ids_TLK)]
        return with_ids(clean[index], ids_TLK)

    bad = Dump(clean.meta, clean.keys, one)
    found = check(bad, open_dump(TINY / "routes_v0.margins.parquet"), options=QUIET)
    assert codes(found, "error") == {"R718"}
    assert only(found, "R718").samples == 36


def test_parts_say_the_same(capsys, tmp_path):
    """Two parts added up are the whole, to the byte: prefixes are judged when all are seen."""
    asked = ["check", PREFIX / "rollout.jsonl.gz", "--against", PREFIX / "trainer.parquet"]
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, part in enumerate(parts, 1):
        run(capsys, *asked, "--shard", f"{number}/2", "--partial", part)
    whole = run(capsys, *asked, "--json")
    merged = run(capsys, "merge", *parts, "--json")
    assert (merged.code, merged.out) == (whole.code, whole.out)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ([], False),
        ([(Cached(1000, 100), 2000, 120)] * 8, True),
        ([(Cached(1000, 100), 2000, 200)] * 8, False),  # as many
        ([(Cached(1000, 100), 2000, 160)] * 8, False),  # less than twice
        ([(Cached(60, 6), 120, 7)], False),  # too few rows
        ([(Cached(1000, 100), 1000, 100)] * 8, False),  # nothing else to hold it against
        (
            [(Cached(1000, 800), 2000, 810), *[(Cached(1000, 10), 2000, 30)] * 7],
            False,
        ),  # one sample
    ],
)
def test_what_is_said(samples, said):
    """Twice as many, in most samples, with evidence; else nothing."""
    own = [(replace(c, block=n), *rows) for n, (c, *rows) in enumerate(samples, 1)]
    assert (cached_differ(own) is not None) == said


def test_siblings_are_evidence_once():
    """Rows of one cache in eight samples are few rows, in caches of their own many."""
    rows = (192, 10), (1200, 20)
    many = [(Cached(*rows[0], block=n), *rows[1]) for n in range(1, 9)]
    assert cached_differ(many) is not None
    assert cached_differ([(replace(c, block=1), *of) for c, *of in many]) is None
