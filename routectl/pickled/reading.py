"""Pickles read without running or importing what they name.

First every opcode is looked at: known ones alone, whose lengths lie within the data; then each
name is found in a literal list (names.py) or refused. So nothing runs, and nothing that the
data only claims is allocated. What is made of the same bytes again and again, and values within
values without end, are counted (trees.py): no file makes much more than it holds.
"""

import io
import mmap
import pickle
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from ..errors import FormatError, UnsupportedError
from ..files.reading import open_mappable
from ..limits import limits
from .names import CHECKPOINTS, Names
from .records import PickledCall, Storage, StoredDType
from .trees import check_tree, most_values

__all__ = ["load_pickle", "load_pickle_file"]

_FAILURES = (
    *(pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, KeyError),
    *(IndexError, OverflowError, RecursionError, MemoryError, AssertionError),
)

# Opcodes of protocols 2 to 5 that these writers use: bytes of argument, or of a length before it.
_ARGUMENT = {
    **dict.fromkeys(b".0(1NR)}]abesltQu\x85\x86\x87\x88\x89\x81\x94\x93\x8f\x90\x91", 0),
    **dict.fromkeys(b"Khq\x80", 1),
    **dict.fromkeys(b"M", 2),
    **dict.fromkeys(b"Jjr", 4),
    **dict.fromkeys(b"G\x95", 8),
}
_LENGTH = {
    **dict.fromkeys(b"U\x8c\x8aC", 1),
    **dict.fromkeys(b"TXB", 4),
    **dict.fromkeys(b"\x8d\x8e\x96", 8),
}
_PUTS, _GETS = frozenset(b"qr\x94"), frozenset(b"hj")
_TUPLES = {0x29: 0, 0x85: 1, 0x86: 2, 0x87: 3}
_MADE = frozenset((*_TUPLES, *b"tR\x81\x91"))  # tuples, and what may be one
_ONE = (1, 0)  # a value that is no tuple, and how deep
_NOTHING_NEW = frozenset(b"(01abehjqrsu\x80\x90\x94")  # no pickler memoizes what these leave
_NO_WORK = 24  # so few tuples that are used again nest 2 ** 24 values at most
_SHALLOW = 10_000  # so many tuples, each within the next, are hashed within the stack of C
_LONE = re.compile(rb"K.|M..|[N\x88\x89]|J....|G.{8}", re.DOTALL)
_NUMBERS = re.compile(rb"(?>%s){1,256}+" % _LONE.pattern, re.DOTALL)
_NUMBER = frozenset(b"KMNJG\x88\x89")


def _walk(data: bytes | mmap.mmap) -> Iterator[tuple[int, int, int]]:
    """Every opcode, where its argument begins and ends: known ones alone, all inside the data.

    A run of numbers is told as its first.
    """
    at, end = 0, len(data)
    while at < end:
        opcode = data[at]
        at += 1
        size = _ARGUMENT.get(opcode)
        if size is None:
            width = _LENGTH.get(opcode)
            if width is not None:
                size = width + int.from_bytes(data[at : at + width], "little")
            elif opcode == 0x63:  # GLOBAL: two lines
                size = _line(data, _line(data, at)) - at
            else:
                raise FormatError(f"opcode {opcode:#04x} at byte {at - 1}")
        elif opcode in _NUMBER:
            run = _NUMBERS.match(data, at - 1)
            size = run.end() - at if run else size
        yield opcode, at, at + size
        if opcode == 0x2E:
            return
        at += size
    raise FormatError("no end")


def _check(data: bytes | mmap.mmap) -> None:
    """Walk it all: memo slots in the order of use, frames inside the data, keys soon hashed."""
    puts, reused, nested, marks, before = 0, 0, 0, 0, 0
    made, kinds = set(), set()  # memo slots of what may be a tuple; slots named and not
    for opcode, at, _ in _walk(data):
        if opcode in _PUTS:
            slot = _slot(data, opcode, at, puts)
            kinds.add(opcode == 0x94)
            if slot > puts + 256 or before in _NOTHING_NEW or len(kinds) > 1:
                raise FormatError(f"memo slot out of order at byte {at - 1}")
            puts += 1
            if before in _MADE:
                made.add(slot)
        elif opcode in _GETS:
            reused += _slot(data, opcode, at, 0) in made
        elif opcode == 0x28:
            marks += 1
            if marks > limits().depth:
                raise FormatError(f"values within each other more than {limits().depth} deep")
        elif opcode in b"teu1l\x90\x91":
            marks -= 1
        elif opcode == 0x95:
            if int.from_bytes(data[at : at + 8], "little") > len(data) - at:
                raise FormatError(f"frame beyond the data at byte {at - 1}")
            continue  # between a large value and its memo slot
        nested += opcode in b"t\x85\x86\x87"
        before = opcode
    if reused > _NO_WORK or nested > _SHALLOW:
        _check_work(data, most_values(len(data)))


def _slot(data: bytes | mmap.mmap, opcode: int, at: int, puts: int) -> int:
    """The memo slot that an opcode names, or the next one."""
    if opcode == 0x94:
        return puts
    return int.from_bytes(data[at : at + (4 if opcode in b"jr" else 1)], "little")


def _check_work(data: bytes | mmap.mmap, most: int) -> None:
    """Raise FormatError where more than ``most`` values are hashed as keys or given to calls.

    Also where tuples are too deep to be hashed. A tuple in itself again and again is 2 ** n. The
    stack is followed with the number of values in each tuple, and how deep they are, in place of
    the values.
    """
    stack: list[tuple[int, int]] = []
    marks: list[int] = []
    memo: dict[int, tuple[int, int]] = {}
    work = 0
    for opcode, at, end in _walk(data):
        if opcode in _GETS:
            stack.append(memo[_slot(data, opcode, at, 0)])
        elif opcode in _PUTS:
            memo[_slot(data, opcode, at, len(memo))] = stack[-1]
        elif opcode == 0x28:
            marks.append(len(stack))
        elif opcode in _TUPLES or opcode in b"tl1eu\x90\x91":
            place = len(stack) - _TUPLES[opcode] if opcode in _TUPLES else marks.pop()
            held = stack[place:]
            del stack[place:]
            if opcode in b"u\x90\x91":
                work += sum(size for size, _ in held)
            if opcode not in b"1eu\x90":
                stack.append(_ONE if opcode == 0x6C else _holding(held))
        elif opcode == 0x30 and marks and marks[-1] == len(stack):
            marks.pop()
        elif opcode in b"0ab":
            stack.pop()
        elif opcode == 0x73:
            work += stack[-2][0]
            del stack[-2:]
        elif opcode in b"R\x81\x93":
            args = stack[-1]
            del stack[-2:]
            work += args[0]
            stack.append(_ONE if opcode == 0x93 else args)
        elif opcode in _NUMBER:
            stack += [_ONE] * len(_LONE.findall(data, at - 1, end))
        elif opcode not in b"\x80\x95Q.":
            stack.append(_ONE)
        if work > most:
            raise FormatError("tuples that take longer than the data to hash or to call with")


def _holding(held: list[tuple[int, int]]) -> tuple[int, int]:
    """The values and the depth of a tuple of these."""
    depth = 1 + max((depth for _, depth in held), default=0)
    if depth > limits().depth:
        raise FormatError(f"tuples within each other more than {limits().depth} deep")
    return min(1 + sum(size for size, _ in held), 1 << 40), depth


def _line(data: bytes | mmap.mmap, at: int) -> int:
    """The first byte of the next line."""
    found = data.find(b"\n", at)
    if found < 0:
        raise FormatError("no end")
    return found + 1


class _Unpickler(pickle.Unpickler):
    """Finds the names of a list alone; ``room`` is how many bytes calls may copy."""

    def __init__(self, stream: IO[bytes], names: Names, room: int) -> None:
        super().__init__(stream)
        self.names, self.room = names, room

    def find_class(self, module: str, name: str) -> Any:
        found = self.names.get((module, name))
        if isinstance(found, PickledCall) and found.copies:
            return PickledCall(partial(self._counted, found))
        if found is not None:
            return found
        known = self.names.get((module.partition(".")[0], "*"))
        if known is not None:
            raise UnsupportedError(f"names {module[:80]}.{name[:80]}: {known}")
        raise FormatError(f"names {module[:80]}.{name[:80]}, which is not on the list")

    def _counted(self, call: PickledCall, *args: Any) -> Any:
        """What a call gives that copies bytes or text; all together they copy no more than room."""
        self.room -= sum(len(part) for part in args if isinstance(part, str | bytes))
        if self.room < 0:
            raise FormatError("the same bytes again and again, of more than it holds")
        return call(*args)

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage":
            _, dtype, key, _, _ = pid
            if isinstance(dtype, StoredDType) and isinstance(key, str):
                return Storage(key, str(dtype))
        raise FormatError("a persistent object that is no storage of a known dtype")


def _load(data: bytes | mmap.mmap, stream: IO[bytes], where: str, names: Names, size: int) -> Any:
    try:
        _check(data)
        value = _Unpickler(stream, names, 2 * len(data) + (1 << 20)).load()
        check_tree(value, most_values(size))
        return value
    except (FormatError, UnsupportedError) as error:
        raise type(error)(f"{where}: refused pickle: {error}") from None
    except _FAILURES as error:
        kind = type(error).__name__
        raise FormatError(f"{where}: damaged pickle: {kind}: {str(error)[:120]}") from None


def load_pickle(
    data: bytes, where: str, names: Names = CHECKPOINTS, size: int | None = None
) -> Any:
    """What a pickle holds, its objects as the stand-ins of ``names``.

    ``size`` is that of the file with all it holds, where the tensors are beside the pickle.

    Raises FormatError, opened by ``where``, for a damaged pickle and for one that names anything
    but what is listed; UnsupportedError where the list says why that is not read.
    """
    return _load(data, io.BytesIO(data), where, names, len(data) if size is None else size)


def load_pickle_file(path: Path, names: Names) -> Any:
    """As load_pickle, of a file, whose bytes are in memory once. Raises OSError, too."""
    if path.stat().st_size == 0:
        raise FormatError(f"{path}: damaged pickle: empty")
    with open_mappable(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        return _load(pages, file, str(path), names, len(pages))
