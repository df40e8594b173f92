"""Whether a JSON text is within its budgets, told by its characters before it is parsed."""

from typing import TYPE_CHECKING

from ...limits import check_budget, check_inflation, limits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["check_json"]

_SMALL = 1 << 16
_MOST_MEMORY = 80  # bytes of objects that a character of JSON can become: "{}," are 240


def check_json(text: bytes, where: str, stored: int | None = None) -> None:
    """Raise FormatError where a JSON text is over a budget: document, nodes, depth.

    ``stored`` are the bytes of a compressed file that the text comes from: what it becomes in
    memory is held against them as ``decoded`` bytes are. A parsed list is 56 bytes, of 3.
    """
    budget = limits()
    check_budget("document", len(text), f"{where}: bytes of JSON")
    most = len(text) * _MOST_MEMORY
    inflates = stored is not None and most > max(budget.decoded, budget.ratio * stored)
    small = len(text) <= min(budget.nodes, _SMALL) and not inflates
    if small and text.count(b"[") + text.count(b"{") <= budget.depth:
        return
    from ...kernels.json_text import scan_json

    values, depth, memory = scan_json(_characters(text))
    check_budget("nodes", values, f"{where}: values of JSON")
    check_budget("depth", depth, f"{where}: lists and objects within each other")
    if stored is not None:
        check_inflation(memory, stored, f"{where}: parsed")


def _characters(text: bytes) -> "NDArray[np.uint8]":
    import numpy as np

    return np.frombuffer(text, np.uint8)
