"""Routes of samples in one file on disk, each at its own place, so that any process puts or takes.

Shape suffixes: S samples, T rows, L MoE layers, K top_k.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...files.reading import open_regular

if TYPE_CHECKING:
    from ...dump import DumpMeta
    from ...routes import Routes

__all__ = ["Spool", "spool_for"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Spool:
    """A file, where each sample's routes begin in it, and what they are.

    starts_S and rows_S are positions of the first row and how many there are, rows -1 of a sample
    without routes. Behind the ids of a sample are its missing rows, a bit each.
    """

    path: Path
    meta: "DumpMeta"
    starts_S: NDArray[np.int64]
    rows_S: NDArray[np.int64]

    def offsets(self) -> NDArray[np.int64]:
        """Where each sample begins, and where the last one ends, int64 [S + 1]."""
        rows_S = self.rows_S.clip(0)
        sizes_S = rows_S * self._row_bytes + -(-rows_S * len(self.meta.layers_L) // 8)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes_S)])

    @property
    def _row_bytes(self) -> int:
        from ...routes import ids_dtype

        width = ids_dtype(self.meta.num_experts).itemsize
        return len(self.meta.layers_L) * self.meta.top_k * width

    def put(self, sample: int, routes: "Routes | None", offset: int) -> None:
        """Keep a sample's routes, by its place in the dump, where it begins."""
        if routes is None:
            return
        assert (routes.start, routes.num_tokens) == (self.starts_S[sample], self.rows_S[sample])
        missing_TL = routes.missing_TL
        if missing_TL is None:
            missing_TL = np.zeros(routes.ids_TLK.shape[:2], np.bool_)
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(np.ascontiguousarray(routes.ids_TLK).data)
            file.write(np.packbits(missing_TL).tobytes())

    def take(self, sample: int, offset: int) -> "Routes | None":
        """A sample's routes; None for one without."""
        from ...routes import Routes, ids_dtype

        rows, meta = int(self.rows_S[sample]), self.meta
        if rows < 0:
            return None
        layers = len(meta.layers_L)
        ids_TLK = np.empty((rows, layers, meta.top_k), ids_dtype(meta.num_experts))
        with open_regular(self.path) as file:
            file.seek(offset)
            file.readinto(ids_TLK)  # type: ignore[arg-type]
            bits = np.frombuffer(file.read(-(-rows * layers // 8)), np.uint8)
        missing_TL = np.unpackbits(bits, count=rows * layers).reshape(rows, layers) > 0
        missing = missing_TL if missing_TL.any() else None
        start = int(self.starts_S[sample])
        return Routes(ids_TLK, meta.layers_L, meta.num_experts, start, missing)


def spool_for(path: Path, meta: "DumpMeta", extents: "list[Any]") -> Spool:
    """A file with room for the routes of samples; ``extents`` are first and last row, or None."""
    known = [(0, -1) if one is None else (one[0], one[1] - one[0]) for one in extents]
    starts_S, rows_S = np.array(known, np.int64).reshape(-1, 2).T.copy()
    spool = Spool(path, meta, starts_S, rows_S)
    with path.open("xb") as file:
        file.truncate(int(spool.offsets()[-1]))
    return spool
