"""Words that several findings of a comparison share."""

__all__ = ["margin_words"]


def margin_words(known: int, clear: int, eps: float) -> str:
    """How large the margins of mismatched rows are, in words; nothing where none is known."""
    if not known:
        return ""
    if clear > known / 2:
        return f"; {100 * clear / known:.1f} % of these are clear flips, at margins beyond {eps:g}"
    near = 100 * (known - clear) / known
    return f"; {near:.1f} % of these are near-ties, at margins up to {eps:g}"
