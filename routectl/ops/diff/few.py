"""How much is counted by numpy before compiled loops are loaded, which takes half a second.

Shape suffixes: T tokens, L compared layers, K top_k.
"""

from ...kernels.rows import RowCounts, diff_rows_of_few, loops_loaded
from ...routes import Bools, Ids, by_layer, by_token

__all__ = ["Few"]

_IDS = 1 << 29  # some 0.6 s, those of a row that is the same on both sides
_UNLIKE = 1 << 21  # rows that are unlike byte for byte, some 0.3 s
_TOKEN_BY_TOKEN = 4  # times as long, ids that do not lie layer by layer


class Few:
    """What numpy may still count, in all parts of a comparison that one process does.

    Once it took about as long as loading the loops would have, they are loaded: so that no
    comparison takes twice what is best.
    """

    def __init__(self) -> None:
        self._ids, self._unlike = _IDS, _UNLIKE

    def count(
        self, old_TLK: Ids, new_TLK: Ids, num_experts: int, skip_TL: Bools | None, mark: bool
    ) -> RowCounts | None:
        """What ``diff_rows`` counts; None where that is to be asked."""
        if loops_loaded() or self._ids < 0 or self._unlike < 0:
            return None
        layered = by_layer(old_TLK) and by_layer(new_TLK)
        if not layered:
            old_TLK, new_TLK = by_token(old_TLK), by_token(new_TLK)
        self._ids -= old_TLK.size if layered else _TOKEN_BY_TOKEN * old_TLK.size
        most = self._unlike
        rows = diff_rows_of_few(
            old_TLK, new_TLK, num_experts, skip_TL=skip_TL, mark=mark, most=most
        )
        self._unlike = -1 if rows is None else most - rows.unlike
        return rows
