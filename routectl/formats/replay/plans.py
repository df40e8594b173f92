"""plan.json: which samples form which micro-batch on which data-parallel rank.

routectl's own form, those of trainers (``trainer_plans``), and slime's train-data dumps, which have
one of these in them. docs/replay.md has all.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ...errors import FormatError, MismatchError
from ...files.reading import open_regular, read_bytes
from ...layouts.plan import MicroBatch, Plan
from ..documents.fields import from_json, one_line
from .trainer_plans import TRAINERS_KEYS, trainers_steps

__all__ = ["plan_document", "read_plan", "steps_of"]

_MAX_BYTES = 256 << 20
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Groups = list[list[int | str]]  # the samples of each data-parallel rank, by index or id
_Named = dict[str, list[int]]  # indices of the samples with an id


class _Step(msgspec.Struct):
    """A micro-batch with a CP size of its own."""

    samples: _Groups
    cp: Annotated[int, msgspec.Meta(ge=1)] | None = None


class _Own(msgspec.Struct):
    """routectl's own form."""

    micro_batches: Annotated[list[_Groups | _Step], msgspec.Meta(min_length=1)]


def _index(value: int | str, ids: _Named, where: str) -> int:
    """A sample's index in the dump: a number, or a sample id."""
    if isinstance(value, int):
        return value
    found = ids.get(value, ())
    if len(found) > 1:
        raise FormatError(f"{where}: samples {found[0]} and {found[1]} have the id {value}")
    if not found:
        raise FormatError(f"{where}: got {one_line(value)}, expected a sample's index or id")
    return found[0]


def steps_of(document: Any, ids: _Named, where: str) -> tuple[MicroBatch, ...]:
    """The micro-batches of routectl's own form, as plan_document makes it, samples by index.

    ``ids`` are the indices of the samples with an id. Raises FormatError.
    """
    try:
        steps = msgspec.convert(document, _Own).micro_batches
    except msgspec.ValidationError as error:
        raise FormatError(f"{where}: not a plan: {error}") from None
    found = []
    for m, step in enumerate(steps):
        groups, cp = (step.samples, step.cp) if isinstance(step, _Step) else (step, None)
        at = f"{where}: micro-batch {m}"
        found.append(MicroBatch(tuple(tuple(_index(i, ids, at) for i in g) for g in groups), cp))
    return tuple(found)


def _train_data(path: Path, lens: Sequence[int]) -> dict[str, Any]:
    """The dp_shards of a train-data dump.

    ``lens`` has 0 for a sample that is left out. Raises MismatchError when a sample there has
    another length than the one at its place in ``lens``: then the indices are of another dump.
    """
    from ..trainers.train_data import read_train_data

    data = read_train_data(path)
    for place, sample in zip(data.positions, data.samples, strict=True):
        if not lens or place is None:
            continue
        got = lens[place] if 0 <= place < len(lens) else None
        if got == 0:  # a sample that is left out
            continue
        if got != sample.num_tokens:
            raise MismatchError(
                f"{path}: of another dump: its sample {place} has {sample.num_tokens} tokens, "
                f"the dump's {'is not there' if got is None else got}"
            )
    return {"dp_shards": list(data.shards)}


def _document(path: Path, lens: Sequence[int]) -> Any:
    """What a plan's file says, as JSON would."""
    try:
        with open_regular(path) as stream:
            archive = stream.read(4) == b"PK\x03\x04"
        if archive:
            return _train_data(path, lens)
        return from_json(read_bytes(path, _MAX_BYTES, "too large for a plan"), str(path))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise FormatError(f"{path}: not JSON, expected a plan") from None


def read_plan(
    path: Path, cp: int, sample_ids: Sequence[str | None] = (), lens: Sequence[int] = ()
) -> Plan:
    """The plan in a JSON file, or in slime's train data; in our form samples may be named by id.

    ``lens`` are the tokens of the dump's samples, where known; train data is held against them.
    Raises FormatError when it is not a plan, MismatchError when it is of another dump;
    ``Plan.check`` says whether it fits the samples.
    """
    document = _document(path, lens)
    if isinstance(document, list):  # the shards of slime, or one rank's index lists
        lists = bool(document) and all(isinstance(group, list) for group in document)
        document = {"_microbatches": [document]} if lists else {"dp_shards": document}
    ids: _Named = {}
    for i, name in enumerate(sample_ids):
        if name is not None:
            ids.setdefault(name, []).append(i)
    if isinstance(document, dict) and "micro_batches" in document:
        steps = steps_of(document, ids, str(path))
    elif isinstance(document, dict) and document.keys() & TRAINERS_KEYS.keys():
        steps = trainers_steps(document, str(path))
    else:
        known = ", ".join(f"{key} ({whose})" for key, whose in TRAINERS_KEYS.items())
        raise FormatError(f"{path}: not a plan: expected one of micro_batches, {known}")
    ranks, left = divmod(len(steps[0].groups) * (steps[0].cp or cp), cp) if steps else (0, 1)
    if left or not ranks:
        raise FormatError(
            f"{path}: micro-batch 0 does not fill whole data-parallel ranks of cp {cp}"
        )
    return Plan(ranks, steps)


def plan_document(plan: Plan) -> dict[str, Any]:
    """A plan as read_plan takes it."""
    return {
        "micro_batches": [
            [list(g) for g in step.groups]
            if step.cp is None
            else {"cp": step.cp, "samples": [list(g) for g in step.groups]}
            for step in plan.micro_batches
        ]
    }
