"""A sample that its reader refuses: what is wrong with it, and as much of it as can be read.

Shape suffixes: T rows, W layers as written, K top_k.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .dump import Sample
from .errors import FormatError

__all__ = ["DamagedSampleError", "Fault", "FaultKind"]

FaultKind = Literal["axes", "layers", "slots", "bytes", "rows", "dense", "ids"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What a reader refuses a sample for.

    kind: axes in another order, columns of more layers than the model's, slots of
    more experts than K, bytes that make up no whole rows, more or fewer rows than the tokens have,
    routes in the column of a dense layer, ids that are none. text says what was got and what was
    expected, detail the same in few words.
    """

    kind: FaultKind
    text: str
    detail: str = ""


class DamagedSampleError(FormatError):
    """A sample that breaks a rule, beside what was read of it.

    faults   at least one, the gravest first
    sample   all but the routes
    ids_TWK  integers of any type, unchecked, of all decoder layers or of the MoE layers alone:
             the faults of axes, layers, slots and bytes are mended in it, rows beyond the tokens
             are kept
    start    position of row 0
    """

    def __init__(
        self,
        where: str,
        faults: Sequence[Fault],
        sample: Sample,
        ids_TWK: NDArray[np.integer[Any]],
        start: int,
        hint: str | None = None,
    ) -> None:
        super().__init__(f"{where}: {'; '.join(fault.text for fault in faults)}", hint=hint)
        self.faults, self.sample = tuple(faults), sample
        self.ids_TWK, self.start = ids_TWK, start
