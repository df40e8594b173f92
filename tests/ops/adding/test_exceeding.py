"""When a share that was counted is over a limit, and when too few rows were counted to say so."""

import numpy as np
import pytest

from routectl.ops.adding.exceeding import exceeds

pytestmark = pytest.mark.filterwarnings("error")


class TestExceeds:
    """``exceeds`` of wrong rows, rows and a limit."""

    @pytest.mark.parametrize("limit", [0.03, 0.12, 0.5])
    @pytest.mark.parametrize("rows", [1, 5, 20, 200])
    def test_a_true_share_at_the_limit_seldom_exceeds_it(self, limit, rows):
        """Of 20,000 draws at the limit itself at most 2 % are said to be over it."""
        drawn = np.random.default_rng(rows).binomial(rows, limit, 20_000)
        said = {int(n): exceeds(int(n), rows, limit) for n in np.unique(drawn)}
        assert sum(said[int(n)] for n in drawn) <= 0.02 * len(drawn)

    def test_many_rows_say_it(self):
        """A share that is well over is over from some rows on, all of them wrong among these."""
        assert not exceeds(3, 20, 0.12)
        assert exceeds(300, 2_000, 0.12)
        assert exceeds(6, 6, 0.5)
        assert not exceeds(5, 5, 0.5)
        assert not exceeds(0, 0, 0.5)
        assert not exceeds(12, 100, 0.12)
