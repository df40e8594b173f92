"""One Ray cluster for all tests of a session that need one."""

import pytest

from support.clusters import started


@pytest.fixture(scope="session")
def nodes():
    """Two nodes; skipped where Ray is not installed."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'routectl[ray]'")
    with started() as found:
        yield found


@pytest.fixture(scope="session")
def cluster(nodes):
    """Those nodes, connected to."""
    return nodes.cluster
