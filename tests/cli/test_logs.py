"""What libraries log, told in our words."""

import logging

import numba

from routectl.cli.logs import tell_compiling


def test_the_first_compiled_kernel_is_told_once(caplog):
    """Before it is compiled, in one line, and nothing of numba's own is logged."""
    told = []
    level = logging.getLogger("numba.core.byteflow").level
    tell_compiling(told.append)
    assert told == []
    for add in (1, 2):
        assert numba.njit(lambda n, add=add: n + add)(3) == 3 + add
    assert told == ["compiling kernels, once: up to half a minute"]
    assert caplog.records == []
    assert logging.getLogger("numba.core.byteflow").level == level
