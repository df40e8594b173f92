"""routectl's own container: Parquet, one row a sample, one binary column a MoE layer.

A second binary column a layer holds margins, a third group margins, a fourth gate
log-probabilities, where there are any; the ids may go through a codec. docs/formats.md is the
contract. Shape suffixes: T tokens, L MoE layers, K top_k.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ...dump import Dump, DumpMeta, Sample
from ...errors import FormatError, MismatchError, UnsupportedError
from ...files.writing import replacing
from ...gate_logprobs import digest_routes
from ...model import ModelFacts
from .bases import Bases
from .groups import GroupAbout
from .parquet import GroupReader, open_parquet, stored_metadata
from .schema import DIGEST, FACTS, NativeAbout

if TYPE_CHECKING:
    from ...codecs.dictionary import TokenDictionary
    from .encoder import Coding

__all__ = ["check_native", "open_native", "stream_native", "write_native"]

_MOST_BASES = 16  # each coded against the next
_Opener = Callable[..., Dump]  # of a path and model=


def stream_native(
    samples: Iterable[Sample],
    meta: DumpMeta,
    stream: IO[bytes],
    coding: "Coding | None" = None,
    *,
    folder: Path | None = None,
) -> int:
    """Write samples as a native file to a binary stream, which may be a pipe; returns how many.

    ``folder`` is where the file will be: the base's path is kept relative to it.
    """
    from .row_groups import grouped, native_form

    form = native_form(meta, coding, folder)
    count, digest = 0, hashlib.blake2b(digest_size=16)
    with form.writer(stream) as writer:
        for group in grouped(samples, form.group_bytes):
            table, digests = form.table(group)
            writer.write_table(table, len(group))
            count += len(group)
            digest.update(b"".join(digests))
        writer.add_key_value_metadata({DIGEST: digest.hexdigest(), **form.stored})
    return count


def write_native(
    samples: Iterable[Sample],
    meta: DumpMeta,
    path: Path,
    *,
    force: bool,
    coding: "Coding | None" = None,
    verify: bool | Callable[[Sample], None] = False,
) -> int:
    """Write samples to a native file and return how many.

    The file appears whole or not at all; with ``verify`` not before it was read again and every
    route found to be as it was; it may be a function, told of each sample then. An existing file
    is refused unless ``force``.
    """
    with replacing(path, force=force) as target:
        count = stream_native(samples, meta, target, coding, folder=path.parent)
        if verify:
            target.flush()
            base = None if coding is None else coding.against
            check_native(
                Path(target.name), base=base, on_sample=verify if callable(verify) else None
            )
    return count


def check_native(
    path: Path,
    *,
    base: "Dump | TokenDictionary | Path | str | None" = None,
    on_sample: Callable[[Sample], None] | None = None,
    opener: _Opener | None = None,
) -> int | None:
    """Decode every sample and hold the routes against the digests in the file.

    ``opener`` is that of open_native. Returns how many samples there are, None for a file from
    before digests. Raises FormatError where they differ.
    """
    dump = open_native(path, base=base, opener=opener)
    stored = stored_metadata(path, DIGEST)
    if stored is None:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for i, sample in enumerate(dump if on_sample is None else dump.watched(on_sample)):
        found = None if sample.routes is None else digest_routes(sample.routes)
        if dump.digests and found != dump.digests[i]:
            raise FormatError(f"{path}: sample {i}: got routes {found}, expected {dump.digests[i]}")
        digest.update((found or "-").encode())
    if digest.hexdigest().encode() != stored:
        raise FormatError(f"{path}: got routes {digest.hexdigest()}, expected {stored.decode()}")
    return len(dump)


def open_native(
    path: Path,
    *,
    base: "Dump | TokenDictionary | Path | str | None" = None,
    opener: _Opener | None = None,
    within: tuple[Path, ...] = (),
) -> Dump:
    """Open a native file; row groups are read when a sample of theirs is, page checksums verified.

    ``base`` is what a file of codec delta was coded against, None to take the path in the file;
    or what one of codec token was coded with, None where it has that in it.
    ``opener`` opens a base that is no native file (``open_dump``); None to refuse such a one.
    ``within`` are files that wait for this one as their base.
    Raises FormatError when the file is damaged, UnsupportedError for another program's Parquet or
    a newer container, MismatchError for another dictionary.
    """
    file = open_parquet(path)
    about = file.about
    meta = _meta(path, about)
    coded = about.coded
    opened = partial(_open_base, opener, (*within, path.resolve()))
    bases = None
    if coded is not None:
        from ...codecs.dictionary import TokenDictionary
        from .dictionaries import dictionary_of

        found = dictionary_of(path, coded.dictionary, file.footer.metadata or {}, base)
        other = None if isinstance(base, TokenDictionary) else base
        bases = Bases(path, coded.base, other, opened, found)

    keys = file.keys

    def holding(layers: tuple[int, ...], by_layer: bool = False) -> Dump:
        """The file as a dump of some of its layers; no other layer column is read."""
        of_groups = GroupAbout(meta, layers, bases, by_layer)
        groups = GroupReader(file, of_groups)
        narrowed = dataclasses.replace(meta, layers_L=layers)
        found = Dump(
            narrowed, keys, groups.sample, holding, batch=groups.batch, count=file.row_counts
        )
        found.starts, found.columns_at = groups.starts, groups.columns_at
        if bases is None and not by_layer:
            found.layered = cache(partial(holding, layers, by_layer=True))
        return found

    whole = holding(meta.layers_L)
    if coded is not None:
        whole.digests = file.digests()
    return whole


def _open_base(
    opener: _Opener | None, within: tuple[Path, ...], path: Path, facts: ModelFacts | None
) -> Dump:
    """The base of the last file of ``within``."""
    if path.resolve() in within:
        raise MismatchError(f"{within[-1]}: its base is itself")
    if len(within) > _MOST_BASES:
        raise MismatchError(
            f"{within[0]}: more than {_MOST_BASES} dumps coded each against the next"
        )
    if path.suffix == ".parquet":
        return open_native(path, opener=opener, within=within)
    if opener is None:
        raise UnsupportedError(f"{path}: a base that is no native file: expected one, or its dump")
    return opener(path, model=facts)


def _meta(path: Path, about: NativeAbout) -> DumpMeta:
    named: dict[str, Any] = {name: getattr(about, name) for name in FACTS}
    return DumpMeta(
        path=str(path),
        format="native",
        layers_L=about.layers,
        num_experts=about.num_experts,
        top_k=about.top_k,
        facts_source="the file itself",
        file_bytes=path.stat().st_size,
        codec=about.coded.codec if about.coded else None,
        order=about.order,
        margins=about.num_kinds > 1,
        group_margins=about.num_kinds > 2,
        gates=about.with_gates,
        provenance=about.provenance,
        num_layers=about.num_layers,
        **named,
    )
