"""How much a compressed file may inflate before it counts as a bomb."""

from ...errors import FormatError

__all__ = ["check_inflation"]

_ALWAYS_FINE = 64 << 20
_MAX_RATIO = 200


def check_inflation(
    inflated: int,
    compressed: int,
    where: str,
    always: int = _ALWAYS_FINE,
    ratio: int = _MAX_RATIO,
) -> None:
    """Raise FormatError when ``compressed`` bytes claim to hold too many ``inflated`` ones.

    Up to ``always`` (64 MiB) pass; beyond that ``ratio`` (200) to 1. Text and ids of real dumps
    compress 2 to 20 times; deflate's limit is 1032.
    """
    if inflated > always and inflated > ratio * max(compressed, 1):
        raise FormatError(
            f"{where}: {compressed} bytes inflate to more than {ratio} times their size, "
            "which no dump does: refused"
        )
