"""The cluster that --ray names: one line each where there is none that can be used."""

import socket
import sys

import pytest

from routectl.errors import RoutectlError, UnsupportedError
from routectl.jobs.cluster.connection import connect_cluster
from routectl.jobs.cluster.tasks import packed, remote_function
from support.recordings import FIXTURES
from support.shell import complaint

DUMP = FIXTURES / "golden" / "deepseek_v3.parquet"


def test_without_ray(capsys, monkeypatch, tmp_path):
    """Where Ray is not installed, a line says what to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    said = complaint(capsys, "convert", DUMP, "--save", tmp_path / "d.parquet", "--ray", "auto")
    assert said == (
        "routectl: --ray needs ray, which is not installed\n"
        "hint: pip install 'routectl[ray]'; in a clone: pip install -c constraints.txt '.[ray]'\n"
    )
    with pytest.raises(UnsupportedError):
        connect_cluster("local")


def test_a_function_is_sent_once():
    """All calls of a function are of one of Ray's, which sends it to the workers once."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'routectl[ray]'")
    assert remote_function(packed) is remote_function(packed)


def test_processes_of_this_machine_on_a_cluster(capsys, tmp_path):
    """--jobs beside a cluster that has processors of its own is refused."""
    words = ("convert", DUMP, "--save", tmp_path / "d.parquet", "--jobs", 2, "--ray", "auto")
    assert "--jobs is of this machine: --ray auto has its own" in complaint(capsys, *words)


@pytest.fixture
def alone(monkeypatch):
    """Ray, as if nothing were connected to."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'routectl[ray]'")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return ray


@pytest.mark.ray
def test_nothing_at_an_address(alone):
    """A port that nobody listens at is told at once, not after Ray's two minutes."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        for named in (address, f"ray://{address}"):
            with pytest.raises(RoutectlError) as caught:
                connect_cluster(named)
            assert str(caught.value) == (
                f"--ray {named}: no cluster can be used there: Connection refused"
            )


@pytest.mark.ray
def test_no_address(alone):
    """What is no address is named."""
    with pytest.raises(RoutectlError, match="--ray nonsense: no cluster can be used there: "):
        connect_cluster("nonsense")


@pytest.mark.ray
def test_an_address_of_the_environment(alone, monkeypatch):
    """--ray auto goes where RAY_ADDRESS says."""
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    with pytest.raises(RoutectlError, match="--ray auto: no cluster can be used there: "):
        connect_cluster("auto")


@pytest.mark.ray
def test_a_cluster_that_is_connected_to(nodes):
    """Its own address, auto and local are it; another address is refused; signals are ours."""
    port = nodes.address.rpartition(":")[2]
    for named in (nodes.address, f"127.0.0.1:{port}", "auto", "local"):
        assert connect_cluster(named).processors == 4
    with pytest.raises(RoutectlError, match=f"connected to the cluster at {nodes.address}"):
        connect_cluster(f"10.0.0.1:{port}")
    assert nodes.signals_are_kept
