"""Words that several findings of a comparison share."""

__all__ = ["margin_words"]


def margin_words(known: int, clear: int, eps: float) -> str:
    """How large the margins of mismatched rows are, in words; nothing where none is known."""
    if not known:
        return ""
    size = "large" if clear > known / 2 else "small"
    return f", at {size} margins: {100 * clear / known:.1f} % of these rows above {eps:g}"
