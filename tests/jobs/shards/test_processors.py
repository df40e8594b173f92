"""How many processors a process may use."""

from pathlib import Path

import pytest

from routectl.jobs.shards.processors import processors, quota_of


def _about(root: Path, cgroup: str, mount: str) -> Path:
    (root / "cgroup").write_text(cgroup)
    (root / "mountinfo").write_text(mount)
    return root


def _v2(root: Path, path: str = "/", inside: str = "/") -> Path:
    (root / "v2").mkdir(exist_ok=True)
    mount = f"30 23 0:26 {inside} {root}/v2 rw,nosuid - cgroup2 cgroup2 rw\n"
    return _about(root, f"0::{path}\n", mount)


def test_a_quota_of_version_2_is_heeded(tmp_path: Path) -> None:
    """cpu.max "50000 100000" is half a processor."""
    about = _v2(tmp_path)
    (tmp_path / "v2/cpu.max").write_text("50000 100000\n")
    assert (quota_of(about), processors(about)) == (0.5, 1)


def test_the_least_quota_above_counts(tmp_path: Path) -> None:
    """A slice that has less than the group in it is what is left."""
    about = _v2(tmp_path, "/a/b")
    (tmp_path / "v2/a/b").mkdir(parents=True)
    (tmp_path / "v2/a/b/cpu.max").write_text("max 100000\n")
    (tmp_path / "v2/a/cpu.max").write_text("150000 100000\n")
    assert quota_of(about) == 1.5


def test_a_container_sees_its_group_at_the_mount(tmp_path: Path) -> None:
    """A mount whose root is the process's own group has its quota."""
    about = _v2(tmp_path, "/docker/x", "/docker/x")
    (tmp_path / "v2/cpu.max").write_text("400000 100000\n")
    assert quota_of(about) == 4.0


@pytest.mark.parametrize(("quota", "wanted"), [("-1", None), ("250000", 2.5)])
def test_a_quota_of_version_1_is_heeded(tmp_path: Path, quota: str, wanted: float | None) -> None:
    """cpu.cfs_quota_us over cpu.cfs_period_us; -1 is no limit."""
    (tmp_path / "cpu/job").mkdir(parents=True)
    (tmp_path / "cpu/job/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/job/cpu.cfs_period_us").write_text("100000")
    mount = f"32 31 0:29 / {tmp_path}/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    assert quota_of(_about(tmp_path, "4:cpu,cpuacct:/job\n0::/\n", mount)) == wanted


def test_no_linux_has_no_quota(tmp_path: Path) -> None:
    """Where nothing tells of cgroups, affinity alone counts."""
    assert quota_of(tmp_path / "absent") is None
    assert processors(tmp_path / "absent") >= 1


def test_a_damaged_quota_is_none(tmp_path: Path) -> None:
    """Text that is no number limits nothing."""
    about = _v2(tmp_path)
    (tmp_path / "v2/cpu.max").write_text("many few\n")
    assert quota_of(about) is None
