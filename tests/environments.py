"""The loop in an environment of the oldest libraries that pyproject allows, or of the newest.

    python tests/environments.py lowest FOLDER        python tests/environments.py newest FOLDER

Makes FOLDER/lowest or FOLDER/newest with this Python, installs the project's libraries there, those
of the extra dev too, without constraints.txt but for torch, whose newer builds are gigabytes, and
runs the tests that have no marker. Prints the versions of what pyproject names, and a verdict; exit
1 where a test failed, 2 where nothing could be installed. With --keep an environment that is there
is taken as it is. What it does not know goes to pytest.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOOP = "not (slow or models or browser or trainers or ray or gpu)"
PINNED = "torch"
BYTES = {  # made files with the size or the bytes of a Parquet file, which are of pyarrow's writer
    "lowest": ("codecs.md", "deepseek_v3.parquet", "formats.md"),
    "newest": (),
}


def requirements(pyproject):
    """Every requirement of the project that has a bound, of all extras but its own."""
    project = pyproject["project"]
    lists = (project["dependencies"], *project["optional-dependencies"].values())
    found = {(one := Requirement(text)).name: one for texts in lists for text in texts}
    return {name: one for name, one in sorted(found.items()) if name != project["name"]}


def lower_bound(requirement):
    """The version after >=. Raises ValueError where there is none."""
    bounds = [one.version for one in requirement.specifier if one.operator == ">="]
    if len(bounds) != 1:
        raise ValueError(f"{requirement}: got {len(bounds)} lower bounds, expected one")
    return bounds[0]


def constraints(which, wanted, pinned):
    """The lines of a constraints file: lower bounds, or nothing; torch as it is pinned."""
    lines = [f"{PINNED}=={pinned}"]
    if which == "lowest":
        lines += [f"{n}=={lower_bound(one)}" for n, one in wanted.items() if n != PINNED]
    return "".join(f"{line}\n" for line in lines)


def install(which, folder, wanted, extras):
    """Make the environment; returns its Python."""
    python = folder / "bin" / "python"
    pinned = re.search(rf"^{PINNED}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    bounds = folder / "constraints.txt"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    bounds.write_text(constraints(which, wanted, pinned[1]))
    command = [python, "-m", "pip", "install", "--quiet", "--upgrade-strategy", "eager", "-c"]
    subprocess.run([*command, bounds, "--upgrade", "-e", f"{ROOT}[{extras}]"], check=True)
    return python


def versions(python, wanted):
    """The installed versions of the requirements by name; None for one that is not there."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True
    )
    found = {
        one["name"].lower().replace("_", "-"): one["version"] for one in json.loads(listed.stdout)
    }
    return {name: found.get(name.lower().replace("_", "-")) for name in wanted}


def run_loop(python, folder, left_out, more):
    """The exit code of the tests without a marker, of the working tree, but for some made files."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "NUMBA_CACHE_DIR": str(folder / "numba"),
        "OMP_NUM_THREADS": "1",
    }
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", LOOP]
    made = "tests/docs/test_docs.py::test_made_file_is_true"
    command += [argument for name in left_out for argument in ("--deselect", f"{made}[{name}]")]
    return subprocess.run([*command, *more], cwd=ROOT, env=environment).returncode


def main(argv):
    """Exit code of the whole."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("which", choices=("lowest", "newest"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--extras", default="dev")
    parser.add_argument("--keep", action="store_true")
    asked, more = parser.parse_known_args(argv)
    wanted = requirements(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8")))
    folder = asked.folder.absolute() / asked.which
    try:
        keep = asked.keep and (folder / "bin" / "python").exists()
        python = (
            folder / "bin" / "python"
            if keep
            else install(asked.which, folder, wanted, asked.extras)
        )
    except subprocess.CalledProcessError as error:
        print(f"{asked.which}: cannot be installed: {error}", file=sys.stderr)
        return 2
    found = versions(python, wanted)
    print(", ".join(f"{name} {version}" for name, version in found.items() if version))
    code = run_loop(python, folder, BYTES[asked.which], more)
    print(f"{asked.which}: {'PASSED' if code == 0 else f'FAILED, pytest exited {code}'}")
    return min(code, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
