"""How much a compressed file may inflate before it counts as a bomb."""

from ..errors import FormatError

__all__ = ["check_inflation"]

_ALWAYS_FINE = 64 << 20
_MAX_RATIO = 200


def check_inflation(inflated: int, compressed: int, where: str) -> None:
    """Raise FormatError when ``compressed`` bytes claim to hold too many ``inflated`` ones.

    Up to 64 MiB always pass; beyond that 200 to 1. Text and ids of real dumps compress 2 to 20
    times; deflate's limit is 1032.
    """
    if inflated > _ALWAYS_FINE and inflated > _MAX_RATIO * max(compressed, 1):
        raise FormatError(
            f"{where}: {compressed} bytes inflate to more than {_MAX_RATIO} times their size, "
            "which no dump does: refused"
        )
