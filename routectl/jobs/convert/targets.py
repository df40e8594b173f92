"""``routectl convert --to TARGET``: what trainers read, from the options to the file."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...cli.output import note, watching
from ...errors import MismatchError, RoutectlError, UnsupportedError
from ...reports.text.wording import plural, shrunk_text

if TYPE_CHECKING:
    from ...dump import Dump, DumpMeta
    from ...formats.targets.write import Written
    from ...model import ModelFacts

__all__ = ["Lossy", "Missing", "To", "Wanted", "convert_to_target", "is_native"]

To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="TARGET",
        show_default=False,
        help="native, npz, safetensors, jsonl, jsonl-sglang, verl, verl-padded, slime, "
        "slime-numpy, miles, skyrl, skyrl-0.3, nemo-rl, nemo-rl-tensor, prime-rl, roll, "
        "ms-swift, art or megatron; by the name of DST when not given.",
    ),
]
Missing = Annotated[
    str | None,
    typer.Option(
        "--missing",
        metavar="HOW",
        show_default=False,
        help="Missing rows that the target cannot say: arange (0..K-1), zero, minus-one, or drop "
        "(leave the sample out).",
    ),
]
Lossy = Annotated[bool, typer.Option("--lossy", help="Leave out what the target has no place for.")]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for: --to, --missing, --lossy, --force and the model given."""

    to: str | None
    missing: str | None
    lossy: bool
    force: bool
    model: "ModelFacts | Path | None"


def is_native(dst: Path, to: str | None) -> bool:
    """Whether a native file is to be written: ``--to native``, or NAME.parquet, or to stdout."""
    fits = dst.suffix == ".parquet" or str(dst) == "-"
    if to == "native" and not fits:
        raise UnsupportedError(f"{dst}: a native file: expected NAME.parquet")
    return to in (None, "native") and fits


def _num_layers(meta: "DumpMeta", model: "ModelFacts | Path | None") -> int | None:
    """Decoder layers: of the model given, which must be the dump's, else what the dump knows."""
    from ...formats.documents.facts import read_model

    if model is None:
        return meta.num_layers
    facts = read_model(model) if isinstance(model, Path) else model
    got = (meta.layers_L, meta.num_experts, meta.top_k)
    if got != (facts.layers, facts.num_experts, facts.top_k):
        raise MismatchError(f"{meta.path}: the routes are of another model than --model")
    return facts.num_layers


def convert_to_target(dump: "Dump", dst: Path, wanted: Wanted) -> int:
    """Write ``dump`` at ``dst``, or to stdout where that is ``-``, and say what it came to."""
    from ...formats.targets.rows import Shape
    from ...formats.targets.table import BY_SUFFIX, target_named
    from ...formats.targets.write import write_target

    name = wanted.to or BY_SUFFIX.get(dst.suffix)
    if name is None:
        known = ", ".join(("NAME.parquet", *BY_SUFFIX))
        raise UnsupportedError(f"{dst}: expected {known}", hint="--to TARGET says what to write")
    target = target_named(name)
    piped = str(dst) == "-"
    if not piped and dst.suffix != target.suffix and (target.suffix or dst.suffix == ".parquet"):
        raise RoutectlError(f"{dst}: {name} is written to NAME{target.suffix or ', a folder'}")
    shape = Shape(
        target, dump.meta, _num_layers(dump.meta, wanted.model), wanted.missing, wanted.lossy
    )
    begun = time.perf_counter()
    passes = 2 if target.kind in ("grid", "pickle") else 1  # the grid's width comes first
    with watching(dump, "converting", passes) as watched:
        stream = sys.stdout.buffer if piped else None
        done = write_target(watched, shape, dst, force=wanted.force, stream=stream)
    _tell(done, dump.meta, None if piped else dst, time.perf_counter() - begun)
    return 0


def _bytes_at(path: Path) -> int:
    """The bytes of a file, or of the files in a folder."""
    return sum(f.stat().st_size for f in (path.iterdir() if path.is_dir() else [path]))


def _tell(done: "Written", meta: "DumpMeta", dst: Path | None, elapsed_s: float) -> None:
    sizes = ""
    if dst is not None:
        sizes = f"; {shrunk_text(meta.file_bytes, _bytes_at(dst))} in {elapsed_s:.1f} s"
    note(f"wrote {dst or 'stdout'}: {plural(done.samples, 'sample')}{sizes}")
    if done.dropped:
        note(f"dropped {plural(done.dropped, 'sample')} with missing rows")
    if done.left_out:
        note(f"left out: {', '.join(done.left_out)}")
