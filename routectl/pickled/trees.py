"""What a pickle made, counted: values that are used again and again, and how deep they are.

A list of itself twice, forty times over, takes 300 bytes of a pickle and is 2 ** 40 values to all
who go through it.
"""

from typing import Any

from ..errors import FormatError
from ..limits import limits
from .records import Record, StoredDType

__all__ = ["check_tree", "most_values"]

_PLAIN = {int, float, complex, bool, str, bytes, bytearray, type(None), StoredDType}


def most_values(size: int) -> int:
    """How many values so many bytes may be, each counted wherever it is used.

    An element of a tensor or an array is one, too.
    """
    return (1 << 24) + 16 * size


def _parts(value: Any) -> tuple[int, list[Any]]:
    """How many parts a value has, and those that may have parts of their own."""
    parts: Any = ()
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = value
    elif isinstance(value, Record):
        parts = (value.args, value.fields)
    if set(map(type, parts)) <= _PLAIN:
        return len(parts), []
    return len(parts), [part for part in parts if type(part) not in _PLAIN]


class _Node:
    """A value on the way down: its parts that are left, its values and how deep they are."""

    __slots__ = ("depth", "key", "left", "size")

    def __init__(self, value: Any) -> None:
        self.key, self.depth = id(value), 1
        self.size, self.left = _parts(value)
        self.size += getattr(value, "weight", 0)


def check_tree(root: Any, most: int) -> None:
    """Raise FormatError for more than ``most`` values, counted wherever one is used.

    Also where values are deeper within each other than the budget allows, or within themselves.
    """
    deepest = limits().depth
    done: dict[int, tuple[int, int]] = {}  # values and depth, by id: all live as long as the root
    path = [_Node(root)]
    open_keys = {path[0].key}
    while path:
        node = path[-1]
        if node.size > most or len(path) + node.depth > deepest + 1:
            what = f"more than {most} values" if node.size > most else f"more than {deepest} deep"
            raise FormatError(f"values used again or within each other: {what}")
        if node.left:
            part = node.left.pop()
            if id(part) in open_keys:
                raise FormatError("a value that is within itself")
            if id(part) in done:
                size, depth = done[id(part)]
                node.size, node.depth = node.size + size, max(node.depth, depth + 1)
            else:
                path.append(_Node(part))
                open_keys.add(path[-1].key)
            continue
        path.pop()
        open_keys.discard(node.key)
        done[node.key] = node.size, node.depth
        if path:
            above = path[-1]
            above.size, above.depth = above.size + node.size, max(above.depth, node.depth + 1)
