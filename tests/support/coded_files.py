"""Dumps written coded, and what reading them back must give."""

import dataclasses

import numpy as np

from routectl.codecs import codec_named
from routectl.codecs.dictionary import MOST_EXPERTS
from routectl.codecs.dictionary_tables import TableSizes
from routectl.codecs.token_training import CLASSES, Training
from routectl.dump import Dump, DumpMeta, Sample, key_of
from routectl.errors import MismatchError
from routectl.formats.native.encoder import Coding, as_coded
from routectl.formats.native.learning import learn_tokens
from routectl.routes import Routes

__all__ = ["coding_of", "dump_of", "expect", "grouped"]


def dump_of(some, meta):
    """Samples in memory as a dump."""
    keys = [key_of(s.sample_id, s.prompt_ids, s.response_ids) for s in some]
    return Dump(meta, keys, list(some).__getitem__)


def coding_of(name, base, keep_order=False):
    """A Coding with what the codec needs: the base, or a dictionary learnt from it."""
    if name == "token" and base.meta.num_experts > MOST_EXPERTS:
        name = "set"  # as convert has it
    needs, given = codec_named(name).needs, {}
    if "dictionary" in needs:
        given = {"dictionary": _learnt(base), "stores": True}
    return Coding(name, keep_order, base if "base" in needs else None, **given)


def _learnt(base):
    """What a dump teaches; of one without tokens or with too many experts, nothing of E and K."""
    meta = base.meta
    try:
        return learn_tokens(base, own=True)
    except MismatchError:
        sizes = TableSizes(meta.num_experts, meta.top_k, CLASSES)
        training = Training(sizes, np.zeros(0, np.int64), len(meta.layers_L), own=True)
        training.rank()
        return training.dictionary(meta.layers_L)


def grouped(count=6, prompt=300, rows=400, num_experts=64, seed=0):
    """Siblings of one prompt whose prompt rows are equal, and their meta; top-4 of E, 3 layers."""
    rng = np.random.default_rng(seed)
    keys = rng.random((rows, 3, num_experts))
    made = []
    for i in range(count):
        keys[prompt:] = rng.random(keys[prompt:].shape)
        ids = np.argsort(keys, axis=2)[..., :4].astype(np.uint8)
        shared = np.arange(prompt, dtype=np.int32)
        rest = rng.integers(0, 999, rows + 1 - prompt).astype(np.int32)
        rest[0] = i  # siblings part at once
        made.append(Sample(Routes(ids, (1, 2, 5), num_experts), f"s{i}", "g", shared, rest))
    return made, DumpMeta("", "", (1, 2, 5), num_experts, 4)


def expect(given_samples, coding):
    """The samples as they must come back: missing rows 0, rows sorted where the codec sorts."""
    return [
        s
        if s.routes is None
        else dataclasses.replace(s, routes=as_coded(s.routes, sorts=coding.sorts))
        for s in given_samples
    ]
