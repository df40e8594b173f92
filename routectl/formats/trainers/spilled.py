"""Routes that slime spilled to disk, out of the dump that refers to them.

Source: slime (utils/tensor_store.py, ``DiskTensorRef``).
"""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...errors import FormatError
from ..arrays.files import open_array_file
from ..documents.fields import one_line

__all__ = ["DiskTensor"]


class DiskTensor:
    """slime's reference to a tensor that it spilled to a safetensors file beside the dump."""

    path: Any = None
    shape: Any = None

    def read(self, dump: Path, where: str) -> NDArray[Any]:
        """The tensor, out of the dump's own spill folder and from nowhere else.

        slime links spilled files to ``<dump>_r3_spill/<id>/<n>_<name>`` and pickles the path as it
        was then; only its last two parts are used. Raises FormatError.
        """
        parts = Path(self.path).parts[-2:] if isinstance(self.path, str) else ()
        if len(parts) != 2 or any(part in ("..", "/") for part in parts):
            raise FormatError(f"{where}: a spilled tensor without a path")
        file = dump.parent / f"{dump.stem}_r3_spill" / parts[0] / parts[1]
        if not file.is_file():
            raise FormatError(f"{where}: its routes were spilled to {file}, which is not there")
        held = open_array_file(file, "safetensors")
        shape = held.shapes.get("tensor")
        if shape != self.shape:
            raise FormatError(f"{where}: {file} holds {shape}, expected {one_line(self.shape)}")
        return held.read("tensor")
