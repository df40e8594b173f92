"""More faults against a reference: rows that move, ids that stand for others, layers, weights.

Each takes the samples of a dump, how much of it to spoil, and a random generator, as in faults.py.
Shape suffixes: T tokens, L MoE layers, K top_k, E experts.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np

from routectl.damage import DamagedSampleError
from routectl.damage import Fault as Damage
from routectl.dump import Dump
from routectl.routes import Routes
from support.faults import Fault, by_run, chosen, of_samples, random_rows, swapped_from, with_ids

__all__ = ["MORE_FAULTS", "as_read", "wide_ids"]


def late(lag):
    """All rows of some samples so many positions late; the first rows stay where they are."""

    def change(sample, rng):
        ids = sample.routes.ids_TLK.copy()
        ids[lag:] = sample.routes.ids_TLK[:-lag]
        return with_ids(sample, ids)

    return of_samples(change)


def early(lag):
    """All rows of some samples so many positions early; the last rows stay where they are."""

    def change(sample, rng):
        ids = sample.routes.ids_TLK.copy()
        ids[:-lag] = sample.routes.ids_TLK[lag:]
        return with_ids(sample, ids)

    return of_samples(change)


def late_twice(sample, rng):
    """Late by one from a third on, by two from two thirds on."""
    ids = sample.routes.ids_TLK
    third = len(ids) // 3
    source = np.arange(len(ids))
    source[third:] -= 1
    source[2 * third :] -= 1
    return with_ids(sample, ids[source])


def hole(sample, rng):
    """Rows of twelve tokens in the middle were lost: all later ones are early."""
    ids = sample.routes.ids_TLK
    middle = len(ids) // 3
    return with_ids(sample, np.concatenate([ids[:middle], ids[middle + 12 :]]))


def resumed(sample, rng):
    """A resumed request was appended whole: its first rows follow the last ones."""
    ids = sample.routes.ids_TLK
    return with_ids(sample, np.concatenate([ids, ids[: len(ids) // 2]]))


def put_in(sample, rng):
    """Random rows of nine tokens stand in the middle; the last nine fall off the end."""
    ids, size = sample.routes.ids_TLK, 9
    middle = len(ids) // 3
    filler = random_rows(ids[:size], sample.routes, rng)
    return with_ids(sample, np.concatenate([ids[:middle], filler, ids[middle:-size]]))


def in_order(order):
    """Rows in another order: ``order(T)`` is where each comes from."""
    return of_samples(
        lambda sample, rng: with_ids(
            sample, sample.routes.ids_TLK[order(len(sample.routes.ids_TLK))]
        )
    )


def striped(ranks):
    """Ranks one after the other, each with every so-manieth row."""
    return lambda rows: np.concatenate([np.arange(rows)[rank::ranks] for rank in range(ranks)])


def halves(rows):
    """The second half, then the first one."""
    return np.concatenate([np.arange(rows)[rows // 2 :], np.arange(rows)[: rows // 2]])


def shuffled_parts(rows):
    """Five parts of unlike sizes in an order that no rule has."""
    cuts = (np.array([0.0, 0.13, 0.37, 0.52, 0.81, 1.0]) * rows).astype(int)
    parts = [np.arange(a, b) for a, b in pairwise(cuts.tolist())]
    return np.concatenate([parts[i] for i in (3, 0, 4, 2, 1)])


def branches_moved(samples, share, rng):
    """The last two thirds of some samples are another sample's first ones."""
    out = list(samples)
    for index in chosen(samples, share, rng):
        other = (index + len(samples) // 2) % len(samples)
        theirs = samples[other].routes.ids_TLK
        ids = samples[index].routes.ids_TLK.copy()
        first = len(ids) // 3
        size = min(len(ids) - first, len(theirs))
        ids[first : first + size] = theirs[:size]
        out[index] = with_ids(samples[index], ids)
    return out


def mapped(image, *, of=lambda rows: slice(None)):
    """Ids that stand for others in some rows: ``image(E, column)`` gives the id of each expert."""

    def change(sample, rng):
        routes = sample.routes
        ids = routes.ids_TLK.astype(np.int64)
        part = of(len(ids))
        for column in range(ids.shape[1]):
            ids[part, column] = image(routes.num_experts, column)[ids[part, column]]
        return wide_ids(sample, ids)

    return of_samples(change)


def wide_ids(sample, ids_TLK):
    """The sample with ids that may be out of range: routes of as many experts as that takes."""
    routes = sample.routes
    experts = max(routes.num_experts, int(ids_TLK.max()) + 1)
    made = Routes(
        np.ascontiguousarray(ids_TLK.astype(np.uint8 if experts <= 256 else np.uint16)),
        routes.layers_L,
        experts,
        routes.start,
        routes.missing_TL,
    )
    return replace(sample, routes=made)


def permuted(seed):
    """A permutation of each layer's experts."""
    return lambda experts, column: np.random.default_rng((seed, column)).permutation(experts)


def two_maps(samples, share, rng):
    """Experts renumbered by one map in the first samples, by another one in the last."""
    half = len(samples) // 2
    first = mapped(permuted(1))(samples[:half], share, rng)
    return [*first, *mapped(permuted(2))(samples[half:], share, rng)]


def moved_within(samples, share, rng):
    """Another map from the same position on in every sample."""
    return mapped(permuted(3), of=lambda rows: slice(40, None))(samples, share, rng)


def cut(bits):
    """Ids modulo a power of two."""
    return lambda experts, column: np.arange(experts) % (1 << bits)


def exchanged(experts, column):
    """Experts 3 and 7 have each other's ids."""
    image = np.arange(experts)
    image[[3, 7]] = image[[7, 3]]
    return image


def one_rank(experts, column):
    """A quarter of the experts keep their ids; all others are 0."""
    every = np.arange(experts)
    return np.where(every < experts // 4, every, 0)


def late_and_renumbered(sample, rng):
    """Experts renumbered, and every row late by two."""
    ids = sample.routes.ids_TLK.copy()
    ids[2:] = sample.routes.ids_TLK[:-2]
    for column in range(ids.shape[1]):
        ids[:, column] = permuted(5)(sample.routes.num_experts, column)[ids[:, column]]
    return with_ids(sample, ids)


def layers_late(sample, rng):
    """One layer is late by one row, as of a stage that is a step behind."""
    ids = sample.routes.ids_TLK.copy()
    ids[1:, 1] = sample.routes.ids_TLK[:-1, 1]
    return with_ids(sample, ids)


def later_suffix(samples, share, rng, later):
    """The last two thirds of some samples have the routes of other weights."""
    out = list(samples)
    for index in chosen(samples, share, rng):
        ids = samples[index].routes.ids_TLK.copy()
        first = len(ids) // 3
        ids[first:] = later[index].routes.ids_TLK[first : len(ids)]
        out[index] = with_ids(samples[index], ids)
    return out


def cycle(layers):
    """Layers 0, 1 and 2 have 1's, 2's and 0's routes."""
    order = np.arange(layers)
    order[[0, 1, 2]] = order[[1, 2, 0]]
    return order


MORE_FAULTS = (
    Fault("late by 2 from the first row", "R701", late(2), True),
    Fault("late by 7", "R707", late(7), True),
    Fault("late by 20", "R707", late(20), True),
    Fault("early by 11", "R707", early(11), True),
    Fault("late by one, then by two", "R701", of_samples(late_twice), True),
    Fault("hole of 12", "R405", of_samples(hole), True, also=("R003",)),
    Fault("resumed, appended whole", "R402", of_samples(resumed), True, also=("R002",)),
    Fault("nine rows put in", "R406", of_samples(put_in), True, also=("R207", "R713")),
    Fault("rows reversed", "R708", in_order(lambda rows: np.arange(rows)[::-1]), True),
    Fault("CP 2 striped", "R708", in_order(striped(2)), True),
    Fault("CP 4 striped", "R708", in_order(striped(4)), True),
    Fault("halves exchanged", "R708", in_order(halves), True),
    Fault("parts in no order", "R714", in_order(shuffled_parts), True),
    Fault("branches swapped", "R710", swapped_from(lambda size: size // 2), True),
    Fault("another sample's first rows", "R710", branches_moved, True, also=("R707",)),
    Fault("two maps, by samples", "R706", two_maps, True),
    Fault("a map from position 40 on", "R706", moved_within, True),
    Fault(
        "a slot more after every 8",
        "R706",
        mapped(lambda e, c: np.arange(e) + np.arange(e) // 8),
        True,
        also=("R101",),
    ),
    Fault("two experts exchanged", "R706", mapped(exchanged), True),
    Fault("ids modulo 16", "R717", mapped(cut(4)), True, also=("R102", "R106")),
    Fault("one rank's ids", "R106", mapped(one_rank), True),
    Fault("late and renumbered", "R706", of_samples(late_and_renumbered), True),
    Fault("one layer late", "R701", of_samples(layers_late), True),
    Fault(
        "three layers exchanged",
        "R703",
        by_run(lambda ids, r, g: ids[:, cycle(ids.shape[1])]),
        True,
    ),
    Fault("layers reversed", "R703", by_run(lambda ids, r, g: ids[:, ::-1]), True),
    Fault("other weights from a position on", "R718", later_suffix, True, bases=("tiny_rl vllm",)),
)


def as_read(dump):
    """A dump as its reader gives it: samples with ids out of range are refused."""
    meta = dump.meta

    def load(index):
        sample = dump[index]
        routes = sample.routes
        if routes is None or routes.num_experts == meta.num_experts:
            return sample
        text = f"got id {int(routes.ids_TLK.max())}, expected 0..{meta.num_experts - 1}"
        fault = Damage("ids", text)
        raise DamagedSampleError(
            f"sample {index}", [fault], replace(sample, routes=None), routes.ids_TLK, routes.start
        )

    return Dump(meta, dump.keys, load)
