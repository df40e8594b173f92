"""The tests that run a framework's own code, each at the newest version that installs here.

    python tests/trainers/environments.py FOLDER [NAME ...] [--keep] [--python PYTHON]

Of each framework the newest version is put into FOLDER/NAME, without what it needs: pins clash, and
what the tests use of it runs with what is installed here. Its tests then run with that folder
before everything else. One whose version wants a later Python than this one is unpacked for it
(``--python-version``), and what of it is plain Python runs under this one. Packages that are run by
path go to ``.trainers/NAME-VERSION``, where tests/support/newer_trainers.py finds them.

With ``--python python3.12`` all this is done by that Python, in FOLDER/python3.12: an environment
with the project and its extra ``dev``, as constraints.txt has them, made where it is not there.
There is no torch without CUDA on PyPI: it has 5 GB.

Prints a row a framework: the version, what ran, and what did not. Exit 1 where a test failed, 2
where nothing could be installed.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Framework:
    """What is installed, the tests that run its code, and which of them (pytest's -k).

    python   the version that it wants, and is unpacked for where this one is older
    by_path  it goes to .trainers, and not before everything else
    needs    small packages that its modules import; under an older Python it is run by path
    """

    packages: tuple[str, ...]
    tests: tuple[str, ...]
    chosen: str = ""
    python: str = ""
    by_path: bool = False
    needs: tuple[str, ...] = ()

    @property
    def for_another(self):
        """Whether this Python is older than what it wants."""
        return bool(self.python) and sys.version_info < tuple(map(int, self.python.split(".")))

    @property
    def put_aside(self):
        """Whether it is run by path."""
        return self.by_path or (self.for_another and bool(self.needs))


_TARGETS = "tests/formats/targets/test_trainers.py"
_BUNDLES = ("tests/formats/trainers/test_bundles.py",)
_LAYOUTS = ("tests/layouts/test_frameworks.py", "tests/layouts/test_plan.py")
FRAMEWORKS = {
    "verl": Framework(
        ("verl",),
        (*_LAYOUTS, "tests/layouts/test_verl_balance.py", _TARGETS),
        "verl or jagged or loader or padded or karmarkar",
    ),
    "ms-swift": Framework(("ms_swift", "mcore_bridge"), (*_LAYOUTS, _TARGETS), "swift or bridge"),
    "skyrl": Framework(  # the last that replays padded rows
        ("skyrl<0.4",), (*_LAYOUTS, "tests/jobs/pack/test_trainer_plans.py", _TARGETS), "skyrl"
    ),
    "skyrl-0.4": Framework(
        ("skyrl",),
        ("tests/formats/trainers/test_skyrl_packed.py",),
        python="3.12",
        needs=("cloudpathlib", "jaxtyping", "loguru", "wadler_lindig"),
    ),
    "art-v1": Framework(  # the last that takes bundles of version 1
        ("openpipe-art==0.5.18",), _BUNDLES, "what_art_reads", "3.12", by_path=True
    ),
    "art": Framework(("openpipe-art",), _BUNDLES, "newest_art", "3.12", by_path=True),
    "unsloth": Framework(
        ("unsloth_zoo",), ("tests/formats/trainers/test_unsloth.py",), by_path=True
    ),
    "paddle": Framework(  # what FastDeploy's routing store is saved with
        ("paddlepaddle",),
        ("tests/formats/trainers/test_routing_store.py",),
        "paddle",
        needs=("astor", "httpcore", "httpx", "opt_einsum"),
    ),
    "trl": Framework(("trl",), ("tests/trainers/test_transformers.py",), "loop_of_the_page"),
    "transformers": Framework(("transformers",), ("tests/trainers/test_transformers.py",)),
    "megatron-core": Framework(
        ("megatron-core",),
        (
            "tests/trainers/test_megatron.py",
            "tests/trainers/test_megatron_refused.py",
            "tests/routers/test_megatron.py",
        ),
    ),
    "megatron-core-0.19": Framework(
        ("megatron-core",),
        ("tests/trainers/test_router_trace.py", "tests/trainers/test_inference_routes.py"),
        python="3.12",
    ),
}


def install(name, framework, folder):
    """Unpack the newest version; what was unpacked, "NAME VERSION" each."""
    with tempfile.TemporaryDirectory() as wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", wheels]
        if framework.for_another:
            command += ["--only-binary=:all:", "--python-version", framework.python]
        free = {**os.environ, "PIP_CONSTRAINT": os.devnull}
        needs = () if framework.put_aside else framework.needs
        subprocess.run([*command, *framework.packages, *needs], check=True, env=free)
        found = []
        for wheel in sorted(Path(wheels).glob("*.whl")):
            package, version = wheel.name.split("-")[:2]
            found += [f"{package} {version}"] if package not in needs else []
            aside = ROOT / ".trainers" / f"{package}-{version}"
            here = aside if framework.put_aside else folder
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(here)
        return found


def run_tests(framework, folder, more):
    """pytest's exit code, and its last line."""
    first = [] if framework.put_aside else [str(folder)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*first, str(ROOT)]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider"]
    command += [*(("-k", framework.chosen) if framework.chosen else ()), *more]
    done = subprocess.run(
        [*command, *framework.tests], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    for line in lines:
        if line.startswith(("FAILED", "ERROR", "SKIPPED")):
            print(f"  {line}", file=sys.stderr)
    return done.returncode, re.sub(r" in [\d.]+s.*", "", lines[-1].strip("= ")) if lines else ""


def environment(python, folder):
    """The Python of the environment in ``folder``, made with ``python`` where it is not there."""
    made = folder / Path(python).name
    inside = made / "bin" / "python"
    if not inside.exists():
        subprocess.run([python, "-m", "venv", made], check=True)
        project = ["-c", ROOT / "constraints.txt", "-e", f"{ROOT}[dev]"]
        subprocess.run([inside, "-m", "pip", "install", "--quiet", *project], check=True)
    return inside


def main(argv):
    """Exit code of the whole."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FRAMEWORKS))
    parser.add_argument("--keep", action="store_true", help="Take what is unpacked there.")
    parser.add_argument("--python", help="Another Python, which all is done by.")
    asked, more = parser.parse_known_args(argv)
    if asked.python:
        inside = environment(asked.python, asked.folder.absolute())
        kept = ["--keep"] if asked.keep else []
        return subprocess.run(
            [inside, __file__, asked.folder / inside.parent.parent.name, *asked.names, *kept, *more]
        ).returncode
    code = 0
    for name in asked.names or FRAMEWORKS:
        framework, folder = FRAMEWORKS[name], asked.folder.absolute() / name
        try:
            kept = asked.keep and folder.exists()
            found = [name] if kept else install(name, framework, folder)
        except subprocess.CalledProcessError as error:
            print(f"| {name} | cannot be installed: {error} |", flush=True)
            code = max(code, 2)
            continue
        failed, said = run_tests(framework, folder, more)
        wanted = f", for Python {framework.python}" if framework.for_another else ""
        print(f"| {', '.join(found)}{wanted} | {said} |", flush=True)
        code = max(code, min(failed, 1))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
