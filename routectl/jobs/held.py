"""A dump that a program holds in memory, where a request takes the path of one."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..dump import Dump

__all__ = ["HeldDump", "HeldHereError"]


class HeldHereError(Exception):
    """Work for another process has what this one alone holds: a dump that a program made."""


class HeldDump(str):
    """Text that names a dump in memory: what opens a path gives the dump itself."""

    __slots__ = ("dump",)
    dump: "Dump"

    def __new__(cls, dump: "Dump") -> "HeldDump":
        """The name says where the dump is from; no file has it, and no options are behind it."""
        held = super().__new__(cls, f"{dump.meta.path} (in memory)".replace("::", ":"))
        held.dump = dump
        return held

    def __reduce__(self) -> Any:
        raise HeldHereError
