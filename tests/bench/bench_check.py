"""Which faults check finds and names, at which shares of the rows, and how fast it is.

    python tests/bench/bench_check.py [--speed] [--tokens N]

Each fault of tests/support/faults.py and more_faults.py is put into recordings of several engines
and models. "named" counts the dumps in which the fault's own code is in the report and no other
error is (what follows from it aside); "found" those with any error or warning, or its note.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from routectl.formats import open_dump
from routectl.ops.check.check import check
from support.faults import BASES, FAULTS, clean_pairs, opened, spoilt
from support.more_faults import MORE_FAULTS, as_read

SHARES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.0)


def outcome(fault, base, dump, reference, share):
    """(detected, named) of one fault in one dump."""
    bad = as_read(spoilt(fault, base, dump, share))
    result = check(bad, reference if fault.against else None)
    wrong = {f.code for f in result.findings if f.kind.severity != "note"}
    codes = {f.code for f in result.findings}
    errors = {f.code for f in result.findings if f.kind.severity == "error"}
    named = fault.code in codes and errors - SYMPTOMS <= {
        fault.code,
        *fault.also,
        *ALSO.get(fault.code, ()),
    }
    return bool(wrong) or fault.code in codes, named


ALSO = {"R707": ("R201",), "R002": ("R402",), "R713": ("R207",)}  # what these also are
SYMPTOMS = {"R601"}  # rows that are wrong are unlike their siblings'


def bench_faults():
    """Print a line a fault."""
    loaded = {b.name: (opened(b.dump), opened(b.reference)) for b in BASES}
    heads = "".join(f"{share:>8.1%}" if share else f"{'one':>8}" for share in SHARES)
    print(f"{'fault':<34}{'code':<6}{'dumps':>6}   named at these shares of the rows")
    print(f"{'':<46}{heads}{'found at 5 %':>15}")
    for fault in (*FAULTS, *MORE_FAULTS):
        bases = [b for b in BASES if not fault.bases or b.name in fault.bases]
        found = {s: [outcome(fault, b, *loaded[b.name], s) for b in bases] for s in SHARES}
        named = "".join(f"{sum(n for _, n in found[s]):>8}" for s in SHARES)
        seen = sum(d for d, _ in found[0.05])
        print(f"{fault.name:<34}{fault.code:<6}{len(bases):>6}{named}{seen:>15}", flush=True)
    bad = 0
    pairs = clean_pairs()
    for one, other in [*pairs, *((b, a) for a, b in pairs)]:
        bad += sum(
            f.kind.severity in ("error", "warning")
            for f in check(open_dump(one), open_dump(other)).findings
        )
    print(f"clean pairs: {2 * len(pairs)}, errors and warnings: {bad}")


def bench_speed(tokens):
    """Print the wall time and the peak memory of reading a native dump, and of checking it."""
    from bench_diff import child, write_side

    read = (
        "import sys, time; from routectl import open_dump; b = time.perf_counter(); "
        "n = sum(s.routes.num_tokens for s in open_dump(sys.argv[1])); "
    )
    checked = (
        "import sys, time; from routectl import open_dump; "
        "from routectl.ops.check.check import check; b = time.perf_counter(); "
        "n = check(open_dump(sys.argv[1])).tokens; "
    )
    tail = "print(n, round(time.perf_counter() - b, 2))"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump.parquet"
        write_side(path, tokens, 0.0)
        for _ in range(3):
            for name, code in (("reading", read), ("checking", checked)):
                argv = [sys.executable, "-c", code + tail, str(path)]
                _, peak, told = child(argv)
                print(f"{name}: tokens, s: {told.strip()}; peak {peak:.0f} MB", flush=True)


def main():
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speed", action="store_true", help="time and memory instead of faults")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    args = parser.parse_args()
    begin = time.perf_counter()
    if args.speed:
        bench_speed(args.tokens)
    else:
        bench_faults()
    print(f"{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
