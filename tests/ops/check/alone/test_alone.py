"""What a dump's tokens say of its rows: faults put into recordings, and recordings as they are.

Shape suffixes: T rows, L MoE layers, K top_k, E experts.
"""

import itertools
import math
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from routectl.dump import Dump
from routectl.errors import MismatchError
from routectl.formats import open_dump
from routectl.ops.check.alone.alone import find_alone, learn_dictionary, measure_lift
from routectl.ops.check.alone.keeping import FOLDS, Keeper
from routectl.ops.check.alone.results import Script, TokenEdit, TokenStretch
from routectl.ops.check.alone.tables import BIT, Teaching, learn_tables
from support.dumps import make_dump, make_routes, make_sample
from support.faults import BASES, clean_pairs, random_rows, with_ids
from support.recordings import FIXTURES

TRAINED = "tiny_rl/vllm.bf16/samples.jsonl"
SAMPLES = range(0, 96, 2)  # four of each of twelve prompts
SPOILT = 21  # one of these, 172 rows
NEAR = 6  # rows by which a place may be off: tokens in between fit both sides


@cache
def recording(name=TRAINED, chosen=SAMPLES):
    """Some samples of a recording, held."""
    dump = open_dump(FIXTURES / name)
    return dump.select(samples=[*chosen] if chosen else range(len(dump))).held()


def spoilt(change, chosen=(SPOILT,), dump=None):
    """The recording, the ids of some samples changed by ``change(ids_TLK, routes)``."""
    dump = recording() if dump is None else dump
    samples = list(dump)
    for i in range(len(samples)) if chosen is None else chosen:
        routes = samples[i].routes
        samples[i] = with_ids(samples[i], change(routes.ids_TLK, routes))
    return Dump(dump.meta, dump.keys, samples.__getitem__)


def late(lag, first=0):
    """Rows from one on are those of tokens before."""

    def change(ids, routes):
        source = np.arange(len(ids))
        source[first:] -= lag
        return ids[np.maximum(source, 0)[source < len(ids)]]

    return change


def only_edit(result):
    """The one edit of the one sample that was found."""
    (script,) = result.scripts
    (edit,) = script.edits
    return script, edit


def plain_scores(dump, shrink, lag):
    """The prototype: of each row, its ids' scores by counts of the rows of other folds' prompts."""
    prompts = {}
    seen, counts = set(), defaultdict(Counter)
    rows = []
    for sample in dump:
        tokens, routes = sample.token_ids.tolist(), sample.routes
        group = prompts.setdefault(sample.prompt_ids.tobytes(), len(prompts))
        for t in range(routes.num_tokens):
            place = routes.start + t
            padded = [-1] * 8 + tokens
            context = tuple(padded[place + 1 : place + 9])
            fresh = context not in seen
            seen.add(context)
            at = place - lag
            token = tokens[at] if 0 <= at < len(tokens) else None
            row = routes.ids_TLK[t].tolist()
            rows.append((group % FOLDS, token, row, fresh))
            if fresh and token is not None:
                for layer, ids in enumerate(row):
                    for e in ids:
                        counts[group % FOLDS, layer, token][e] += 1
    weight, experts = shrink * dump.meta.top_k, dump.meta.num_experts
    base = defaultdict(Counter)
    for (fold, layer, _), count in counts.items():
        base[fold, layer].update(count)

    def score(fold, layer, token, e):
        others = [f for f in range(FOLDS) if f != fold]
        all_ids = sum(base[f, layer].total() for f in others) + 0.5 * experts
        often = (sum(base[f, layer][e] for f in others) + 0.5) / all_ids
        own = sum(counts[f, layer, token][e] for f in others)
        total = sum(counts[f, layer, token].total() for f in others)
        return BIT * math.log2((own + weight * often) / (total + weight) / often)

    return rows, [
        [0.0 if token is None else sum(score(fold, i, token, e) for e in ids)
         for i, ids in enumerate(row)]
        for fold, token, row, _ in rows
    ]  # fmt: skip


@pytest.mark.parametrize("lag", [0, 1])
def test_scores_are_those_of_the_plain_prototype(lag):
    """Scores of rows are what counting in dictionaries gives, to the rounding of each id."""
    dump = recording(chosen=range(0, 96, 8))
    keeper = Keeper()
    for index, sample in enumerate(dump):
        keeper.add(sample, index)
    folds = [keeper.folds(one) for one in keeper.kept]
    teaching = Teaching(keeper.kept, folds, keeper.fresh(), dump.meta.num_experts)
    placed = teaching.placed(teaching.vocabulary(), lag)
    tables, mean_L = learn_tables(teaching, placed, shrinks=(3,))
    found = np.concatenate(
        [
            tables.score(one, part, one.tokens_at(lag))
            for one, part in zip(keeper.kept, folds, strict=True)
        ]
    )
    rows, truth = plain_scores(dump, 3, lag)
    fresh = np.array([row[3] and row[1] is not None for row in rows])
    assert [bool(f) for f in np.concatenate(keeper.fresh())] == [row[3] for row in rows]
    assert np.abs(found - np.array(truth)).max() <= 0.5 * dump.meta.top_k + 1e-6
    assert np.abs(mean_L - np.array(truth)[fresh].mean(axis=0)).max() < 0.5


def test_a_recording_is_its_own():
    """A sound recording has no findings, and lift in every layer."""
    found = find_alone(recording())
    assert found.clean
    assert found.power.enough
    assert found.power.smallest_run <= 24
    assert min(found.power.lift_L) > 0.3


def sound_recordings():
    """Every recording that the tests have: both engines, trained weights and random ones."""
    paths = {path for pair in clean_pairs() for path in pair}
    paths |= {FIXTURES / base.dump for base in BASES}
    for mode in ("start", "stops"):
        paths |= set(FIXTURES.glob(f"recordings/*/*.{mode}/samples.jsonl*"))
    return sorted(path.relative_to(FIXTURES).as_posix() for path in paths)


@pytest.mark.slow
@pytest.mark.parametrize("name", sound_recordings())
def test_recordings_are_their_own(name):
    """No sound recording of either engine has a finding."""
    found = find_alone(recording(name, None))
    assert found.clean


@pytest.mark.parametrize(
    ("lag", "first"), [(1, 60), pytest.param(-1, 60, marks=pytest.mark.slow), (7, 40)]
)
def test_rows_late_from_a_position_on(lag, first):
    """Rows that are of other tokens from one on are found at that row, with their lag."""
    found = find_alone(spoilt(late(lag, first)))
    script, edit = only_edit(found)
    assert script.index == SPOILT
    assert (edit.kind, edit.size, edit.lag) == ("repeated" if lag > 0 else "hole", abs(lag), lag)
    assert abs(edit.first - first) <= NEAR


def test_a_whole_sample_late():
    """All rows of a sample that come after nine rows of padding are late by nine."""
    script, edit = only_edit(find_alone(spoilt(late(9))))
    assert (script.index, edit.kind, edit.lag) == (SPOILT, "late", 9)
    assert edit.size >= recording()[SPOILT].routes.num_tokens - 9


@pytest.mark.slow
@pytest.mark.parametrize("lag", [-2, 1, 20])
def test_half_of_the_samples_late(lag):
    """Where half of the samples are late, those are named and no other."""
    chosen = range(0, len(SAMPLES), 2)
    found = find_alone(spoilt(late(lag), chosen))
    assert found.lag == 0
    assert {script.index for script in found.scripts} <= set(chosen)
    assert len(found.scripts) > 0.9 * len(chosen)
    assert {e.lag for s in found.scripts for e in s.edits} == {lag}


@pytest.mark.parametrize("lag", [1, pytest.param(-1, marks=pytest.mark.slow)])
def test_a_whole_dump_late(lag):
    """A dump all of whose samples are late teaches most at that lag, which is the finding."""
    found = find_alone(spoilt(late(lag), None))
    assert (found.lag, found.changed) == (lag, len(SAMPLES))
    assert {(e.kind, e.lag) for s in found.scripts for e in s.edits} == {
        ("late" if lag > 0 else "early", lag)
    }


def test_a_hole():
    """Rows lost in the middle are a hole of their number at their place."""
    cut = spoilt(lambda ids, _: np.concatenate([ids[:60], ids[100:]]))
    script, edit = only_edit(find_alone(cut))
    assert (script.index, edit.kind, edit.size, edit.lag) == (SPOILT, "hole", 40, -40)
    assert abs(edit.first - 60) <= NEAR


@pytest.mark.slow
def test_a_block_appended_again():
    """Rows of a resumed request, put in again, are repeated rows of their number."""
    again = spoilt(lambda ids, _: np.concatenate([ids[:70], ids[46:]]))
    _, edit = only_edit(find_alone(again))
    assert (edit.kind, edit.size, edit.lag) == ("repeated", 24, 24)
    assert abs(edit.first - 70) <= NEAR


@pytest.mark.slow
def test_rows_beyond_the_tokens():
    """Rows that follow the last token's are named as those of the tokens that they are of."""
    over = spoilt(lambda ids, _: np.concatenate([ids, ids[:40]]))
    _, edit = only_edit(find_alone(over))
    rows = recording()[SPOILT].routes.num_tokens
    assert (edit.kind, edit.lag) == ("repeated", rows)


def test_rows_of_another_sample():
    """Rows that another sample's tokens fit are that sample's, which is named."""
    other = recording()[5]
    swapped = spoilt(lambda ids, _: other.routes.ids_TLK[: len(ids)])
    script, edit = only_edit(find_alone(swapped))
    assert (script.index, edit.kind, edit.lag) == (SPOILT, "other", 0)
    assert edit.source == other.sample_id


def test_rows_of_nobody():
    """Random experts fit no tokens."""
    rng = np.random.default_rng(7)

    def filler(ids, routes):
        out = ids.copy()
        out[50:130] = random_rows(ids[50:130], routes, rng)
        return out

    _, edit = only_edit(find_alone(spoilt(filler)))
    assert edit.kind == "nobody"
    assert abs(edit.first - 50) <= NEAR
    assert abs(edit.size - 80) <= 2 * NEAR


def renumbering(maps_LE, first=0):
    """Ids from a row on mapped, layer by layer."""

    def change(ids, routes):
        out = ids.copy()
        for layer, to_E in maps_LE.items():
            out[first:, layer] = to_E[out[first:, layer]]
        return out

    return change


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [(range(6), range(36, 48)), pytest.param([2], (5, 21, 44), marks=pytest.mark.slow)],
)
def test_renumbered_experts(layers, chosen):
    """Experts renumbered in some samples: the map back, in each layer, and where it holds."""
    maps = {i: np.random.default_rng(i).permutation(32) for i in layers}
    found = find_alone(spoilt(renumbering(maps), chosen))
    assert [one.layer for one in found.renumbered] == [*layers]
    for one in found.renumbered:
        back_E = np.argsort(maps[one.layer])
        sure = np.flatnonzero(one.sure)
        assert len(sure) >= 16
        assert [one.to[i] for i in sure] == back_E[sure].tolist()
        assert sorted(one.to) == list(range(32))
        names = {recording()[i].sample_id for i in chosen}
        assert {span.sample for span in one.spans} == names
    assert not found.strange
    assert {e.kind for s in found.scripts for e in s.edits} <= {"renumbered"}


@pytest.mark.slow
def test_experts_renumbered_in_half_of_the_samples():
    """Of two kinds of samples in no order, those of one kind are the other's renumbered."""
    maps = {i: np.random.default_rng(i).permutation(32) for i in range(6)}
    chosen = {int(i) for i in np.random.default_rng(0).permutation(len(SAMPLES))[:24]}
    found = find_alone(spoilt(renumbering(maps), chosen))
    named = {script.index for script in found.scripts}
    assert named in (chosen, set(range(len(SAMPLES))) - chosen)
    assert [one.layer for one in found.renumbered] == [*range(6)]


@pytest.mark.slow
def test_experts_renumbered_within_samples():
    """A map that changes at one position of every sample is found at that position."""
    maps = {i: np.random.default_rng(i).permutation(32) for i in range(6)}
    found = find_alone(spoilt(renumbering(maps, 90), None))
    assert [one.layer for one in found.renumbered] == [*range(6)]
    edges = [
        edge
        for script in found.scripts
        for stretch in script.stretches
        for edge in (stretch.first, stretch.end)
        if 0 < edge < recording()[script.index].routes.stop
    ]
    assert np.median(edges) == pytest.approx(90, abs=2)


@pytest.mark.slow
def test_exchanged_layers():
    """Two layers that have each other's routes are named, where they have them."""

    def change(ids, routes):
        return ids[:, [0, 3, 2, 1, 4, 5]]

    found = find_alone(spoilt(change, (5, 21, 44)))
    assert {(one.layer, one.source) for one in found.exchanged} == {(1, 3), (3, 1)}
    assert not found.renumbered
    assert not found.strange


@pytest.mark.slow
def test_a_dictionary_of_another_dump():
    """With what a sound dump taught, a dump is told that is wrong in every sample."""
    dictionary = learn_dictionary(recording())
    rest = recording(chosen=range(1, 96, 4))
    assert find_alone(rest, dictionary).clean
    rng = np.random.default_rng(3)
    filler = spoilt(lambda ids, routes: random_rows(ids, routes, rng), None, rest)
    assert not find_alone(filler).power.enough
    found = find_alone(filler, dictionary)
    assert found.unlike
    assert not found.clean
    shifted = find_alone(spoilt(late(1), None, rest), dictionary)
    assert (shifted.lag, shifted.changed) == (1, len(rest))


def test_dictionaries_add_up():
    """The sum of two dictionaries has the counts of both, and those of two models have none."""
    one, other = (learn_dictionary(recording(chosen=range(n, 96, 8))) for n in (0, 4))
    both, turned = one + other, other + one
    assert both.counts_VLE.sum() == one.counts_VLE.sum() + other.counts_VLE.sum()
    assert (both.counts_VLE == turned.counts_VLE).all()
    token = int(one.tokens_V[one.rows_V.argmax()])
    rows = sum(int(d.rows_V[d.tokens_V == token].sum()) for d in (one, other))
    assert int(both.rows_V[both.tokens_V == token][0]) == rows
    with pytest.raises(MismatchError, match="two models"):
        one + replace(other, top_k=5)
    with pytest.raises(MismatchError, match="expected those of what was learnt before"):
        find_alone(make_dump([]), one)


def test_lift_is_of_the_rows_own_tokens():
    """Lift falls in every layer when rows are late by one."""
    sound, shifted = measure_lift(recording()), measure_lift(spoilt(late(1), None))
    assert all(a > b for a, b in zip(sound.lift_L, shifted.lift_L, strict=True))
    assert sound.lift_L[0] > 2 * shifted.lift_L[0]


def test_nothing_is_told_without_tokens():
    """A dump without token ids, one without samples, and one of few rows say that they do."""
    bare = [replace(s, prompt_ids=None, response_ids=None) for s in recording()]
    found = find_alone(Dump(recording().meta, recording().keys, bare.__getitem__))
    assert found.power.reason == "no sample has both its token ids and routes"
    assert (found.without, found.clean, found.power.enough) == (len(SAMPLES), True, False)
    assert not find_alone(make_dump([])).power.enough
    row = make_routes([[[0, 1]] * 3] * 4)
    few = find_alone(make_dump([make_sample(row, "a", [1, 2], [3, 4, 5])]))
    assert few.power.reason.startswith("too few tokens")
    assert not measure_lift(make_dump([])).enough


def test_missing_rows_and_unknown_tokens_tell_nothing():
    """Missing rows and negative token ids are passed over."""
    samples = list(recording())
    one = samples[SPOILT]
    missing = np.zeros(one.routes.ids_TLK.shape[:2], np.bool_)
    missing[40:80] = True
    samples[SPOILT] = with_ids(one, np.where(missing[:, :, None], 0, one.routes.ids_TLK), missing)
    other = samples[3]
    samples[3] = replace(other, prompt_ids=np.full_like(other.prompt_ids, -1))
    assert find_alone(Dump(recording().meta, recording().keys, samples.__getitem__)).clean


def test_what_is_kept_is_bounded():
    """A keeper holds no more ids than its budget, of samples that are evenly spaced."""
    keeper = Keeper(budget=100_000)
    for index, sample in enumerate(recording()):
        keeper.add(sample, index)
    indices = [one.index for one in keeper.kept]
    assert sum(one.ids_TLK.nbytes for one in keeper.kept) <= 100_000
    assert len({b - a for a, b in itertools.pairwise(indices)}) == 1
    assert keeper.samples == len(SAMPLES)


def own(first, end, lag=0):
    """A stretch of a sample's own rows."""
    return TokenStretch(first, end, "shifted" if lag else "own", lag)


@pytest.mark.parametrize(
    ("stretches", "edits"),
    [
        ([own(0, 9)], []),
        ([own(0, 9, 1)], [TokenEdit("late", 0, 9, 1)]),
        ([own(0, 1), own(1, 9, 1)], [TokenEdit("late", 1, 8, 1)]),
        ([own(0, 4, -2), own(4, 9)], [TokenEdit("early", 0, 4, -2)]),
        ([own(0, 4), own(4, 9, -3)], [TokenEdit("hole", 4, 3, -3)]),
        ([own(0, 4), own(4, 9, 3)], [TokenEdit("repeated", 4, 3, 3)]),
        ([own(0, 4), own(4, 6, 3), own(6, 9)], [TokenEdit("late", 4, 2, 3)]),
        (
            [own(0, 3, 1), own(3, 9, 4)],
            [TokenEdit("late", 0, 3, 1), TokenEdit("repeated", 3, 3, 4)],
        ),
        (
            [own(0, 4), TokenStretch(4, 6, "nobody", None), own(6, 9, 2)],
            [TokenEdit("inserted", 4, 2, 2)],
        ),
        (
            [own(0, 4), TokenStretch(4, 6, "other", 1, "b"), own(6, 9)],
            [TokenEdit("other", 4, 2, 1, "b")],
        ),
    ],
)
def test_edits_of_stretches(stretches, edits):
    """Stretches say what was done: lags that stay are holes and repeats, those that return not."""
    assert list(Script("a", 0, tuple(stretches)).edits) == edits
