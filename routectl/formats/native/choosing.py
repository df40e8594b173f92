"""How a dump is coded where its first row groups are to say: they are coded in each way.

Shape suffixes: none.
"""

from collections.abc import Sequence
from itertools import islice

from ...dump import Dump, DumpMeta, Sample, key_of
from ...errors import RoutectlError
from .encoder import Coding, code_group, coded_sample
from .learning import learn_tokens

__all__ = ["choose_coding", "own_coding"]

_FIRST_BYTES = 16 << 20  # ids of the rows that speak for all: a row group
_FIRST_SAMPLES = 4096
_IN_FOOTER = 4 / 3  # base64


def _first(dump: Dump) -> list[Sample]:
    """The samples of a first row group, or all that there are."""
    found: list[Sample] = []
    size = 0
    for sample in islice(dump, _FIRST_SAMPLES):
        found.append(sample)
        size += 0 if sample.routes is None else sample.routes.ids_TLK.nbytes
        if size >= _FIRST_BYTES:
            break
    return found


def _bytes_of(samples: Sequence[Sample], meta: DumpMeta, coding: Coding) -> int:
    """What the cells of some samples take."""
    as_they_come = [coded_sample(s, sorts=coding.sorts) for s in samples]
    rows = code_group(as_they_come, meta, coding) if samples else []
    return sum(len(cell) for row in rows for cell in row.values() if isinstance(cell, bytes))


def own_coding(dump: Dump, keep_order: bool) -> Coding | None:
    """Codec token with a dictionary of the dump's own, which is stored in the file.

    None where it would not pay: by the first row group, ``set`` takes less than it with its share
    of the dictionary; or where there is nothing to learn from.
    """
    samples = _first(dump)
    by_set = _bytes_of(samples, dump.meta, Coding("set", keep_order))
    if len(samples) < len(dump) and _own(_held(samples, dump.meta), keep_order) is None:
        return None
    coding = _own(dump, keep_order)
    if coding is None or coding.dictionary is None:
        return None
    share = len(samples) / max(len(dump), 1)
    stored = _IN_FOOTER * len(coding.dictionary.data) * share
    return coding if _bytes_of(samples, dump.meta, coding) + stored < by_set else None


def _held(samples: Sequence[Sample], meta: DumpMeta) -> Dump:
    keys = [key_of(s.sample_id, s.prompt_ids, s.response_ids) for s in samples]
    return Dump(meta, keys, list(samples).__getitem__)


def _own(dump: Dump, keep_order: bool) -> Coding | None:
    try:
        learnt = learn_tokens(dump, own=True)
    except RoutectlError:
        return None
    return Coding("token", keep_order, dictionary=learnt, stores=True)


def choose_coding(dump: Dump, codings: Sequence[Coding]) -> Coding:
    """The coding that takes the fewest bytes for the first row group; the first of several."""
    samples = _first(dump)
    return min(codings, key=lambda coding: _bytes_of(samples, dump.meta, coding))
