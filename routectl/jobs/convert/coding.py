"""How a native file is coded: by the codec that is asked for, or by what the dump's rows say."""

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RoutectlError
from ...reports.text.wording import plural
from ..progress import Progress

if TYPE_CHECKING:
    from ...dump import Dump
    from ...formats.native.encoder import Coding

__all__ = ["coding_of", "write_dictionary"]

_LEARNING_PASSES = 3  # of a dump whose counts fit in memory


def coding_of(
    dump: "Dump",
    codec: str,
    *,
    keep_order: bool,
    base: "Dump | None",
    dictionary: str | None,
    progress: Progress,
) -> "Coding | None":
    """How to code; None for plain. Raises UnsupportedError, MismatchError, FormatError.

    ``token`` without a dictionary learns one from the dump itself, and is ``set`` where that would
    not pay; ``auto`` takes the fewest bytes for the first row group.
    """
    from ...codecs import codec_named
    from ...formats.native.dictionaries import check_dictionary, read_dictionary
    from ...formats.native.encoder import Coding

    if codec == "plain":
        return None
    if codec not in ("token", "auto"):
        needed = "base" in codec_named(codec).needs
        return Coding(codec, keep_order, base if needed else None)
    learnt: Coding | None = None
    if dictionary is not None:
        given = read_dictionary(dictionary)
        check_dictionary(given, dump.meta)
        learnt = Coding("token", keep_order, dictionary=given)
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
    progress.note(f"codec {chosen.codec} takes the fewest bytes for the first rows")
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
    from ...formats.native.learning import learn_dictionary

    if str(path) == "-":
        raise RoutectlError("--train writes a file that others name: expected a path, not -")
    with progress.watching(dump, "learning a dictionary", _LEARNING_PASSES) as watched:
        learnt = learn_dictionary(watched)
    with replacing(path, force=force) as target:
        target.write(learnt.data)
    layers, tokens = plural(len(learnt.layers), "layer"), plural(learnt.num_tokens, "token")
    progress.note(
        f"wrote {path}: a dictionary of {tokens} in {layers}, {len(learnt.data):,} bytes; "
        f"digest {learnt.digest.hex()}"
    )
    return len(learnt.data)
