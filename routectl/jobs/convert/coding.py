"""How a native file is coded: by the codec that is asked for, or by what the dump's rows say."""

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RoutectlError
from ...reports.text.wording import plural
from ..progress import Progress
from .native import NativeOutput

if TYPE_CHECKING:
    from ...dump import Dump
    from ...formats.native.encoder import Coding

__all__ = ["output_of", "write_dictionary"]

_LEARNING_PASSES = 3  # of a dump whose counts fit in memory


def output_of(
    dump: "Dump",
    base: "Dump | None",
    asked: tuple[str, bool, str | None],
    folder: Path | None,
    progress: Progress,
) -> NativeOutput:
    """How to code a dump; ``asked`` are the codec, whether orders are kept, and a dictionary.

    ``token`` without a dictionary learns one from the dump itself, and is ``set`` where that would
    not pay; ``auto`` takes the fewest bytes for the first row group. Raises MismatchError for a
    dictionary of another model, FormatError for what is none.
    """
    codec, keep_order, _ = asked
    if codec not in ("token", "auto"):
        return NativeOutput(codec=codec, keep_order=keep_order, folder=folder)
    coding = _coding(dump, base, asked, progress)
    return NativeOutput(
        codec=coding.codec,
        keep_order=keep_order,
        folder=folder,
        dictionary=coding.dictionary,
        stores=coding.stores,
    )


def _coding(
    dump: "Dump", base: "Dump | None", asked: tuple[str, bool, str | None], progress: Progress
) -> "Coding":
    """What ``token`` or ``auto`` is."""
    from ...formats.native.dictionaries import check_dictionary, read_dictionary
    from ...formats.native.encoder import Coding

    codec, keep_order, dictionary = asked
    if dictionary is not None:
        given = read_dictionary(dictionary)
        check_dictionary(given, dump.meta)
        learnt: Coding | None = Coding("token", keep_order, dictionary=given)
    else:
        learnt = _own(dump, keep_order, progress)
    if codec == "token":
        if learnt is None:
            progress.note("a dictionary of its own would not pay: codec set")
        return learnt or Coding("set", keep_order)
    return _chosen(dump, learnt, keep_order, base, progress)


def _chosen(
    dump: "Dump",
    learnt: "Coding | None",
    keep_order: bool,
    base: "Dump | None",
    progress: Progress,
) -> "Coding":
    """The coding that ``auto`` is."""
    from ...formats.native.choosing import choose_coding
    from ...formats.native.encoder import Coding

    found = [Coding("packed", keep_order), Coding("set", keep_order)]
    found += [] if learnt is None else [learnt]
    found += [] if base is None else [Coding("delta", keep_order, base)]
    chosen = choose_coding(dump, found)
    tried = ", ".join(coding.codec for coding in found)
    progress.note(f"codec {chosen.codec} takes the fewest bytes for the first rows, of {tried}")
    return chosen


def _own(dump: "Dump", keep_order: bool, progress: Progress) -> "Coding | None":
    from ...formats.native.choosing import own_coding

    with progress.watching(dump, "learning a dictionary", _LEARNING_PASSES) as watched:
        coding = own_coding(watched, keep_order)
    if coding is not None and coding.dictionary is not None:
        tokens, size = coding.dictionary.num_tokens, len(coding.dictionary.data)
        progress.note(f"a dictionary of {plural(tokens, 'token')} is in the file: {size:,} bytes")
    return coding


def write_dictionary(dump: "Dump", path: Path, *, force: bool, progress: Progress) -> int:
    """Learn a dictionary from a dump and write it, whole or not at all; returns its bytes."""
    from ...files.writing import replacing
    from ...formats.native.learning import learn_tokens

    if str(path) == "-":
        raise RoutectlError("--train writes a file that others name: expected a path, not -")
    with progress.watching(dump, "learning a dictionary", _LEARNING_PASSES) as watched:
        learnt = learn_tokens(watched)
    with replacing(path, force=force) as target:
        target.write(learnt.data)
    layers, tokens = plural(len(learnt.layers), "layer"), plural(learnt.num_tokens, "token")
    progress.note(
        f"wrote {path}: a dictionary of {tokens} in {layers}, {len(learnt.data):,} bytes; "
        f"digest {learnt.digest.hex()}"
    )
    return len(learnt.data)
