"""What a dump is held against: another dump, or a checkpoint that its tokens are pushed through."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import FormatError, MismatchError, UnsupportedError
from ...reports.text.wording import plural
from ..progress import SILENT, Progress
from ..reading import Reading
from ..recompute.cache import RecomputeCache, refuse_other_shape, user_cache
from ..recompute.crew import crew_of
from ..recompute.router_check import CHECKED_TOKENS
from ..recompute.share import Work

if TYPE_CHECKING:
    from ...dump import Dump, Sample

__all__ = ["open_checked", "open_reference"]


def open_checked(
    path: str, reading: Reading, weights: Path | None, progress: Progress = SILENT
) -> "Dump":
    """The dump that is checked; where it does not say its layers, E and K, ``weights`` do."""
    from ...formats.documents.facts import Otherwise, read_model

    if weights is None or reading.model is not None:
        return reading.open(path, progress=progress)
    return reading.open(path, Otherwise(read_model(weights), str(weights)), progress)


def open_reference(
    weights: Path, opened: "Dump", path: str, reading: Reading, progress: Progress
) -> "Dump":
    """The routes of a checkpoint for the tokens of ``opened``, which was opened at ``path``.

    Those come with margins, and are kept in the user's cache folder by what they were made of, as
    ``staleness`` keeps them. Samples that have no tokens, or cannot be read at all, are not run.
    Raises MismatchError where no sample can be, or the checkpoint has other E or K.
    """
    from ...formats.native.container import open_native
    from ...forward import RunOptions

    crew = crew_of("auto", None, progress)
    if crew.ranks is not None and crew.size > 1:
        raise UnsupportedError("check is run by one process, not by torchrun")
    options = RunOptions(
        checkpoint=weights,
        device=crew.devices[0],
        sharing=crew.sharing,
        check_tokens=CHECKED_TOKENS,
    )
    opener = partial(_runnable, path, reading, weights)
    cache = RecomputeCache(user_cache())
    work = Work(options=options, open_source=opener, indices=(), output=cache.folder)
    prepared = work.prepare()
    refuse_other_shape(f"--against {weights}", prepared, opened, some_layers=True)
    source = opener()
    if not source.keys:
        raise MismatchError(f"--against {weights}: {opened.meta.path} has no token ids to run")
    if len(source) < len(opened):
        left = len(opened) - len(source)
        progress.note(f"{plural(left, 'sample')} without token ids: not run, and not compared")
    files = cache.recomputed(work, crew, prepared, source, ("free",))
    reference = open_native(files["free"])
    reference.meta = replace(reference.meta, path=str(weights))
    return reference


def _runnable(path: str, reading: Reading, weights: Path) -> "Dump":
    """The tokens of a dump's samples, without their routes; those that have none are left out.

    A sample whose routes its reader refuses has its tokens all the same.
    """
    from ...damage import DamagedSampleError
    from ...dump import Dump

    opened = open_checked(path, reading, weights)

    def tokens_of(index: int) -> "Sample | None":
        try:
            sample = opened[index]
        except DamagedSampleError as error:
            sample = error.sample
        except (FormatError, MismatchError):
            return None
        if sample.token_ids is None or not len(sample.token_ids):
            return None
        return replace(sample, routes=None, gates=None)

    kept = [index for index in range(len(opened)) if tokens_of(index) is not None]

    def load(place: int) -> "Sample":
        sample = tokens_of(kept[place])
        assert sample is not None
        return sample

    return Dump(opened.meta, [opened.keys[index] for index in kept], load)
