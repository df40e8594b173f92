"""``routectl convert``: a dump written as a native file, or as trainers read it."""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import MismatchError, RoutectlError, UnsupportedError
from ...files.places import place_of
from ...reports.text.wording import plural, shrunk_text
from ..options import argument, check_bounds, force_option, no_tokens_option, option
from ..progress import SILENT, Progress
from ..reading import WITHOUT_TOKENS, Reading, coded_against
from ..shards.crew import Crew
from ..shards.team import one_team
from .coding import output_of, write_dictionary
from .counts import EPLB, refuse_unfit, write_load
from .native import Source, opened_source, write_native_on

if TYPE_CHECKING:
    from ...codecs.dictionary import TokenDictionary
    from ...dump import Dump
    from ...formats.targets.table import TargetSpec
    from ...formats.targets.write import Written
    from ...reports.dumps import WrittenDocument

__all__ = ["ConvertRequest", "bytes_at", "convert_dump"]

_NEEDED = ("routectl.formats.native.container", "routectl.formats.native.row_groups")  # to write
_OF_NATIVE = "--codec, --keep-order and --verify are of native files"
_OF_DST = ("to", "missing", "lossy", "base", "dictionary", "keep_order", "verify", "no_tokens")
_BARE = ("jsonl",)  # targets that can say how many tokens there are, and not which
_OF_TARGETS = "--missing and --lossy are of --to: a native file holds everything"


TARGETS = (  # native, and those of formats/targets/table.py, which needs numpy to be loaded
    *("native", "npz", "safetensors", "jsonl", "jsonl-sglang", "verl", "verl-padded", "verl-dp"),
    *("slime", "slime-numpy", "miles", "skyrl", "skyrl-0.3", "skyrl-pkl", "skyrl-0.3-pkl"),
    *("skyrl-0.4", "skyrl-0.4-pkl", "nemo-rl", "nemo-rl-tensor", "areal", "prime-rl"),
    *("roll", "roll-pkl", "ms-swift", "art", "art-v4", "megatron"),
    EPLB,
)
CODECS = ("plain", "packed", "set", "context", "delta", "token", "auto")  # likewise, and auto


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertRequest:
    """A dump, the file to be written, and its form; a file is replaced with ``force`` alone.

    Raises RoutectlError where options do not go together.
    """

    src: str = argument(metavar="SRC", help="A file, a folder or a glob; - is stdin.")
    save: Path | None = option(
        None,
        metavar="DST",
        help="The file or folder to write: NAME.parquet is native; - is stdout, for native or "
        "JSON lines.",
    )
    to: str | None = option(
        None,
        metavar="TARGET",
        choices=TARGETS,
        help="{choices}; by the name of DST when not given.",
    )
    missing: str | None = option(
        None,
        metavar="HOW",
        choices=("arange", "zero", "minus-one", "drop"),
        help="Missing rows that the target cannot say: arange (0..K-1), zero, minus-one, or drop "
        "(leave the sample out).",
    )
    lossy: bool = option(False, help="Leave out what the target has no place for.")
    codec: str = option(
        "plain",
        metavar="CODEC",
        choices=CODECS,
        help="Of a native file: {choices}, the least for the first rows; docs/codecs.md.",
    )
    base: str | None = option(
        None, metavar="DUMP", help="For --codec delta: what it is coded against."
    )
    dictionary: str | None = option(
        None, metavar="DICT", help="For --codec token: of --train; else of SRC itself, kept in DST."
    )
    train: Path | None = option(
        None, metavar="DICT", help="Write no DST, but what the tokens of SRC take: a dictionary."
    )
    keep_order: bool = option(False, help="Keep slot orders where the codec would sort rows.")
    verify: bool = option(
        False, help="Read what was written, and SRC if native, and check every route's digest."
    )
    no_tokens: bool = no_tokens_option("DST: native or jsonl")
    force: bool = force_option()
    crew: Crew = field(default_factory=Crew)
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        check_bounds(self)
        if (self.save is None) == (self.train is None):
            raise RoutectlError("expected --save DST, or --train DICT in place of it")
        if self.train is not None:
            self._check_train()
            return
        native = self.is_native
        if native and (self.missing is not None or self.lossy):
            raise RoutectlError(_OF_TARGETS)
        if self.to == EPLB:
            refuse_unfit(self.dst, of_rows=self.missing is not None or self.lossy)
        coded = self.codec != "plain" or self.keep_order or self.verify
        if coded and not native:
            raise RoutectlError(_OF_NATIVE)
        if self.dictionary is not None and self.codec not in ("token", "auto"):
            raise RoutectlError(
                "--dictionary is of --codec token",
                hint=f"{self.src}::dictionary=D says what SRC was coded with",
            )
        if self.base is not None and self.codec not in ("delta", "auto"):
            raise RoutectlError(
                "--base is of --codec delta", hint=f"{self.src}::base=B says what SRC is against"
            )
        if self.no_tokens and self.codec == "delta":
            raise RoutectlError("--no-tokens: delta finds the rows of its base by token ids")
        if self.no_tokens and self.codec == "token":
            raise RoutectlError("--no-tokens: token is decoded by token ids")

    def _check_train(self) -> None:
        """Raise RoutectlError for an option that says how a dump is written."""
        for name in (*_OF_DST, "codec"):
            if getattr(self, name) not in (None, False, "plain"):
                flag = name.replace("_", "-")
                raise RoutectlError(f"--{flag} is of --save: --train writes a dictionary alone")

    @property
    def is_native(self) -> bool:
        """Whether a native file is written: ``--to native``, or NAME.parquet, or to stdout."""
        fits = self.dst.suffix == ".parquet" or self.is_piped
        if self.to == "native" and not fits:
            raise UnsupportedError(f"{self.dst}: a native file: expected NAME.parquet")
        return self.to in (None, "native") and fits

    @property
    def is_folder(self) -> bool:
        """Whether the target is a folder. Raises UnsupportedError for a target that is none."""
        from ...formats.targets.table import target_named

        named = not self.is_native and self.to not in (None, EPLB)
        return named and not target_named(self.to or "").suffix

    @property
    def is_piped(self) -> bool:
        """Whether the file goes to stdout."""
        return str(self.save) == "-"

    @property
    def dst(self) -> Path:
        """The file or folder that is written."""
        dst = self.save or self.train
        assert dst is not None
        return dst


def convert_dump(request: ConvertRequest, progress: Progress = SILENT) -> "WrittenDocument":
    """Write a dump in another form, whole or not at all; the routectl.written/1 document."""
    from ...files.writing import refuse_existing

    if request.train is not None:
        return _train(request, progress)
    if not request.is_piped:
        refuse_existing(request.dst, force=request.force, folder=request.is_folder)
    source = Source(
        src=request.src, base=request.base, reading=request.reading, no_tokens=request.no_tokens
    )
    if request.is_native:
        with one_team(request.crew, [request.reading.input(request.src).path], _NEEDED):
            saved = _to_native(source, source.open(progress), request, progress)
    elif request.to == EPLB:
        saved = _to_counts(source.open(progress)[0], request, progress)
    else:
        dump, _ = source.open(progress)
        saved = _to_target(dump, request, progress)
    if request.no_tokens:
        progress.note(WITHOUT_TOKENS)
    return saved


def _train(request: ConvertRequest, progress: Progress) -> "WrittenDocument":
    """Write the dictionary that a dump teaches."""
    from ...files.writing import refuse_existing

    refuse_existing(request.dst, force=request.force)
    dump = request.reading.open(request.src, progress=progress)
    size = write_dictionary(dump, request.dst, force=request.force, progress=progress)
    return _written(request, "dictionary", len(dump), size)


def _to_native(
    source: Source, found: "tuple[Dump, Dump | None]", request: ConvertRequest, progress: Progress
) -> "WrittenDocument":
    """Write a native file, or with ``-`` to stdout, and say what it came to."""
    from ...files.writing import replacing

    (dump, base), dst, verify = found, request.dst, request.verify
    began, folder = time.monotonic(), None if request.is_piped else dst.parent
    if base is not None and place_of(base.meta.path).resolve() == dst.resolve():
        raise RoutectlError(f"{dst}: is the base of what would be written there")
    if verify and request.is_piped:
        raise RoutectlError("--verify reads what was written: stdout cannot be read")
    asked = (request.codec, request.keep_order, request.dictionary)
    output = output_of(dump, base, asked, folder, progress)
    opened = opened_source(source, output, found)
    coding = opened()[1].coding
    if request.is_piped:
        count = write_native_on(request.crew, opened, sys.stdout.buffer, progress)
        return _written(request, "native", count, None)
    if verify:
        _check_source(dump, request, progress)
    with replacing(dst, force=request.force) as target:
        count = write_native_on(request.crew, opened, target, progress)
        if verify:
            target.flush()
            against = None if coding is None else coding.against
            _check_native(Path(target.name), against, count, progress)
    size = bytes_at(dst)
    sizes = shrunk_text(dump.meta.file_bytes, size)
    elapsed = time.monotonic() - began
    checked = ", verified" if verify else ""
    progress.note(f"wrote {dst}: {plural(count, 'sample')}{checked}; {sizes} in {elapsed:.1f} s")
    if coding is not None and coding.sorts:
        progress.note(f"codec {coding.codec} does not keep the order of slots; --keep-order does")
    return _written(request, "native", count, size)


def _check_native(
    path: Path, base: "Dump | TokenDictionary | str | None", samples: int, progress: Progress
) -> bool:
    """Check a native file against the digests in it; whether it has any."""
    from ...formats import open_dump
    from ...formats.native.container import check_native

    with progress.counting_samples("checking", samples) as on_sample:
        found = check_native(path, base=base, on_sample=on_sample, opener=open_dump)
    return found is not None


def _check_source(dump: "Dump", request: ConvertRequest, progress: Progress) -> None:
    """Check a native source against the digests in it; one from before digests is named."""
    from ..stdin import file_of

    if dump.meta.format != "native":
        return
    path, base = (
        place_of(file_of(dump.meta.path)),
        coded_against(request.reading.input(request.src)),
    )
    if not _check_native(path, base, len(dump), progress):
        progress.note(f"{dump.meta.path}: has no digest to be checked against")


def _num_layers(dump: "Dump", request: ConvertRequest) -> int | None:
    """Decoder layers: of the model given, which must be the dump's, else what the dump knows."""
    from ...formats.documents.facts import read_model

    meta = dump.meta
    if request.reading.model is None:
        return meta.num_layers
    facts = read_model(request.reading.model)
    got = (meta.layers_L, meta.num_experts, meta.top_k)
    if got != (facts.layers, facts.num_experts, facts.top_k):
        raise MismatchError(f"{meta.path}: the routes are of another model than --model")
    return facts.num_layers


def _target(request: ConvertRequest) -> "TargetSpec":
    """The target that is asked for, by name or by the suffix of DST. Raises RoutectlError."""
    from ...formats.targets.table import BY_SUFFIX, TARGETS, target_named

    dst = request.dst
    name = request.to or BY_SUFFIX.get(dst.suffix)
    if name is None:
        several = [one.name for one in TARGETS if one.suffix == dst.suffix and dst.suffix]
        if several:
            raise UnsupportedError(
                f"{dst}: {dst.suffix} is of several targets", hint=f"--to {', '.join(several)}"
            )
        known = ", ".join(("NAME.parquet", *BY_SUFFIX))
        raise UnsupportedError(f"{dst}: expected {known}", hint="--to TARGET says what to write")
    target = target_named(name)
    if request.no_tokens and name not in _BARE:
        raise UnsupportedError(
            f"--no-tokens: {name} needs token ids: expected native or {', '.join(_BARE)}"
        )
    fits = dst.suffix == target.suffix or not (target.suffix or dst.suffix == ".parquet")
    if not request.is_piped and not fits:
        raise RoutectlError(f"{dst}: {name} is written to NAME{target.suffix or ', a folder'}")
    return target


def _to_target(dump: "Dump", request: ConvertRequest, progress: Progress) -> "WrittenDocument":
    """Write what a trainer reads, or to stdout where DST is ``-``, and say what it came to."""
    from ...formats.targets.rows import Shape
    from ...formats.targets.write import write_target
    from ...ops.pack.coverage import placed_rows

    dst, piped, target = request.dst, request.is_piped, _target(request)
    layers = _num_layers(dump, request)
    shape = Shape(target, dump.meta, layers, request.missing, request.lossy)
    if target.rows in ("N", "N-1") and request.missing != "drop":
        dump = placed_rows(dump)  # rows stand by position, and nothing tells where they began
    begun = time.perf_counter()
    passes = 2 if target.kind in ("grid", "pickle") else 1  # the grid's width comes first
    with progress.watching(dump, "converting", passes) as watched:
        stream = sys.stdout.buffer if piped else None
        done = write_target(watched, shape, dst, force=request.force, stream=stream)
    sizes, size = "", None
    if not piped:
        size = bytes_at(dst)
        shrunk = shrunk_text(dump.meta.file_bytes, size)
        sizes = f"; {shrunk} in {time.perf_counter() - begun:.1f} s"
    _tell(done, "stdout" if piped else str(dst), sizes, progress)
    return _written(request, target.name, done.samples, size, done)


def _to_counts(dump: "Dump", request: ConvertRequest, progress: Progress) -> "WrittenDocument":
    """Write the counts that SGLang places experts by, and say what they are of."""
    from ..check.model import options_of_dump

    dst, layers = request.dst, _num_layers(dump, request)
    zero = options_of_dump(dump, request.reading.facts).zero_experts
    with progress.watching(dump, "counting") as watched:
        load = write_load(watched, layers, zero, dst, force=request.force)
    experts = f"{load.sum():,} ids of {load.shape[0]} layers and {load.shape[1]} experts"
    progress.note(f"wrote {dst}: counts of {plural(len(dump), 'sample')}: {experts}")
    return _written(request, EPLB, len(dump), bytes_at(dst))


def _written(
    request: ConvertRequest,
    form: str,
    samples: int,
    size: int | None,
    done: "Written | None" = None,
) -> "WrittenDocument":
    """The document of what was written; ``done`` is a trainer's form's."""
    from ...reports.dumps import written_document

    return written_document(
        request.src,
        str(request.dst),
        samples,
        format=form,
        dropped=0 if done is None else done.dropped,
        left_out=[] if done is None else list(done.left_out),
        bytes=size,
    )


def bytes_at(path: Path) -> int:
    """The bytes of a file, or of the files in a folder; 0 of a pipe."""
    return sum(f.stat().st_size for f in (path.iterdir() if path.is_dir() else [path]))


def _tell(done: "Written", where: str, sizes: str, progress: Progress) -> None:
    progress.note(f"wrote {where}: {plural(done.samples, 'sample')}{sizes}")
    if done.dropped:
        progress.note(f"dropped {plural(done.dropped, 'sample')} with missing rows")
    if done.left_out:
        progress.note(f"left out: {', '.join(done.left_out)}")
