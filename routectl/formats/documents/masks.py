"""Masks of foreign programs: 0 and 1, in whatever type."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError

__all__ = ["flags_in"]


def flags_in(values: NDArray[Any], where: str, name: str = "loss_mask") -> NDArray[np.bool_]:
    """A mask of numbers or booleans as booleans, of the same shape.

    Raises FormatError for any other number: a weight, a negative one, NaN.
    """
    if values.dtype.kind not in "iufb":
        raise FormatError(f"{where}: {name}: got {values.dtype}, expected 0 and 1")
    flags: NDArray[np.bool_] = values != 0
    odd = flags & (values != 1)
    if odd.any():
        place = tuple(int(i) for i in np.argwhere(odd)[0])
        at = place[0] if len(place) == 1 else place
        raise FormatError(f"{where}: {name}: got {values[place]:g} at {at}, expected 0 or 1")
    return flags
