"""``routectl convert SRC NAME.parquet``: the native file, its codec, and what it came to."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...cli.output import counting_samples, note
from ...errors import RoutectlError
from ...reports.text.wording import plural, shrunk_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...dump import Dump, Sample
    from ...formats.native.encoder import Coding

__all__ = ["BaseDump", "CodecName", "KeepOrder", "NativeWanted", "Verify", "convert_to_native"]

CodecName = Annotated[
    str,
    typer.Option(
        "--codec",
        metavar="CODEC",
        help="Of a native file: plain, packed, set, context or delta; docs/codecs.md.",
    ),
]
KeepOrder = Annotated[
    bool, typer.Option("--keep-order", help="Keep slot orders where the codec would sort rows.")
]
BaseDump = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="DUMP",
        show_default=False,
        help="With --codec delta, the dump to code against; else the one that SRC was.",
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify", help="Read what was written, and SRC if native, and check every route's digest."
    ),
]


@dataclass(frozen=True, slots=True)
class NativeWanted:
    """What a native file is to be: its codec, slot orders kept or not, its base, checked or not."""

    codec: str
    keep_order: bool
    base: "Dump | None"
    verify: bool
    force: bool

    def coding(self) -> "Coding | None":
        """How to code; None for plain. Raises UnsupportedError, MismatchError."""
        from ...codecs import codec_named
        from ...formats.native.encoder import Coding

        if self.codec == "plain":
            return None
        needed = "base" in codec_named(self.codec).needs
        return Coding(self.codec, self.keep_order, self.base if needed else None)


def _checked_source(
    dump: "Dump", base: "Dump | None", on_sample: "Callable[[Sample], None]"
) -> None:
    """Check a native source against the digests in it; one from before digests is named."""
    from ...formats import open_dump
    from ...formats.native.container import check_native
    from ..stdin import file_of

    if dump.meta.format != "native":
        return
    path = Path(file_of(dump.meta.path))
    if check_native(path, base=base, on_sample=on_sample, opener=open_dump) is None:
        note(f"{dump.meta.path}: has no digest to be checked against")


def convert_to_native(dump: "Dump", dst: Path, wanted: NativeWanted) -> int:
    """Write a dump as a native file, or with ``-`` to stdout, and say what it came to."""
    from ...formats.native.container import stream_native, write_native

    coding = wanted.coding()
    began = time.monotonic()
    if wanted.base is not None and Path(wanted.base.meta.path).resolve() == dst.resolve():
        raise RoutectlError(f"{dst}: is the base of what would be written there")
    if wanted.verify and str(dst) == "-":
        raise RoutectlError("--verify reads what was written: stdout cannot be read")
    passes = 1 if not wanted.verify else 3 if dump.meta.format == "native" else 2
    with counting_samples("converting", passes * len(dump)) as on_sample:
        watched = dump.watched(on_sample)
        if str(dst) == "-":
            stream_native(watched, dump.meta, sys.stdout.buffer, coding)
            return 0
        if wanted.verify:
            _checked_source(dump, wanted.base, on_sample)
        count = write_native(
            watched,
            dump.meta,
            dst,
            force=wanted.force,
            coding=coding,
            verify=wanted.verify and on_sample,
        )
    sizes = shrunk_text(dump.meta.file_bytes, dst.stat().st_size)
    elapsed = time.monotonic() - began
    checked = ", verified" if wanted.verify else ""
    note(f"wrote {dst}: {plural(count, 'sample')}{checked}; {sizes} in {elapsed:.1f} s")
    if coding is not None and coding.sorts:
        note(f"codec {coding.codec} does not keep the order of slots; --keep-order does")
    return 0
