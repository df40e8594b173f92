"""Files of torch.save, loaded: names checked against a list, then ``weights_only``, mapped.

torch's own loader runs no code either, but knows more names than these files use, some of which
take memory at a pickle's word. So all names are read first, and one that is not here is refused.
"""

import importlib.util
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ...errors import FormatError, UnsupportedError
from ...pickled.names import BATCHES, JAGGED_NAMES, NUMPY_NAMES, TORCH_NAMES
from ..documents.fields import one_line
from ..documents.limits import check_inflation
from .spilled import DiskTensor

__all__ = ["load_torch"]

_STAND_INS: dict[str, Any] = {  # what torch is given in place of what a name is of
    **{f"{m}.{n}": thing for (m, n), thing in BATCHES.items() if f"{m}.{n}" in NUMPY_NAMES},
    "slime.utils.tensor_store.DiskTensorRef": DiskTensor,
}
_KNOWN = {  # whose classes a name is, and why they are not read
    "xtuner.": "xtuner pickles its own classes, with references into a Ray cluster in them",
    "ray.": "references into a Ray cluster, which no file holds",
}


def _names(path: Path) -> set[str]:
    """The names that the pickle of an archive would look up. Raises FormatError on a bomb."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        inflated = sum(entry.file_size for entry in entries)
        check_inflation(inflated, path.stat().st_size, str(path))
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise FormatError(f"{path}: compressed, which torch.save never does: refused")
        pickles = [e for e in entries if e.filename.partition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise FormatError(f"{path}: got {len(pickles)} data.pkl in it, expected one")
        data = archive.read(pickles[0])
    found = set()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "GLOBAL":
            found.add(str(argument).replace(" ", ".", 1))
        elif opcode.name in ("INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            raise FormatError(f"{path}: refused pickle: opcode {opcode.name}")
    return found


def _check_names(names: set[str], path: Path) -> None:
    """Raise FormatError for a name that is not on the list, UnsupportedError where it is known."""
    wrong = sorted(names - TORCH_NAMES - JAGGED_NAMES)
    for name in wrong:
        for prefix, why in _KNOWN.items():
            if name.startswith(prefix):
                raise UnsupportedError(f"{path}: refused pickle: names {one_line(name)}: {why}")
    if wrong:
        raise FormatError(
            f"{path}: no torch file of plain data: names {one_line(wrong[0])}, which is not on "
            "the list"
        )


def _import_tensordict(path: Path) -> None:
    """Import tensordict, which lets its class be loaded. Raises UnsupportedError without it."""
    if importlib.util.find_spec("tensordict") is None:
        raise UnsupportedError(
            f"{path}: holds a TensorDict, and tensordict is not installed",
            hint="pip install 'routectl[trainers]'",
        )
    import tensordict  # noqa: F401


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Let torch make the stand-ins, and nothing that others have told it is safe.

    tensordict, once imported, allows numpy's own dtype; of two for one name torch takes either.
    """
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals([(c, name) for name, c in _STAND_INS.items()]):
            yield
    finally:
        torch.serialization.add_safe_globals(before)


def load_torch(path: Path) -> Any:
    """What a torch file holds: tensors, mapped; plain data; numpy arrays as StoredArray.

    Raises FormatError on a bomb, on damage and where the pickle names anything but the names
    listed in pickle_names.py, before any of it is made; UnsupportedError where it names those of a
    project whose files are known not to be readable.
    """
    try:
        names = _names(path)
        _check_names(names, path)
        if names & JAGGED_NAMES:
            _import_tensordict(path)
        with _stand_ins() if not names & JAGGED_NAMES else nullcontext():
            doc = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FormatError:
        raise
    except (
        zipfile.BadZipFile,
        UnpicklingError,
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        OverflowError,
        RecursionError,
        MemoryError,
        AssertionError,
    ) as error:
        raise FormatError(
            f"{path}: damaged, or no torch file of plain data: {one_line(error)}"
        ) from None
    if names & JAGGED_NAMES and not (isinstance(doc, Mapping) and "tensordict" in doc):
        raise FormatError(f"{path}: jagged tensors, and no tensordict that they are of")
    return doc
