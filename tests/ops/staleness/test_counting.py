"""One pass: each stored sample is read once, all comparisons are what they are by themselves."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routectl.dump import Dump
from routectl.errors import MismatchError
from routectl.ops.staleness.advice import grounds_of
from routectl.ops.staleness.attribution import Version
from routectl.ops.staleness.clusters import KEPT, Clusters, SampleCluster
from routectl.ops.staleness.counting import count_run
from routectl.ops.staleness.options import StalenessOptions
from routectl.ops.staleness.sides import lay_out
from routectl.ops.staleness.staleness import staleness, staleness_of
from routectl.reports.staleness.advice import advise
from routectl.reports.staleness.document import staleness_document
from support.comparing import SlowStaleness, figures, random_run
from support.cuts import added_in_some_tree

some_options = st.builds(
    StalenessOptions,
    rows=st.sampled_from(["dump", "all"]),
    cached=st.sampled_from(["auto", "apart", "own"]),
    clusters=st.sampled_from(["sequence", "prompt"]),
    tokens=st.sampled_from(["all", "response"]),
    layers=st.sampled_from([None, (0, 2)]),
    examples=st.sampled_from([0, 3]),
    match=st.just("tokens"),
)


def run_of(seed, options, **sizes):
    """A random run and its staleness; None where rows of a version meet nothing."""
    dump, versions = random_run(np.random.default_rng(seed), **sizes)
    try:
        return dump, versions, staleness(dump, versions, options)
    except MismatchError:
        return dump, versions, None


@settings(max_examples=25)
@given(st.integers(0, 10_000), some_options)
def test_each_comparison_is_what_it_is_by_itself(seed, options):
    """Mismatch, staleness, total, cells and groups are those of dumps compared one by one."""
    dump, versions, run = run_of(seed, options)
    if run is None:
        return
    slow = SlowStaleness(dump, versions, options)
    groups = ("first", "switched") if run.cached_apart else ("first", "switched", "cached")
    for cell in run.cells:
        truth = slow.own_rows(cell.own, cell.version, cell.mode, groups)
        assert cell.result.rows == truth.rows
        assert (cell.result.counts.swaps_LS == truth.counts.swaps_LS).all()
        if cell.own == cell.version:
            assert figures(cell.result) == figures(truth)
    for comparison in run.comparisons:
        if comparison.kind == "mismatch":
            parts = [
                c.result for c in run.cells if c.own == c.version and c.mode == comparison.mode
            ]
            assert comparison.result.rows_mismatched == sum(p.rows_mismatched for p in parts)
            continue
        if comparison.kind == "total":
            truth = slow.total(comparison.new, comparison.mode)
        else:
            truth = slow.pair(comparison.old, comparison.new, comparison.mode)
        assert figures(comparison.result) == figures(truth)
    for group in set(run.apart) - {"boundary_before"}:
        for part in run.apart[group]:
            parts = [slow.own_rows(v, v, part.mode, (group,)) for _, v in part.pairs]
            assert part.result.rows_mismatched == sum(p.rows_mismatched for p in parts)
            assert part.result.rows == sum(p.rows for p in parts)


def counted_reads(dump):
    """The same dump, and how often each of its samples was read."""
    reads = Counter()

    def load(index):
        reads[index] += 1
        return dump[index]

    return Dump(dump.meta, dump.keys, load), reads


@pytest.mark.parametrize("num_versions", [1, 2, 8])
def test_each_stored_sample_is_read_once(num_versions):
    """However many versions there are, each sample of the dump and of a version is read once."""
    dump, versions = random_run(np.random.default_rng(3), 12, num_versions)
    whole, reads = counted_reads(dump)
    of_versions = [counted_reads(version.free) for version in versions]
    given_versions = [
        Version(v.name, free) for v, (free, _) in zip(versions, of_versions, strict=True)
    ]
    staleness(whole, given_versions, StalenessOptions(match="tokens", own="v0"))
    assert reads == dict.fromkeys(range(12), 1)
    for version, (_, found) in zip(versions, of_versions, strict=True):
        assert found == dict.fromkeys(range(len(version.free)), 1)


def documents(result, options):
    """All that is told of a result."""
    return staleness_document(result, advise(result, mini_steps=2), options)


@settings(max_examples=15)
@given(st.integers(0, 10_000), some_options, st.data())
def test_any_cut_and_order_gives_one_document(seed, options, data):
    """Runs of samples counted apart and added in any tree tell what one pass tells."""
    dump, versions, run = run_of(seed, options, num_versions=2)
    if run is None:
        return
    sides = lay_out(dump, versions, options)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(dump) - 1), max_size=4)))
    bounds = list(zip([0, *cuts], [*cuts, len(dump)], strict=True))
    parts = [count_run(sides.plan, dump, sides.routes, sides.whole.part(a, b)) for a, b in bounds]
    total = added_in_some_tree(parts, data)
    assert documents(staleness_of(total), options) == documents(run, options)


def test_parts_of_other_runs_do_not_add_up():
    """Parts that were counted with other options are refused."""
    dump, versions = random_run(np.random.default_rng(3))
    parts = []
    for options in (StalenessOptions(match="tokens"), StalenessOptions(tokens="response")):
        sides = lay_out(dump, versions, replace(options, match="tokens"))
        parts.append(count_run(sides.plan, dump, sides.routes, sides.whole.part(0, 2)))
    with pytest.raises(MismatchError, match="counted otherwise"):
        _ = parts[0] + parts[1]


def test_samples_that_a_version_lacks_are_counted():
    """Each version says how many of the dump's samples it lacks, in each mode."""
    dump, versions = random_run(np.random.default_rng(3), 8, 2)
    whole = [Version(v.name, v.free.select(samples=range(len(v.free)))) for v in versions]
    cut = Version("v1", whole[1].free.select(samples=[0, 2, 3]))
    run = staleness(dump, [whole[0], cut], StalenessOptions(match="tokens", own="v0"))
    assert run.lacking == {
        ("v0", "free"): 8 - len(whole[0].free),
        ("v1", "free"): 5,
    }


def test_broken_samples_are_counted_in_the_pass():
    """Samples that mismatch in more than half, and the worst, are known without a list."""
    dump, versions = random_run(np.random.default_rng(3), 8, 1)
    turned = []
    for n, sample in enumerate(versions[0].free):
        ids_TLK = (sample.routes.ids_TLK + 5) % 12 if n < 3 else sample.routes.ids_TLK
        turned.append(replace(sample, routes=replace(sample.routes, ids_TLK=ids_TLK)))
    free = versions[0].free
    other = Dump(free.meta, free.keys, turned.__getitem__)
    options = StalenessOptions(match="tokens", own="v0", version_map={"other": "v0"}, each=True)
    run = staleness(dump, [Version("v0", other)], options)
    each = [one.counts for one in run.comparisons[0].result.each]
    broken = [one for one in each if one.mismatch_rate > 0.5]
    excess = grounds_of(run, None).excess
    assert (excess.samples, excess.compared) == (len(broken), len(each))
    assert excess.worst.mismatch_rate == max(one.mismatch_rate for one in each)
    assert broken


def test_prompts_are_counted_exactly_up_to_a_number():
    """Different prompts are counted exactly up to KEPT, and to a few percent beyond."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 1 << 64, 3 * KEPT, np.uint64).tolist()

    def clusters(some):
        return Clusters.of([SampleCluster(0, prompt) for prompt in some])

    few = clusters(prompts[: KEPT - 1]) + clusters(prompts[: KEPT - 1])
    assert few.number == KEPT - 1
    halves = clusters(prompts[: 2 * KEPT]) + clusters(prompts[KEPT:])
    assert halves.number == clusters(prompts).number
    assert abs(halves.number / (3 * KEPT) - 1) < 0.06
    assert (Clusters.of([SampleCluster(5)] * 3) + few).number == KEPT + 2
