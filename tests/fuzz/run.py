"""Looks for what a door does not take as it may, guided by coverage, for some seconds.

python tests/fuzz/run.py TARGET|all [--seconds 60] [--keep FOLDER] [--plain] [--list]
python tests/fuzz/run.py TARGET --case FILE [--unpack FOLDER]

The cases of ``targets.py`` are changed by the form of their files, again and again; atheris tells
which change reached other code of routectl, and goes on from there. Kernels check their bounds.
Without atheris (``pip install 'routectl[fuzz]'``), or with --plain, changes are made at random.

A finding is kept in FOLDER (default: a folder below $TMPDIR), a case and what it came to; --case
judges one again, --unpack writes its files. Findings of one cause count once. Exit status: 0 none,
1 findings, 2 trouble.
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(TESTS), str(TESTS.parent)]

MOST_KEPT = 400  # cases that random changes go on from


def _placed(data, place):
    """The files of a case in a folder that holds nothing else; the folder."""
    from fuzz.cases import unpacked, written

    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    written(unpacked(data), place)
    return place


def judged(name, data, place):
    """The finding of one case, or None."""
    from fuzz.oracle import watched
    from fuzz.targets import TARGETS

    return watched(name, TARGETS[name].judge, lambda: _placed(data, place), data)


def warmed(name, data, place):
    """Judge a sound case once, so that imports and compiled kernels cost no later one."""
    from fuzz.targets import TARGETS
    from routectl.errors import RoutectlError

    _placed(data, place)
    with contextlib.suppress(RoutectlError):
        TARGETS[name].judge(place)


class Search:
    """Cases judged one after another; findings of a new cause are kept in a folder."""

    def __init__(self, name, keep, place):
        self.name, self.keep, self.place = name, keep, place
        self.causes, self.count = set(), 0
        keep.mkdir(parents=True, exist_ok=True)

    def judge(self, data):
        """Judge a case; whether it has no finding."""
        self.count += 1
        if self.count % 50 == 1:  # a guided search ends its process
            (self.keep / f".{self.name}.count").write_text(str(self.count), "ascii")
        found = judged(self.name, data, self.place)
        if found is None:
            return True
        cause = (found.kind, found.where)
        if cause not in self.causes:
            self.causes.add(cause)
            (self.keep / f"{found.name}.case").write_bytes(data)
            (self.keep / f"{found.name}.txt").write_text(
                f"{found.where}\n\n{found.text}", "utf-8", "backslashreplace"
            )
            print(f"{found.name}: {found.where}", file=sys.stderr, flush=True)
        return False


def search_plainly(search, seconds, first_seed=0):
    """Random changes of the cases, and of their changes."""
    from fuzz.cases import changed_case, packed
    from fuzz.targets import TARGETS

    target = TARGETS[search.name]
    cases = [packed(files) for files in target.cases()]
    for data in cases:
        warmed(search.name, data, search.place)
        search.judge(data)
    rng, end = random.Random(first_seed), time.monotonic() + seconds
    while time.monotonic() < end:
        data = changed_case(rng.choice(cases), rng.getrandbits(64), target.weights)
        if search.judge(data) and rng.random() < 0.1:
            cases.append(data) if len(cases) < MOST_KEPT else cases.__setitem__(
                rng.randrange(len(cases)), data
            )


def _modules():
    """Every file of routectl, and those that numba compiles: it cannot read instrumented code."""
    root = TESTS.parent / "routectl"
    files = [path for path in sorted(root.rglob("*.py")) if path.name != "__main__.py"]
    names, compiled = [], []
    for path in files:
        inner = path.relative_to(root.parent).with_suffix("")
        name = ".".join(inner.parts).removesuffix(".__init__")
        names.append(name)
        if "numba" in path.read_text("utf-8"):
            compiled.append(name)
    return names, compiled


def search_guided(search, seconds, corpus):
    """atheris, with our changes as its mutator; it ends the process."""
    import atheris

    names, compiled = _modules()
    with (
        contextlib.redirect_stderr(io.StringIO()),
        atheris.instrument_imports(include=["routectl"], exclude=compiled),
    ):
        for name in names:
            importlib.import_module(name)
    from fuzz.cases import changed_case, packed
    from fuzz.targets import TARGETS

    target = TARGETS[search.name]
    for number, files in enumerate(target.cases()):
        data = packed(files)
        (corpus / f"seed{number:03d}").write_bytes(data)
        warmed(search.name, data, search.place)
        search.judge(data)
    said = [
        "-max_len=4194304",
        f"-max_total_time={seconds}",
        "-timeout=120",
        "-rss_limit_mb=0",
        "-detect_leaks=0",
        "-verbosity=0",
        "-print_final_stats=0",
        "-len_control=0",
        f"-artifact_prefix={search.keep}/{search.name}.",
        str(corpus),
    ]

    def mutate(data, most, seed):
        changed = changed_case(data, seed, target.weights)
        return changed if len(changed) <= most else data

    atheris.Setup(
        [sys.argv[0], *said], lambda data: search.judge(data) and None, custom_mutator=mutate
    )
    atheris.Fuzz()


def _child(args):
    """The search itself, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="fuzz_", dir=args.work) as work:
        search = Search(args.target, args.keep, Path(work) / "case")
        if args.plain:
            search_plainly(search, args.seconds, args.seed)
            return
        corpus = Path(work) / "corpus"
        corpus.mkdir()
        search_guided(search, args.seconds, corpus)


def _run(args):
    """Start the search of one target; how many findings it left."""
    args.keep.mkdir(parents=True, exist_ok=True)
    before = set(args.keep.iterdir())
    env = {
        **os.environ,
        "NUMBA_BOUNDSCHECK": "1",
        "PYTHONPATH": f"{TESTS.parent}:{os.environ.get('PYTHONPATH', '')}",
    }
    env.setdefault("OMP_NUM_THREADS", "1")
    if "NUMBA_CACHE_DIR" not in os.environ:  # kernels with checks are others
        env["NUMBA_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / "routectl_fuzz_numba")
    words = [
        sys.executable,
        __file__,
        args.target,
        "--child",
        "--keep",
        str(args.keep),
        "--seconds",
        str(args.seconds),
        "--seed",
        str(args.seed),
    ]
    done = subprocess.run(
        [*words, *(["--plain"] if args.plain else [])], env=env, cwd=TESTS.parent, check=False
    )
    count = args.keep / f".{args.target}.count"
    cases = count.read_text("ascii") if count.exists() else "0"
    count.unlink(missing_ok=True)
    new = sorted(p for p in set(args.keep.iterdir()) - before if p.suffix != ".txt")
    if done.returncode not in (0, 1) and not new:
        print(f"{args.target}: its process ended with {done.returncode}", file=sys.stderr)
        return 1
    print(f"{args.target}: {len(new)} findings in {args.seconds} s, {cases} cases", file=sys.stderr)
    return len(new)


def _one_case(args):
    from fuzz.cases import unpacked, written

    data = args.case.read_bytes()
    if args.unpack is not None:
        written(unpacked(data), args.unpack)
        return 0
    with tempfile.TemporaryDirectory() as work:
        found = judged(args.target, data, Path(work) / "x")
    print("no finding" if found is None else f"{found.name}: {found.where}\n{found.text}")
    return int(found is not None)


def main():
    """Read the arguments, search, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", help="a name of --list, or all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target; 60")
    parser.add_argument("--keep", type=Path, help="where findings are kept")
    parser.add_argument("--plain", action="store_true", help="without atheris: random changes")
    parser.add_argument("--seed", type=int, default=0, help="of --plain; 0")
    parser.add_argument("--list", action="store_true", help="print the targets")
    parser.add_argument("--case", type=Path, help="judge this finding again")
    parser.add_argument("--unpack", type=Path, help="write the files of --case there")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.keep is None:
        args.keep = Path(tempfile.gettempdir()) / "routectl_findings"
    args.keep = args.keep.resolve()
    if args.child:
        _child(args)
        return 0
    from fuzz.targets import TARGETS

    if args.list:
        print("".join(f"{name:12}{target.about}\n" for name, target in TARGETS.items()), end="")
        return 0
    if args.target not in (*TARGETS, "all"):
        parser.error(f"expected one of {', '.join(TARGETS)}, or all")
    if args.case is not None:
        return _one_case(args)
    if not args.plain and importlib.util.find_spec("atheris") is None:
        print(
            "atheris is not installed: pip install 'routectl[fuzz]' has it; --plain changes at "
            "random, without it",
            file=sys.stderr,
        )
        return 2
    names = list(TARGETS) if args.target == "all" else [args.target]
    counts = []
    for args.target in names:
        counts.append(_run(args))
    if sum(counts):
        print(f"findings are in {args.keep}", file=sys.stderr)
    return int(sum(counts) > 0)


if __name__ == "__main__":
    sys.exit(main())
