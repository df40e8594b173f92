"""The contract of a codec: the rows of one MoE layer in, bytes out, and back.

Shape suffixes: R rows that are coded, S samples, K top_k, E num_experts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..routes import Ids, ids_dtype

if TYPE_CHECKING:
    from .dictionary import LayerDictionary

__all__ = ["About", "Block", "Codec", "Coded", "check_cells", "check_ids"]

Tokens = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class About:
    """What a decoder knows before it reads a byte of the codec's.

    num_experts  E; ids are uint8 where E <= 256, else uint16.
    top_k        K.
    lens_S       rows of each sample; they add up to R.
    token_ids_R  int32, the input token of each row; None where the file has none.
    base_RK      the ids of the same rows in the base dump, of the ids' dtype; None without a base.
    dictionary   what ``token`` codes this layer with; None without one.

    Raises ValueError when the parts do not fit together.
    """

    num_experts: int
    top_k: int
    lens_S: tuple[int, ...]
    token_ids_R: Tokens | None = None
    base_RK: Ids | None = None
    dictionary: "LayerDictionary | None" = None

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts or any(n < 0 for n in self.lens_S):
            raise ValueError(f"no block has K {self.top_k}, E {self.num_experts}, {self.lens_S}")
        tokens, base = self.token_ids_R, self.base_RK
        if tokens is not None and (tokens.shape != (self.rows,) or tokens.dtype != np.int32):
            raise ValueError(f"token_ids_R must be int32 [{self.rows}], got {tokens.shape}")
        if base is not None and (base.shape != self.shape or base.dtype != self.dtype):
            raise ValueError(f"base_RK must be {self.dtype} {self.shape}, got {base.shape}")

    @property
    def rows(self) -> int:
        """R."""
        return sum(self.lens_S)

    @property
    def shape(self) -> tuple[int, int]:
        """(R, K)."""
        return self.rows, self.top_k

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The dtype of the ids."""
        return ids_dtype(self.num_experts)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The rows of one MoE layer of the samples of one row group, end to end.

    ids_RK is uint8 or uint16, C order, every id below num_experts. Missing rows and rows that an
    earlier sample holds already are left out: the container keeps track of both. The other fields
    are those of About. Raises ValueError when the parts do not fit together.
    """

    ids_RK: Ids
    num_experts: int
    lens_S: tuple[int, ...]
    token_ids_R: Tokens | None = None
    base_RK: Ids | None = None
    dictionary: "LayerDictionary | None" = None

    def __post_init__(self) -> None:
        ids, about = self.ids_RK, self.about
        if ids.shape != about.shape or ids.dtype != about.dtype or not ids.flags.c_contiguous:
            raise ValueError(f"ids_RK must be {about.dtype} {about.shape} in C order")

    @property
    def about(self) -> About:
        """All but the ids: what the decoder is given."""
        top_k = int(self.ids_RK.shape[1])
        more = (self.token_ids_R, self.base_RK, self.dictionary)
        return About(self.num_experts, top_k, self.lens_S, *more)


@dataclass(frozen=True, slots=True)
class Coded:
    """A block as bytes: what its samples share, stored once, and one cell a sample."""

    shared: bytes
    cells: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Codec:
    """A codec: two pure functions, and what the container must know of them.

    name, version  its id, ``name/version``, is in the bytes; a decoder refuses any other.
    encode         Block -> Coded; cells in the order of lens_S, empty ones where it is 0.
    decode         (Coded, About) -> ids_RK. Raises ValueError or FormatError for damaged bytes,
                   without memory beyond a few times R x K ids.
    keeps_order    whether slots come back as they were; else rows come back ascending. Either
                   way encode takes rows in any order.
    solid          whether a sample needs the cells before it, of the same block; else decode
                   takes any one cell alone, with an About of its rows.
    needs          what encode relies on, of ``distinct`` (no id twice in a row), ``tokens``
                   (token_ids_R is there), ``base`` (base_RK is there), ``dictionary`` (one is).
                   The container checks.
    fallback       the codec to take for a block without it.
    group_bytes    ids of all layers in a row group, at two bytes or one each.
    """

    name: str
    version: int
    encode: Callable[[Block], Coded]
    decode: Callable[[Coded, About], Ids]
    keeps_order: bool = True
    solid: bool = False
    needs: tuple[str, ...] = ()
    fallback: str = "packed"
    group_bytes: int = 4 << 20

    @property
    def id(self) -> str:
        """``name/version``, as it is in the bytes."""
        return f"{self.name}/{self.version}"


def check_cells(coded: Coded, about: About) -> None:
    """Raise ValueError unless there is one cell a sample."""
    if len(coded.cells) != len(about.lens_S):
        raise ValueError(f"got {len(coded.cells)} cells, expected {len(about.lens_S)}")


def check_ids(ids_RK: Ids, about: About) -> None:
    """Raise ValueError unless every id is below num_experts."""
    if ids_RK.size and int(ids_RK.max()) >= about.num_experts:
        raise ValueError(f"id {int(ids_RK.max())} is not below num_experts {about.num_experts}")
