"""What writes files, or reads those of a folder: write, convert, recompute, pack, layout, verify.

Of dumps or of paths. A file is written whole or not at all, and one that exists is refused without
``force``, as the commands do it.
"""

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, Unpack, overload

from ...dump import Dump, Sample
from ...layouts.packing import Packing
from ...ops.pack.pack import Packed, Rank
from ...ops.pack.pack import pack as pack_tensors
from ...ops.pack.padding import TensorSpec
from ...ops.pack.unpack import unpack as unpack_tensors
from ...reports.document import Document
from ...reports.dumps import WrittenDocument
from ...routes import Routes
from ..progress import SILENT
from ..reading import Reading
from ..recompute.request import Recomputed, RecomputeRequest, recompute_dump
from .answers import PackAnswer, VerifyAnswer, answer_of
from .asking import Source, path_text, request_of
from .keywords import (
    ConvertKeywords,
    LayoutKeywords,
    PackKeywords,
    RecomputeKeywords,
    ShowKeywords,
    UnpackKeywords,
    VerifyKeywords,
)

__all__ = ["convert", "layout", "pack", "recompute", "unpack", "verify", "write"]

AnyPath = str | PathLike[str]
_FIRST = Rank()


class _TensorKeywords(ShowKeywords, total=False):
    """Of ``pack`` with a Packing: tensors in memory."""

    spec: TensorSpec
    out: Any
    threads: int


def write(dump: Dump, save: AnyPath, **options: Unpack[ConvertKeywords]) -> WrittenDocument:
    """Write a dump that is in memory to a file; returns what was written, as ``convert`` does.

    NAME.parquet is a native file, other suffixes and ``to`` say what a trainer reads. Keywords are
    those of ``convert``.
    """
    return convert(dump, save, **options)


def convert(source: Source, save: AnyPath, **options: Unpack[ConvertKeywords]) -> WrittenDocument:
    """Write a dump, or that of a path, in another form; returns what was written.

    That is the routectl.written/1 document of the command: ``samples``, ``bytes``, ``dropped``, ...

    Keywords are the options of ``routectl convert``: ``to``, ``codec``, ``missing``, ``lossy``,
    ``keep_order``, ``verify``, ``no_tokens``, ``force``, ``model``. Raises UnsupportedError
    for what the form cannot hold.
    """
    from ..convert.request import ConvertRequest, convert_dump

    progress = options.pop("progress", SILENT)
    request = request_of(ConvertRequest, options, src=path_text(source), save=save)
    return convert_dump(request, progress)


def recompute(
    checkpoint: AnyPath, dump: Source, save: AnyPath, **options: Unpack[RecomputeKeywords]
) -> Recomputed | None:
    """Write what a checkpoint's routers select for a dump's tokens to NAME.parquet.

    Keywords are the options of ``routectl recompute``; a dump in memory is run by one process.
    Returns the files by mode, and with ``noise_floor`` how many rows change without a cause; None
    in a process of torchrun that does not lead.
    """
    progress = options.pop("progress", SILENT)
    places = {"checkpoint": checkpoint, "dump": path_text(dump), "save": save}
    return recompute_dump(request_of(RecomputeRequest, options, **places), progress)


@overload
def pack(
    routes: Source | Sequence[Sample | Routes | None],
    packing: Packing,
    rank: Rank = ...,
    **options: Unpack[_TensorKeywords],
) -> Packed: ...


@overload
def pack(routes: Source, *, save: AnyPath, **options: Unpack[PackKeywords]) -> Document: ...


def pack(
    routes: Any, packing: Packing | None = None, rank: Any = _FIRST, **options: Any
) -> Packed | Document:
    """A rank's replay tensors of one micro-batch in memory, or those of all ranks in a folder.

    With a ``packing``, what comes back is a ``Packed``:

    routes   a Dump, the path of one, or Samples or Routes in memory, in packed order: as many as
             packing.lens. None stands for a sample without routes. A dump is read one sample at a
             time
    packing  a layout without plan, such as ``layout`` gives; ``packing.share`` gives that of one
             micro-batch
    spec     dtype and padding, a TensorSpec; threads that copy
    out      where to write: a C-ordered integer array or CPU torch tensor [L, R, K]

    Rows without a route (padding, the last token, missing rows) hold what ``spec`` says and are
    False in the mask. Raises MismatchError when samples, layers, K or lengths do not fit together,
    ValueError for a rank that is not there.

    With ``save`` in its place, a folder is written as ``routectl pack`` does, whose options are
    the keywords, and its manifest comes back.
    """
    progress = options.pop("progress", SILENT)
    if packing is not None:
        if isinstance(routes, str | PathLike):
            routes = Reading(model=options.pop("model", None)).open(path_text(routes))
        return pack_tensors(routes, packing, rank, **options)
    from ..pack.request import PackRequest, pack_dump

    if "save" not in options:
        raise TypeError("pack: expected a packing, or save=FOLDER")
    save = options.pop("save")
    places = {"save": save, "dump": path_text(routes)}
    if rank is not _FIRST:
        places["rank"] = rank
    return PackAnswer(pack_dump(request_of(PackRequest, options, **places), progress))


def layout(dump: Source | Sequence[int], **options: Unpack[LayoutKeywords]) -> Packing:
    """Where each token of a dump's samples sits on the ranks of a trainer.

    dump  a dump, the path of one, or the lengths of samples. Keywords are the options of
          ``routectl layout``: ``framework``, ``tp``, ``cp``, ``pp``, ...
    """
    from ..pack.request import LayoutRequest, lay_out_samples

    progress = options.pop("progress", SILENT)
    if isinstance(dump, Dump | str | PathLike):
        place = {"dump": path_text(dump)}
    else:
        place = {"lens": ",".join(map(str, dump))}
    return lay_out_samples(request_of(LayoutRequest, options, **place), progress)


def verify(folder: AnyPath, against: Source, **options: Unpack[VerifyKeywords]) -> VerifyAnswer:
    """Whether every route of a dump is in a folder of replay tensors, exactly once.

    Keywords are the options of ``routectl verify``; what is wrong is in the answer, whose ``ok``
    says whether anything is.
    """
    from ..pack.request import VerifyRequest, verify_dump

    progress = options.pop("progress", SILENT)
    if isinstance(folder, Dump):
        raise TypeError("verify: got a Dump, expected the path of a folder: verify(FOLDER, DUMP)")
    places = {"folder": folder, "against": path_text(against)}
    request = request_of(VerifyRequest, options, **places)
    found, meta = verify_dump(request, progress)
    return answer_of(VerifyAnswer, found, folder=str(folder), dump=meta)


@overload
def unpack(
    parts: Iterable[tuple[Rank, Packed]],
    packing: Packing,
    layers_L: tuple[int, ...],
    num_experts: int,
    *,
    extents: Sequence[tuple[int, int] | None] | None = ...,
) -> list[Routes | None]: ...


@overload
def unpack(parts: AnyPath, *, save: AnyPath, **options: Unpack[UnpackKeywords]) -> Document: ...


def unpack(parts: Any, *layout: Any, **options: Any) -> list[Routes | None] | Document:
    """Routes out of the replay tensors of all ranks: the inverse of ``pack``.

    Of a micro-batch in memory: ``parts`` are (Rank, Packed) pairs in any order, then its packing,
    ``layers_L`` and ``num_experts``; extents gives (start, stop) of each sample's rows, None for
    one without routes; when it is None itself, rows go from 0 to the last real one. A row that no
    rank has as real is missing. Raises MismatchError on a tensor of another row count, and on a
    real row with an id outside 0..E-1.

    Of a folder that ``pack`` wrote: its path, and ``save`` for the native file that is written;
    what comes back is what ``run`` gives of the command.
    """
    if not isinstance(parts, str | PathLike):
        return unpack_tensors(parts, *layout, **options)
    from ..pack.unpack import UnpackRequest, unpack_folder

    progress = options.pop("progress", SILENT)
    save = options.pop("save", None)
    places = {"save": save, "folder": parts}
    return unpack_folder(request_of(UnpackRequest, options, **places), progress)
