"""How samples are shared among processes."""

from hypothesis import given
from hypothesis import strategies as st

from routectl.jobs.recompute.share import cut_shares


@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(1, 9))
def test_shares_are_runs_of_about_equally_many_tokens(tokens, number):
    """Every sample once and in order; no share is more than half a sample over its due each end."""
    indices = [3 * n + 1 for n in range(len(tokens))]
    shares = cut_shares(indices, tokens, number)
    assert len(shares) == number
    assert [index for share in shares for index in share] == indices
    own = dict(zip(indices, tokens, strict=True))
    for share in shares:
        over = sum(own[index] for index in share) - sum(tokens) / number
        assert not share or over <= (own[share[0]] + own[share[-1]]) / 2
