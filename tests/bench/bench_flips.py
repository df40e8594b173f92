"""Which flipped bits are seen: one bit of a file of each container at a time, read whole again.

python tests/bench/bench_flips.py [--flips 240] [--seed 0]

refused: one line, exit 2. same: the bit says nothing (padding, a page header's statistics).
routes, fields: other routes, or other tokens, log-probs, ids or facts are read, and nothing is
said: what a container without checksums cannot see. Exit status 1 where a container that has them
let other routes through.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent)]

from support.flips import FORMS, outcomes  # noqa: E402

WITHOUT = ("safetensors", "npy", "jsonl", "prime-rl", "roll-pkl")


def main():
    """Flip, read, count, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=240, help="of each container; 240")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"{'container':16}{'refused':>9}{'same':>9}{'routes':>9}{'fields':>9}")
    unseen = 0
    with tempfile.TemporaryDirectory() as name:
        for form in FORMS:
            found = outcomes(form, Path(name) / "x", args.flips, args.seed)
            print(f"{form:16}" + "".join(f"{len(bits):>9}" for bits in found.values()), flush=True)
            unseen += 0 if form in WITHOUT else len(found["routes"])
    print(
        f"{args.flips * len(FORMS)} flips; of containers with checksums {unseen} gave other routes"
    )
    return int(unseen > 0)


if __name__ == "__main__":
    sys.exit(main())
