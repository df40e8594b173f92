"""The dump whose tokens a checkpoint is run on: what of it can be run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import FormatError, MismatchError
from ..held import HeldDump
from ..progress import SILENT, Progress
from ..reading import Reading

if TYPE_CHECKING:
    from ...dump import Dump, Sample

__all__ = ["Partner", "open_partner", "partner_at", "partner_of"]


@dataclass(frozen=True, slots=True)
class Partner:
    """The samples of a dump that have tokens.

    tokens      of all of them
    left_out    samples that are not among them
    scored      whether one has log-probs
    opener      opens the same in another process; None: nothing can
    """

    dump: "Dump"
    tokens: int
    left_out: int
    scored: bool
    opener: "Callable[[], Dump] | None" = None


def open_partner(
    path: str, reading: Reading, weights: Path | None, progress: Progress = SILENT
) -> "Dump":
    """A dump; where it does not say its layers, E and K, ``weights`` do."""
    from ...formats.documents.facts import Otherwise, read_model

    if weights is None or reading.model is not None:
        return reading.open(path, progress=progress)
    return reading.open(path, Otherwise(read_model(weights), str(weights)), progress)


def partner_of(
    opened: "Dump", *, with_routes: bool = False, opener: "Callable[[], Dump] | None" = None
) -> Partner:
    """What of a dump can be run, read once.

    Samples without token ids, and those of which nothing can be read, are left out. A sample whose
    routes its reader refuses has its tokens all the same. ``with_routes`` where routes are forced,
    or asked about. Raises the first sample's error where nothing of any can be read.
    """
    from ...dump import Dump

    kept: list[int] = []
    tokens, scored = 0, False
    refused: FormatError | MismatchError | None = None
    for index in range(len(opened)):
        try:
            sample = _sample(opened, index, with_routes)
        except (FormatError, MismatchError) as error:
            refused = refused or error
            continue
        if sample is not None and sample.token_ids is not None:
            kept.append(index)
            tokens += len(sample.token_ids)
            scored = scored or sample.logprobs is not None
    if refused is not None and not kept:
        raise refused

    def load(place: int) -> "Sample":
        sample = _sample(opened, kept[place], with_routes)
        assert sample is not None
        return sample

    keys = [opened.keys[index] for index in kept]
    left = len(opened) - len(kept)
    return Partner(Dump(opened.meta, keys, load), tokens, left, scored, opener)


def partner_at(
    path: str, reading: Reading, weights: Path | None, opened: "Dump", *, with_routes: bool = False
) -> Partner:
    """The same of a dump that was opened at a path, and can be opened there again."""
    if isinstance(path, HeldDump):
        return partner_of(opened, with_routes=with_routes)
    opener = partial(_opened_again, path, reading, weights, with_routes)
    return partner_of(opened, with_routes=with_routes, opener=opener)


def _opened_again(path: str, reading: Reading, weights: Path | None, with_routes: bool) -> "Dump":
    return partner_of(open_partner(path, reading, weights), with_routes=with_routes).dump


def _sample(opened: "Dump", index: int, with_routes: bool) -> "Sample | None":
    """A sample with tokens, or None where it has none. Raises as its reader does."""
    from ...damage import DamagedSampleError

    try:
        sample = opened[index]
    except DamagedSampleError as error:
        sample = replace(error.sample, routes=None, gates=None)
    if sample.token_ids is None or not len(sample.token_ids):
        return None
    return sample if with_routes else replace(sample, routes=None, gates=None)
