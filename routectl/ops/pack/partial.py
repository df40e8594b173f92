"""What was found in some files of a folder of replay tensors."""

from dataclasses import dataclass, field

from .verify import Tally

__all__ = ["VerifyPartial"]


@dataclass(slots=True)
class VerifyPartial:
    """What was found in some files of a folder; those of all its files add up, in any order.

    Of files with something wrong their number among all ranks' files is kept, with the words.
    misfits are those whose shape is not the layout's; damaged ones cannot be read.
    """

    tally: Tally
    absent: dict[int, str] = field(default_factory=dict)
    misfits: dict[int, str] = field(default_factory=dict)
    faults: dict[int, list[str]] = field(default_factory=dict)
    changed: dict[int, str] = field(default_factory=dict)
    damaged: dict[int, str] = field(default_factory=dict)
    read: int = 0

    def __add__(self, other: "VerifyPartial") -> "VerifyPartial":
        return VerifyPartial(
            self.tally + other.tally,
            self.absent | other.absent,
            self.misfits | other.misfits,
            self.faults | other.faults,
            self.changed | other.changed,
            self.damaged | other.damaged,
            self.read + other.read,
        )
