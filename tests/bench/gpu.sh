#!/usr/bin/env bash
# The claims about a GPU, measured on this machine's: correctness first, then a markdown table for
# docs/benchmarks.md. Within 8 minutes; needs this tree, what is installed, and no network.
#
#   tests/bench/gpu.sh [--cpu] [--dir DIR] [--gb 11] [--threads 8]
#
# --cpu runs all of it small on the CPU, which measures nothing. The checkpoint is written below
# --dir (default: $TMPDIR, or /tmp) and removed at the end. Exit 1 where something is wrong.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || python=python3
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" tests/bench/gpu.py "$@"
