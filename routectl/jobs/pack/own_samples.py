"""A replay folder's samples.parquet, which unpack reads, held against its manifest and a dump.

Shape suffix: S samples.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...columns.stored_keys import in_columns
from ...errors import FormatError, UnsupportedError
from ...reports.text.wording import plural
from .folder import Job

if TYPE_CHECKING:
    from ...dump import Dump

__all__ = ["samples_faults"]

_NAMED = 3  # samples that a line names


def samples_faults(folder: Path, job: Job) -> tuple[str, ...]:
    """What of samples.parquet is not as the manifest and the dump say, a line each.

    Nothing of a folder without a manifest, which pack did not write. Token ids are held against
    the dump's, and where one of both has none, the samples' ids, which another format may call
    otherwise.
    """
    from ...formats.native.container import open_native
    from ...formats.replay.folder import SAMPLES

    path = folder / SAMPLES
    if job.digests is None:
        return ()
    if not path.is_file():
        return (f"{SAMPLES}: not there: all of the samples but their routes; unpack needs it",)
    try:
        return tuple(f"{SAMPLES}: {line}" for line in _unlike(open_native(path), job))
    except (FormatError, UnsupportedError) as error:
        return (f"{SAMPLES}: {str(error).removeprefix(f'{path}: ')}",)


def _unlike(kept: "Dump", job: Job) -> Iterator[str]:
    """What of it is another's: the model's shape, how many samples there are, which ones."""
    own, expected = kept.meta, job.dump.meta
    shapes = (
        ("layers", list(own.layers_L), list(expected.layers_L)),
        ("top_k", own.top_k, expected.top_k),
        ("num_experts", own.num_experts, job.num_experts or own.num_experts),
    )
    for name, got, wanted in shapes:
        if got != wanted:
            yield f"{name}: got {got}, expected {wanted}"
    if len(kept) != len(job.dump):
        yield f"got {plural(len(kept), 'sample')}, expected {len(job.dump)}"
        return
    others = [(i, told) for i, told in enumerate(_told(kept, job)) if told]
    if others:
        named = ", ".join(f"{job.name(i)} ({told})" for i, told in others[:_NAMED])
        more = f" and {len(others) - _NAMED:,} more" if len(others) > _NAMED else ""
        count = f"{len(others):,} of {plural(len(kept), 'sample')}"
        yield f"not the samples that are packed: {count}: {named}{more}"


def _told(kept: "Dump", job: Job) -> Iterator[str]:
    """Of each sample what is not the dump's, as many tokens as the manifest's; "" for nothing."""
    own, theirs = in_columns(kept.keys), in_columns(job.dump.keys)
    (own_SW, own_S), (their_SW, their_S) = own.digests("tokens"), theirs.digests("tokens")
    known_S, equal_S = own_S & their_S, (own_SW == their_SW).all(axis=1)
    of_tokens = zip(known_S.tolist(), equal_S.tolist(), strict=True)
    rows = zip(kept, own.ids, theirs.ids, job.packing.lens, of_tokens, strict=True)
    for sample, name, wanted, tokens, (known, equal) in rows:
        if sample.num_tokens not in (None, tokens):
            yield f"got {plural(sample.num_tokens, 'token')}, expected {tokens}"
        elif known:
            yield "" if equal else "got other token ids"
        else:
            yield f"got id {name}" if None not in (name, wanted) and name != wanted else ""
