"""What small files that ask for much cost until they are refused: ``routectl show`` of each.

python tests/bench/bench_bombs.py [NAME ...]

Peak memory and time of a process of its own, less those of one that reads a small dump.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from support.bombs import BOMBS
from support.building import CONFIG, record, some_ids, write_lines


def cost(path: Path, config: Path, log: Path) -> tuple[int, float, float, float]:
    """Exit code, seconds by the clock and of work, peak memory in MB."""
    begun = time.perf_counter()
    pid = os.fork()
    if not pid:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        words = ["-m", "routectl", "show", str(path), "--model", str(config)]
        os.execv(sys.executable, [sys.executable, *words])
    _, status, used = os.wait4(pid, 0)
    took = time.perf_counter() - begun
    work = used.ru_utime + used.ru_stime
    return os.waitstatus_to_exitcode(status), took, work, used.ru_maxrss / 1024


def made(make: Callable[[Path], Path], folder: Path) -> Path:
    """The bomb, made by a process of its own: a child begins with the peak of its parent."""
    pid = os.fork()
    if not pid:
        make(folder)
        os._exit(0)
    os.waitpid(pid, 0)
    (path,) = folder.iterdir()
    return path


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="those whose names begin so; all without")
    wanted = tuple(parser.parse_args().names)
    print("| bomb | bytes | exit | seconds | of work | MB | what is said |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, log = folder / "config.json", folder / "log"
        config.write_text(json.dumps(CONFIG), "utf-8")
        small = write_lines(folder / "small.jsonl", [record(some_ids(9))])
        cost(small, config, log)
        starts = [cost(small, config, log) for _ in range(3)]
        start = tuple(min(one[i] for one in starts) for i in range(4))
        for title, make in BOMBS.items():
            if wanted and not title.startswith(wanted):
                continue
            inside = folder / "bomb"
            inside.mkdir()
            path = made(make, inside)
            code, took, work, peak = cost(path, config, log)
            said = (
                log.read_text("utf-8", "replace").partition("\n")[0].rpartition(f"{path.name}: ")[2]
            )
            figures = f"{took - start[1]:+.2f} | {work - start[2]:+.2f} | {peak - start[3]:+.0f}"
            size = path.stat().st_blocks * 512
            print(f"| {title} | {size:,} | {code} | {figures} | {said[:70]} |", flush=True)
            for one in inside.iterdir():
                one.unlink()
            inside.rmdir()


if __name__ == "__main__":
    main()
