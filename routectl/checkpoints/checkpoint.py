"""A checkpoint as a table of tensors, with no weight read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from ..visible import visible
from .infos import TensorInfo

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint"]


@dataclass(frozen=True, slots=True, repr=False)
class Checkpoint:
    """A model's weights on disk, opened from headers alone.

    format     "hf", or Megatron's "torch_dist", "torch_dcp" (fsdp_dtensor too) and "torch"
    path       the folder that holds the files (Megatron: the iteration's)
    tensors    by name
    files      every file of weights
    config     the document of config.json (hf), else None
    iteration  Megatron's, where the folder or common.pt says it
    arguments  what of Megatron's argument list is plain text, numbers and lists; else empty
    core       the oldest Megatron-Core that stores its arguments as here; None before 0.19
    unindexed  names in shards that the index does not list (hf); they are not read

    Importing and using it loads no torch; ``read`` does.
    """

    format: str
    path: Path
    tensors: Mapping[str, TensorInfo]
    files: tuple[Path, ...]
    config: Mapping[str, object] | None = None
    iteration: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    core: str | None = None
    unindexed: tuple[str, ...] = ()

    def __repr__(self) -> str:
        path = visible(self.path, 200, end=50)
        files = f"{len(self.tensors):,} tensors in {len(self.files):,} files"
        return f"<Checkpoint {path}: {self.format}, {files}>"

    @property
    def file_bytes(self) -> int:
        """The size of the files of weights together."""
        return sum(file.stat().st_size for file in self.files)

    def info(self, name: str) -> TensorInfo:
        """A tensor's entry; raises FormatError for a name that is not there."""
        if name not in self.tensors:
            raise FormatError(f"{self.path}: no tensor {name!r} among {len(self.tensors)}")
        return self.tensors[name]

    def read(self, name: str) -> "torch.Tensor":
        """One tensor on the CPU in its stored dtype, nothing else read.

        The pages of a safetensors tensor are mapped, privately: they come from disk as they are
        touched, and writing to the tensor leaves the file alone. Raises FormatError when the file
        no longer holds it, UnsupportedError for a dtype that torch cannot hold (F4, F6).
        """
        from .tensors import read_tensor

        return read_tensor(self.info(name), str(self.path))
