"""What findings say to do: each command that is printed runs, and proves what it says."""

import re
import shlex

import numpy as np
import pytest

import routectl
from routectl import open_dump
from routectl.dump import Dump
from routectl.formats.native.container import write_native
from routectl.ops.check.book.findings import kind_of
from support.dumps import part_of
from support.faults import with_ids
from support.shell import document, run
from support.tiny_rl import ENGINE, TINY

SAMPLES = 12
MODEL = ("--model", TINY / "config.json")
_COMMAND = re.compile(r"routectl ((?:check|recompute)(?: (?:--[a-z]+|[A-Z]+(?:\.parquet)?))+)")


def commands(code, **places):
    """The commands of a finding's advice, with places for the words in capitals."""
    found = _COMMAND.findall(kind_of(code).action)
    assert found
    return [[places.get(word.partition(".")[0], word) for word in line.split()] for line in found]


def codes(found):
    """The findings of a document."""
    return {finding["code"] for finding in found["findings"]}


def changed(dump, change):
    """The dump with the ids of its first sample changed."""
    samples = [
        with_ids(one, change(one.routes.ids_TLK) if n == 0 else one.routes.ids_TLK)
        for n, one in enumerate(dump)
    ]
    return Dump(dump.meta, dump.keys, samples.__getitem__)


def test_rows_at_their_tokens_are_proved(capsys, tmp_path):
    """Rows a token early (R701) of a dump that says no start are clean with it."""
    routes = part_of(open_dump(TINY / "routes_v0.fp32.npz"), range(SAMPLES))
    bad, right = tmp_path / "bad.npz", tmp_path / "right.parquet"
    write_native(routes, routes.meta, right, force=False)
    arrays = {}
    for number, one in enumerate(routes):
        ids_TLK = one.routes.ids_TLK[
            [*range(1, one.routes.num_tokens), 0]
        ]  # a row for the last token
        arrays[f"s{number}.routed_experts"] = ids_TLK.astype(np.int32)
        arrays[f"s{number}.prompt_token_ids"] = one.prompt_ids
        arrays[f"s{number}.token_ids"] = one.response_ids
    np.savez(bad, **arrays)
    assert "R701" in codes(document(capsys, "check", bad, "--against", right, *MODEL, code=1))
    (line,) = commands("R701", NEW=f"{bad}::start=1", REFERENCE=right)
    found = document(capsys, *line, *MODEL)
    assert codes(found) == {"R004"}
    assert found["explanation"]["rows_mismatched"] == 0


def filler(ids_TLK):
    """Experts 0, 1, 2, 3 in the last rows."""
    ids_TLK = ids_TLK.copy()
    ids_TLK[-8:] = np.arange(ids_TLK.shape[2])
    return ids_TLK


@pytest.mark.models
@pytest.mark.slow
def test_tokens_of_filler_are_routed_again(capsys, tmp_path, tiny_checkpoints):
    """Filler (R206) is gone from what the weights make of the tokens, and the check proves it."""
    bad, new = tmp_path / "bad.parquet", tmp_path / "new.parquet"
    dump = changed(part_of(open_dump(ENGINE), range(SAMPLES)), filler)
    write_native(dump, dump.meta, bad, force=False)
    assert "R206" in codes(document(capsys, "check", bad, code=1))
    route, prove = commands("R206", CHECKPOINT=tiny_checkpoints["v0"], DUMP=bad, NEW=new)
    assert run(capsys, *route).code == 0
    assert codes(document(capsys, *prove)) <= {"R004"}
    assert kind_of("R207").action == kind_of("R208").action == kind_of("R206").action


def test_after_saving_the_next_step_is_told(capsys, tmp_path):
    """With --save the advice for renumbered experts (R706) is the command that proves the file, in
    tables too.
    """
    right, bad, new = (tmp_path / f"{name}.parquet" for name in ("right", "bad", "my new"))
    routes = part_of(open_dump(TINY / "routes_v0.fp32.npz"), range(SAMPLES))
    write_native(routes, routes.meta, right, force=False)
    samples = [with_ids(one, (one.routes.ids_TLK + 1) % 32) for one in routes]
    write_native(samples, routes.meta, bad, force=False)
    line = ("check", bad, "--against", right)
    assert "--save DST" in run(capsys, *line).out
    done = run(capsys, *line, "--save", new)
    assert "--save" not in done.out
    (told,) = re.findall(r"has them restored: routectl (.*) proves it", done.out)
    assert run(capsys, *line).code == done.code == 1
    assert run(capsys, *shlex.split(told)).code == 0
    found = routectl.check(bad, right, save=new, force=True)
    rows = {row["code"]: row["action"] for row in found.to_arrow().to_pylist()}
    said = {one["code"]: one["action"] for one in found.to_dict()["findings"]}
    assert rows == said
    assert f"restored: routectl {told} proves it" in rows["R706"]
