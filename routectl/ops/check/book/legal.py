"""A sample that its reader refused, as far as it is routes.

Shape suffixes: T tokens, L MoE layers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....routes import Bools, Routes

__all__ = ["Legal"]


@dataclass(frozen=True, slots=True)
class Legal:
    """A damaged sample made legal.

    routes   rows with an id out of range are missing; None where no row could be read
    bad_TL   those rows
    trusted  whether its rows are worth a look of their own: nothing explains them all
    named    whether a finding says what is wrong
    cut      whether it is a part of what was written: its rows are not to be counted
    ids_TLK  the MoE layers' ids as they were written; None where the reader took them
    """

    routes: Routes | None
    bad_TL: Bools | None = None
    trusted: bool = True
    named: bool = True
    cut: bool = False
    ids_TLK: NDArray[np.integer[Any]] | None = None
