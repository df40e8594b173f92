"""The compiled loop of ``margins``: one pass, no Python object inside."""

from numba import njit

__all__ = ["tally_rows"]


@njit(nogil=True, cache=True)
def tally_rows(old, new, differs, skip, bin_of, known, lower, rows, flips):  # type: ignore[no-untyped-def]
    """Add the margins of rows to the tallies of ``count_margins``."""
    infinite = len(bin_of) - 1
    for t in range(differs.shape[0]):
        for layer in range(differs.shape[1]):
            if skip.shape[0] > 0 and skip[t, layer]:
                continue
            a = infinite + 1 if old.shape[0] == 0 else int(old[t, layer])
            b = infinite + 1 if new.shape[0] == 0 else int(new[t, layer])
            least = min(a, b)
            if least > infinite:
                continue
            known[layer] += 1
            if a <= infinite:
                rows[0, layer, bin_of[a]] += 1
            if b <= infinite:
                rows[1, layer, bin_of[b]] += 1
            if differs[t, layer]:
                lower[layer, least] += 1
                if a <= infinite:
                    flips[0, layer, bin_of[a]] += 1
                if b <= infinite:
                    flips[1, layer, bin_of[b]] += 1
