"""What a user installs: the wheel, built by the project's build backend and looked into."""

import tomllib
import zipfile
from email.parser import Parser

import hatchling.build
import pytest
from packaging.requirements import Requirement

import routectl
from environments import constraints, lower_bound, requirements
from support.house import HOUSE

ROOT = HOUSE.parent
MOST_BYTES = 1_500_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel as an open zip archive."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        name = hatchling.build.build_wheel(str(folder))
    with zipfile.ZipFile(folder / name) as archive:
        yield archive


def _of(wheel, name):
    """The text of a file of the wheel's dist-info."""
    return wheel.read(f"routectl-{routectl.__version__}.dist-info/{name}").decode("utf-8")


def _project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_every_file_of_the_package_is_in_it_and_no_other(wheel):
    """All Python files, py.typed and the page's assets; no tests, fixtures or caches."""
    here = {
        path.relative_to(ROOT).as_posix()
        for path in HOUSE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == here
    assert {name.rpartition(".")[2] for name in held} == {"py", "typed", "css", "html", "js"}
    assert "routectl/py.typed" in held


def test_its_dist_info_is_what_pip_wants_and_no_more(wheel):
    """Metadata, the record, the entry point and the licence."""
    names = {name.partition(".dist-info/")[2] for name in wheel.namelist() if ".dist-info/" in name}
    assert names == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert _of(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text("utf-8")


def test_it_is_small(wheel):
    """It takes less than 1.5 MB."""
    assert sum(info.compress_size for info in wheel.infolist()) < MOST_BYTES


def test_its_metadata_is_that_of_the_project(wheel):
    """Name, version, Python, licence, extras and every requirement."""
    said, project = Parser().parsestr(_of(wheel, "METADATA")), _project()
    assert (said["Name"], said["Version"]) == ("routectl", routectl.__version__)
    assert project["version"] == routectl.__version__
    assert said["Requires-Python"] == ">=3.11"
    assert said["License-Expression"] == "Apache-2.0"
    extras = project["optional-dependencies"]
    assert sorted(said.get_all("Provides-Extra")) == sorted(extras)
    required = [Requirement(text) for text in said.get_all("Requires-Dist")]
    always = {one.name for one in required if one.marker is None}
    assert always == {Requirement(text).name for text in project["dependencies"]}
    assert all(one.specifier for one in required), "each has a lower bound"


def test_its_command_is_there(wheel):
    """The one entry point is the boundary of the command line, and it can be called."""
    assert _of(wheel, "entry_points.txt").split("\n")[:2] == [
        "[console_scripts]",
        "routectl = routectl.cli.start:console_script",
    ]
    from routectl.cli.start import console_script

    assert callable(console_script)


def test_it_is_for_any_platform(wheel):
    """It holds no compiled code: one wheel for every system."""
    assert "Root-Is-Purelib: true" in _of(wheel, "WHEEL")
    assert "Tag: py3-none-any" in _of(wheel, "WHEEL")


def test_every_requirement_has_one_lower_bound():
    """So the oldest libraries are one environment; torch alone is as constraints.txt has it."""
    wanted = requirements({"project": _project()})
    lines = constraints("lowest", wanted, "9.9").splitlines()
    assert lines[0] == "torch==9.9"
    assert f"numpy=={lower_bound(wanted['numpy'])}" in lines
    assert len(lines) == len(wanted)
    assert constraints("newest", wanted, "9.9") == "torch==9.9\n"
    with pytest.raises(ValueError, match="got 0 lower bounds"):
        lower_bound(Requirement("numpy<3"))
