"""Shows that two trees of routectl behave alike: every command over every fixture, in both.

python tests/bench/compare_trees.py OLD_TREE NEW_TREE [--only WORD] [--every N] [--jobs N]
    [--keep FILE.json]

Compared are exit codes, what is printed, every byte of every file that is written, and what
``routectl.__all__`` promises; the lines are those of command_lines.txt, over the fixtures of
OLD_TREE and what compared_inputs.py makes of them. Texts are compared without times, rates and the
paths of temporary folders and of the trees; TensorBoard's events without their times; of a run of
W&B, that there is one. Free memory, which recompute tells, is the same to both.

With --keep the results of OLD_TREE are written to that file, or read from it where it has them.
Exit status: 0 alike, 1 not.
"""

import argparse
import difflib
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from command_lines import NAMES, command_lines
from compared_inputs import make_inputs

DRIVER = Path(__file__).parent / "tree_driver.py"
UNWANTED = ("COLUMNS", "LINES", "NO_COLOR", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "PYTHONPATH")
SETTINGS = {
    "LC_ALL": "C.UTF-8",
    "TERM": "xterm-256color",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "HF_HUB_OFFLINE": "1",
}
SHOWN = 12  # lines of a difference
BUG = "this is a bug in routectl"


@dataclass(frozen=True)
class Places:
    """Folders that both trees see: the fixtures, what was made of them, more data, room to work."""

    fixtures: Path
    made: Path
    data: Path | None
    work: Path


def environment(tree: Path) -> dict[str, str]:
    """The caller's, with the tree first on the path and nothing that changes output."""
    kept = {k: v for k, v in os.environ.items() if k not in UNWANTED}
    return {**kept, **SETTINGS, "PYTHONPATH": str(tree)}


def drive(tree: Path, lines: list[str], places: Places, limit_s: float) -> list[dict]:
    """The results of lines in a tree. A line that ends its process is a result, too."""
    results: list[dict] = []
    while len(results) < len(lines):
        with tempfile.TemporaryDirectory(dir=places.work) as name:
            job, said = Path(name) / "job.json", Path(name) / "results.jsonl"
            description = {
                "lines": lines[len(results) :],
                "fixtures": str(places.fixtures),
                "made": str(places.made),
                "data": str(places.data) if places.data else "",
                "work": name,
                "limit_s": limit_s,
            }
            job.write_text(json.dumps(description), "utf-8")
            command = [sys.executable, str(DRIVER), str(job), str(said)]
            with (Path(name) / "stderr").open("wb") as stderr:
                done = subprocess.run(
                    command,
                    env=environment(tree),
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    check=False,
                )
            if not said.exists():
                raise SystemExit(f"{tree}: {(Path(name) / 'stderr').read_text('utf-8', 'replace')}")
            results += [json.loads(line) for line in said.read_text("utf-8").splitlines()]
        if len(results) < len(lines):
            ended = [f"ended its process: {done.returncode}", "", ""]
            results.append({"line": lines[len(results)], "steps": [ended], "files": {}})
    return results


def results_of(tree: Path, lines: list[str], places: Places, args: argparse.Namespace) -> dict:
    """The result of each line, from ``--jobs`` processes."""
    began = time.monotonic()
    parts = [lines[i :: args.jobs] for i in range(args.jobs)]
    with ThreadPoolExecutor(args.jobs) as pool:
        found = list(pool.map(lambda part: drive(tree, part, places, args.limit), parts))
    results = {one["line"]: one for part in found for one in part}
    cpu_s = sum(one.get("cpu_s", 0) for one in results.values())
    elapsed = time.monotonic() - began
    print(f"{tree}: {len(lines)} lines, {elapsed:.0f} s, of them {cpu_s:.0f} s of the processor")
    return results


def old_results(lines: list[str], places: Places, args: argparse.Namespace) -> dict:
    """Those of the old tree: kept ones, and new ones for lines that are not among them."""
    kept = {}
    if args.keep and args.keep.exists():
        kept = json.loads(args.keep.read_text("utf-8"))
    todo = [line for line in lines if line not in kept]
    if todo:
        kept |= results_of(args.old, todo, places, args)
        if args.keep:
            args.keep.write_text(json.dumps(kept), "utf-8")
    return {line: kept[line] for line in lines}


def unlike(name: str, old: str, new: str) -> list[str]:
    """The first lines of a difference; of texts without their digests where that is enough."""
    texts = [text.partition("\n")[2] for text in (old, new)]
    if texts[0] != texts[1]:
        old, new = texts
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
    shown = [line[:200] for line in list(lines)[2:]]
    return [f"  {name}", *(f"    {line}" for line in shown[:SHOWN])]


def differences(old: dict, new: dict) -> tuple[list[str], bool]:
    """What differs, and whether that is the text of an error of refused input alone."""
    found, texts_alone = [], True
    if "names" in old:
        for name, promised in old["names"].items():  # more names may come
            said = new.get("names", {}).get(name, "gone")
            if said != promised:
                found += unlike(name, promised, said)
        return found, False
    if len(old["steps"]) != len(new["steps"]):
        return ["  another number of steps"], False
    for number, (was, now) in enumerate(zip(old["steps"], new["steps"], strict=True), 1):
        for what, a, b in zip(("exit code", "stdout", "stderr"), was, now, strict=True):
            if a != b:
                found += unlike(f"step {number}: {what}", str(a), str(b))
                texts_alone &= what == "stderr" and was[0] == 2 and BUG not in b
    for name in sorted({*old["files"], *new["files"]}):
        a, b = old["files"].get(name, "not there"), new["files"].get(name, "not there")
        if a != b:
            found += unlike(f"file {name}", a, b)
            texts_alone = False
    return found, texts_alone


def compare(old: dict, new: dict, allowed: bool) -> int:
    """Print every difference and the counts; how many differences are not allowed."""
    texts = others = 0
    for line, was in old.items():
        found, texts_alone = differences(was, new[line])
        texts += bool(found and texts_alone)
        others += bool(found and not texts_alone)
        if found:
            print(f"{'error text' if texts_alone else 'DIFFERS'}: {line}", *found, sep="\n")
    steps = [step for one in old.values() for step in one.get("steps", [])]
    codes = {code: sum(step[0] == code for step in steps) for code in (0, 1, 2)}
    files = sum(not name.endswith("/") for one in old.values() for name in one.get("files", []))
    more = set(new.get(NAMES, {}).get("names", {})) - set(old.get(NAMES, {}).get("names", {}))
    print(
        f"{len(old)} lines with {len(steps)} commands (exit 0: {codes[0]}, 1: {codes[1]}, "
        f"2: {codes[2]}, other: {len(steps) - sum(codes.values())}) and {files} files: "
        f"{others} differ; in {texts} more the text of an error differs"
    )
    if more:
        print(f"names that are new in routectl.__all__: {', '.join(sorted(more))}")
    return others + (0 if allowed else texts)


def chosen(line: str, args: argparse.Namespace) -> bool:
    """Whether a line is asked for; of every N-th it is the same one in a longer list."""
    return (args.only is None or args.only in line) and zlib.crc32(line.encode()) % args.every == 0


def main() -> int:
    """Read the arguments, run both trees, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=lambda p: Path(p).resolve(), help="the tree as it was")
    parser.add_argument("new", type=lambda p: Path(p).resolve(), help="the tree as it is")
    parser.add_argument("--only", metavar="WORD", help="only lines with this text in them")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th line")
    parser.add_argument("--jobs", type=int, default=1, help="processes of each tree; 1")
    parser.add_argument("--keep", type=Path, help="where results of the old tree are kept")
    parser.add_argument("--data", type=lambda p: Path(p).resolve(), help="more dumps to read")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for a line; 120")
    parser.add_argument(
        "--error-texts", action="store_true", help="they may differ where exit is 2"
    )
    parser.add_argument("--list", action="store_true", help="print the lines, run nothing")
    args = parser.parse_args()
    lines = command_lines(args.old / "fixtures", args.data)
    lines = [line for line in lines if chosen(line, args)]
    if args.list:
        print(*lines, sep="\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="compare_") as name:
        made, work = Path(name) / "made", Path(name) / "work"
        made.mkdir()
        work.mkdir()
        make_inputs(made, args.old / "fixtures")
        places = Places(args.old / "fixtures", made, args.data, work)
        old = old_results(lines, places, args)
        new = results_of(args.new, lines, places, args)
    return int(compare(old, new, args.error_texts) > 0)


if __name__ == "__main__":
    sys.exit(main())
