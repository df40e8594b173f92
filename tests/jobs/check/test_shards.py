"""check and verify in shards: by parts that merge, and by worker processes."""

import pickle

import pytest

from routectl.jobs.check.request import CheckRequest, opened_work
from routectl.jobs.progress import SILENT
from routectl.jobs.shards import run as runner
from support.recordings import FIXTURES
from support.shell import document, run

DUMP = FIXTURES / "tiny_rl" / "vllm.bf16" / "samples.jsonl"
REFERENCE = FIXTURES / "tiny_rl" / "routes_v0.margins.parquet"
SMALL = FIXTURES / "golden" / "deepseek_v3.parquet"
PARTS = 3


def merged(capsys, folder, command, *words):
    """The answer of a command, and that of its parts merged in another order."""
    whole = run(capsys, command, *words, "--json")
    names = []
    for part in range(1, PARTS + 1):
        names.append(folder / f"part{part}")
        words_of_part = ("--shard", f"{part}/{PARTS}", "--partial", names[-1])
        assert run(capsys, command, *words, *words_of_part).code == 0
    return whole, run(capsys, "merge", *names[::-1], "--json")


def test_parts_of_a_check_merge(capsys, tmp_path):
    """Three parts of a check, merged, answer byte for byte as the check does."""
    whole, parts = merged(capsys, tmp_path, "check", SMALL)
    assert (whole.code, whole.out) == (parts.code, parts.out)


@pytest.mark.slow
def test_parts_of_a_check_against_a_reference_merge(capsys, tmp_path):
    """The same against a reference."""
    whole, parts = merged(capsys, tmp_path, "check", DUMP, "--against", REFERENCE)
    assert (whole.code, whole.out) == (parts.code, parts.out)


def test_parts_of_a_verification_merge(capsys, tmp_path):
    """Three parts of the verification of a folder, merged, answer byte for byte as verify does."""
    folder = tmp_path / "replay"
    assert run(capsys, "pack", SMALL, "--save", folder, "--layout", "dp=2,cp=2").code == 0
    words = ("verify", folder, "--against", SMALL)
    whole, parts = merged(capsys, tmp_path, *words)
    assert (whole.code, whole.out) == (parts.code, parts.out)


def test_work_goes_to_other_processes(capsys):
    """Work that was pickled opens the dump anew, and its shards come to the same document."""
    work = opened_work(CheckRequest(dump=str(SMALL)), SILENT)
    again = pickle.loads(pickle.dumps(work))
    size = len(work.checker().dump)
    parts = [again.checker().partial(range(n, size, 4)) for n in range(4)]
    found = ((parts[2] + parts[0]) + (parts[3] + parts[1])).result(work.checker())
    whole = document(capsys, "check", SMALL)
    assert [f.code for f in found.findings] == [f["code"] for f in whole["findings"]]
    assert (found.samples, found.tokens) == (whole["dump"]["samples"], whole["tokens"])


@pytest.mark.slow
def test_two_processes_print_what_one_prints(capsys, monkeypatch):
    """With --jobs 2 the document is that of --jobs 1, byte for byte."""
    one = run(capsys, "check", DUMP, "--against", REFERENCE, "--jobs", "1", "--json")
    monkeypatch.setattr(runner, "_SURE_BYTES", 0)
    two = run(capsys, "check", DUMP, "--against", REFERENCE, "--jobs", "2", "--json")
    assert (one.code, one.out) == (two.code, two.out)
