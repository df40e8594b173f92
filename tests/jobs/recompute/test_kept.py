"""A checkpoint as a side of a comparison: run once, kept in the user's cache, let go of again."""

import json
import os
import pickle
import shutil
import threading
import time
from signal import SIGINT

import msgspec
import numpy as np
import pytest

from routectl import DiffRequest, open_dump, raised_limits
from routectl.errors import RoutectlError
from routectl.files.temporaries import locked_file
from routectl.jobs.recompute.cache import Cache
from routectl.jobs.recompute.forwarding import Forwarding
from routectl.jobs.recompute.kept import recomputed_side
from routectl.jobs.recompute.partner import partner_of
from routectl.jobs.run import run as run_job
from routectl.jobs.shards import work
from support.crewed import hired
from support.crews import finished, make_folder, outside
from support.permissions import modes_in
from support.recordings import FIXTURES
from support.schemas import TYPES
from support.shell import complaint, document, run

pytestmark = pytest.mark.models
HOW = ("--forward", "threads=1,dtype=fp32")
TINY = FIXTURES / "tiny_rl"
LONG = 100  # samples, of which some seconds are spent on


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint, and dumps of random tokens with routes that are not its own."""
    return make_folder(tmp_path_factory.mktemp("kept"), (200,) * LONG)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache, one of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "routectl" / "recomputed"


def kept(cache):
    """Names of what is kept whole."""
    return sorted(path.stem for path in cache.glob("*.parquet"))


def test_either_side_of_a_diff_is_a_checkpoint(capsys, tmp_path, folder, cache):
    """The other side's tokens are run once, with a line of what and where; the figures are those of
    recompute, and the sides are where they were given.
    """
    dump, weights = folder / "dump.parquet", folder / "checkpoint"
    by_hand = tmp_path / "r.parquet"
    line = ("recompute", weights, dump, "--save", by_hand, "--threads", "1", "--dtype", "fp32")
    assert run(capsys, *line).code == 0
    first = run(capsys, "diff", dump, weights, *HOW, "--json")
    assert first.code == 1
    told = f"routectl: {weights}: pushing {sum(s.num_tokens for s in open_dump(dump))} tokens of "
    assert first.err.startswith(told)
    assert first.err.splitlines()[0].endswith(f"kept in {cache}")
    found = json.loads(first.out)
    expected = document(capsys, "diff", dump, by_hand, code=1)
    assert found["new"]["path"] == str(weights)
    assert (found["layers"], found["margins"]) == (expected["layers"], expected["margins"])
    again = run(capsys, "diff", weights, dump, *HOW, "--json")
    assert again.err == ""
    assert json.loads(again.out)["old"]["path"] == str(weights)
    assert json.loads(again.out)["rows_mismatched"] == found["rows_mismatched"]
    assert modes_in(cache) == ("700", {"600"})
    checked = run(capsys, "check", dump, "--against", weights, *HOW)
    assert (checked.err, len(kept(cache))) == ("", 1)
    assert "both OLD and NEW are checkpoints" in complaint(capsys, "diff", weights, weights)
    said = complaint(capsys, "diff", dump, weights, "--forward", "mode=both")
    assert "one side is of one mode: expected free or forced" in said


def test_processes_compare_with_routes_that_are_kept(capsys, monkeypatch, folder, cache):
    """Two and three processes print what one does, whichever side is the checkpoint."""
    dump, weights = folder / "dump.parquet", folder / "checkpoint"
    monkeypatch.setattr(work, "LEAST_BYTES", 1)
    started = hired(monkeypatch)
    for sides in ((dump, weights), (weights, dump)):
        told = [run(capsys, "diff", *sides, *HOW, "--json", "--jobs", n) for n in (1, 2, 3)]
        assert told[0].code == 1
        assert told[0].out == told[1].out == told[2].out
    assert started == [1, 2] * 2
    assert len(kept(cache)) == 1


def test_forced_routes_are_another_entry(capsys, folder, cache):
    """mode=forced judges each layer along the dump's own path: the first layer is that of free."""
    line = ("diff", folder / "dump.parquet", folder / "checkpoint", *HOW)
    free = document(capsys, *line, code=1)
    forced = document(capsys, *line, "--forward", "mode=forced", code=1)
    assert forced["layers"][0]["rows_mismatched"] == free["layers"][0]["rows_mismatched"]
    assert sorted(name.partition(".")[2] for name in kept(cache)) == ["", "forced"]


def test_python_asks_for_a_side(folder, cache):
    """recomputed_side gives the routes of a dump that was opened, and keeps them in use."""
    opened = open_dump(folder / "dump.parquet")
    how = Forwarding(threads=1, dtype="fp32")
    found, opening = recomputed_side(folder / "checkpoint", partner_of(opened), how)
    again = pickle.loads(pickle.dumps(opening))()  # as another process does
    assert (again.meta, again.keys) == (found.meta, found.keys)
    assert len(found) == len(opened)
    assert found.meta.path == str(folder / "checkpoint")
    one = open_dump(folder / "one.parquet")
    for mine, expected in zip(found, one, strict=True):
        assert np.array_equal(mine.routes.ids_TLK, expected.routes.ids_TLK)
    assert not Cache().remove(*kept(cache))
    narrowed = found.select(layers=found.meta.layers_L[:1])
    del found, mine, again
    assert not Cache().remove(*kept(cache))
    del narrowed
    assert Cache().remove(*kept(cache))


def test_the_cache_is_listed_and_cleared(capsys, folder, cache):
    """routectl cache says what is kept, of what and how much; --clear lets go of it by name."""
    assert document(capsys, "cache")["entries"] == []
    dump, weights = folder / "dump.parquet", folder / "checkpoint"
    for mode in ("free", "forced"):
        run(capsys, "diff", dump, weights, *HOW, "--forward", f"mode={mode}")
    found = document(capsys, "cache")
    assert found["schema"] == "routectl.cache/1"
    assert msgspec.convert(found, TYPES["cache"], strict=True) == found
    assert {one["mode"] for one in found["entries"]} == {"free", "forced"}
    assert found["bytes"] == sum(path.stat().st_size for path in cache.glob("*.parquet"))
    for one in found["entries"]:
        assert (one["checkpoint"], one["dump"]) == (str(weights.resolve()), str(dump))
        assert (one["finished"], one["samples"]) == (True, len(open_dump(dump)))
    text = run(capsys, "cache")
    assert (text.code, str(weights) in text.out) == (0, True)
    name = found["entries"][0]["name"]
    assert "begins so" in complaint(capsys, "cache", "--clear", "nothing")
    cleared = document(capsys, "cache", "--clear", name[:8] if "." not in name else name)
    assert name in cleared["removed"]
    run(capsys, "cache", "--clear")
    assert {path.name for path in cache.iterdir()} == {"CACHEDIR.TAG"}


def test_what_was_not_used_for_longest_goes_first(capsys, folder, cache):
    """Over the budget the least recently used entry goes, never what the run itself uses."""
    line = ("diff", folder / "dump.parquet", folder / "checkpoint")
    for dtype in ("fp32", "bf16"):
        run(capsys, *line, "--forward", f"threads=1,dtype={dtype}")
    (cache / "other").write_bytes(b"")  # what is not an entry stays
    for path in cache.glob("*.parquet"):
        os.utime(path, (0, 0))
    run(capsys, *line, "--forward", "threads=1,dtype=fp32")  # used again
    names, size = kept(cache), max(path.stat().st_size for path in cache.glob("*.parquet"))
    used = max(names, key=lambda name: (cache / f"{name}.parquet").stat().st_mtime)
    budget = f"cache={2 * size + 100}"
    done = run(capsys, "--limit", budget, *line, "--forward", "threads=1,dtype=fp16")
    assert "the cache let go of the routes of" in done.err
    assert len(kept(cache)) == 2
    assert used in kept(cache)
    tight = run(capsys, "--limit", "cache=1", *line, "--forward", "threads=1,mode=forced")
    assert tight.code == 1
    assert "are in use, over the 1 B that it may have" in tight.err
    assert len(kept(cache)) == 1
    assert (cache / "other").exists()


def test_another_run_of_the_same_is_waited_for(capsys, folder, cache):
    """While another run makes an entry, a line says so, and what it made is used."""
    line = ("diff", folder / "dump.parquet", folder / "checkpoint", *HOW)
    whole = run(capsys, *line).out
    (name,) = kept(cache)
    path, aside = cache / f"{name}.parquet", cache / "aside"
    path.rename(aside)
    fd = locked_file(cache / f"{name}.lock", wait=False)

    def made():
        aside.rename(path)
        os.close(fd)

    timer = threading.Timer(0.5, made)
    timer.start()
    done = run(capsys, *line)
    timer.join()
    told = "routectl: another run is computing the same: waiting for it\n"
    assert (done.out, done.err) == (whole, told)


@pytest.mark.slow
def test_two_runs_at_once_compute_once(folder, cache):
    """Of two diffs at the same time one computes, the other waits for it; both say the same."""
    line = ("diff", folder / "dump.parquet", folder / "checkpoint", *HOW)
    both = [outside(*line) for _ in range(2)]
    told = [(*process.communicate(timeout=240), process.returncode) for process in both]
    assert [code for _, _, code in told] == [1, 1], told
    assert told[0][0] == told[1][0]
    assert sum("pushing" in err for _, err, _ in told) == 1
    assert (
        sum("another run is computing the same: waiting for it" in err for _, err, _ in told) <= 1
    )
    assert len(kept(cache)) == 1
    assert {path.suffix for path in cache.iterdir()} == {".parquet", ".json", ".TAG"}


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(tmp_path, folder, cache):
    """A real SIGINT in the middle of a version says what is kept; the same command goes on from
    there, and ends as one that was never ended.
    """
    weights = shutil.copytree(folder / "checkpoint", tmp_path / "other")
    line = (
        *("staleness", folder / "long.parquet", "--version-map", "=v0", "--json"),
        *(f"--at=v0={folder / 'checkpoint'}", f"--at=v1={weights}", *HOW),
    )
    process = outside(*line)
    until = time.monotonic() + 120
    while len(kept(cache)) < 1 or not list(cache.glob("*.partial/job.json")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(SIGINT)
    code, err = finished(process)
    assert code == 130, err
    assert "Traceback" not in err
    assert f"routectl: version v1 ({weights}): " in err
    assert f"of {LONG} samples are kept: the same command goes on from there" in err
    assert "routectl: finished and kept: v0\n" in err
    done = outside(*line)
    out, told = done.communicate(timeout=240)
    assert done.returncode == 0, told
    assert told.count("pushing") == 1
    assert json.loads(out)["comparisons"][0]["samples"]["compared"] == LONG


def test_what_cannot_be_read_is_made_again(capsys, folder, cache):
    """A damaged file of the cache is let go of with a line, and computed anew."""
    line = ("diff", folder / "dump.parquet", folder / "checkpoint", *HOW)
    whole = run(capsys, *line).out
    (name,) = kept(cache)
    (cache / f"{name}.parquet").write_bytes(b"PAR1")
    done = run(capsys, *line)
    assert (done.code, done.out) == (1, whole)
    assert "it is made again: " in done.err


def test_weights_are_told_by_their_digest_where_it_is_known(capsys, tmp_path, folder, cache):
    """In the Hub's cache a file's name is its digest: the same elsewhere is not run again."""
    held = "5" * 64
    for revision in ("a", "b"):
        place = tmp_path / revision / "snapshots" / "r"
        shutil.copytree(folder / "checkpoint", place)
        blobs = tmp_path / revision / "blobs"
        blobs.mkdir()
        (place / "model.safetensors").rename(blobs / held)
        (place / "model.safetensors").symlink_to(blobs / held)
        os.utime(blobs / held, (0, 0))
        assert run(capsys, "diff", folder / "dump.parquet", place, *HOW).code == 1
    assert len(kept(cache)) == 1


def test_a_name_of_the_hubs_cache_is_a_checkpoint(capsys, tmp_path, monkeypatch, folder, cache):
    """ORG/NAME is the folder of its snapshot in every command; weights that lack are said."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "hub" / "models--org--tiny" / "snapshots" / "r"
    shutil.copytree(folder / "checkpoint", place)
    dump = folder / "dump.parquet"
    by_name = document(capsys, "diff", dump, "org/tiny", *HOW, code=1)
    assert by_name["new"]["path"] == str(place)
    again = run(capsys, "diff", dump, place, *HOW)
    assert again.err == ""
    line = ("recompute", "org/tiny", dump, "--save", tmp_path / "r.parquet", "--threads", "1")
    assert document(capsys, *line)["checkpoint"] == str(place)
    (place / "model.safetensors").unlink()
    said = complaint(capsys, "diff", dump, "org/tiny")
    assert f"org/tiny: no weights in {place}, where its config is cached" in said
    assert "hint: hf download org/tiny" in said


def test_samples_without_tokens_are_left_out(capsys, folder):
    """Such a sample is not run, with a line; in a diff it is one without a partner."""
    done = run(capsys, "diff", folder / "bare.parquet", folder / "checkpoint", *HOW, "--json")
    assert "1 sample without token ids: not run, and not compared" in done.err
    assert json.loads(done.out)["samples"]["only_old"] == 1


def test_a_checkpoint_of_another_shape(capsys, folder, cache):
    """Other E or K is refused before a weight is read; so is a dump of which, with the weights'
    own facts, no sample can be read, by its reader's line.
    """
    dump = TINY / "routes_v0.margins.parquet"
    said = complaint(capsys, "diff", dump, folder / "checkpoint")
    assert f"{folder / 'checkpoint'} is of another shape than {dump}: num_experts" in said
    done = run(capsys, "diff", TINY / "routes_v0.fp32.npz", folder / "checkpoint")
    assert (done.code, "has no token ids" in done.err) == (2, False), done.err
    assert "routes_v0.fp32.npz: " in done.err
    assert kept(cache) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("dtpye=fp32", "--forward key 'dtpye' is not known: did you mean dtype?"),
        ("dtype=int8", "--forward dtype 'int8' is not known: auto, fp32, bf16, fp16, "),
        ("fp32", "--forward fp32: expected KEY=VALUE"),
        ("threads=many", "--forward threads=many: expected a whole number"),
        ("threads=0", "--forward threads 0: expected at least 1"),
        ("logprobs=perhaps", "--forward logprobs=perhaps: expected yes or no"),
        ("device=cpu,meta", "device cpu,meta: got cpu, meta, expected one kind"),
    ],
)
def test_forward_is_checked(capsys, folder, given, said):
    """What --forward cannot mean is one line; a part without = goes on with the value before."""
    line = ("diff", folder / "dump.parquet", folder / "checkpoint", "--forward", given)
    assert said in complaint(capsys, *line)


def test_a_layer_without_a_row_is_told_by_the_document(capsys, tmp_path):
    """run() returns the document of exit code 2 that the command prints before its line."""
    from routectl.formats.native.container import write_native
    from support.dumps import all_alike, make_dump, make_routes, make_sample

    for name, gone in (("a", [(row, 1) for row in range(4)]), ("b", [])):
        routes = make_routes(all_alike(4), missing=gone)
        dump = make_dump([make_sample(routes, "s", prompt=[1, 2], response=[3, 4, 5])])
        write_native(dump, dump.meta, tmp_path / f"{name}.parquet", force=False)
    request = DiffRequest(old=str(tmp_path / "a.parquet"), new=str(tmp_path / "b.parquet"))
    found = run_job(request)
    assert found["verdict"]["exit_code"] == 2
    done = run(capsys, "diff", request.old, request.new, "--json")
    assert (done.code, json.loads(done.out)) == (2, found)
    assert "nothing was compared in 1 of 3 layers" in done.err


def test_the_budget_is_a_limit():
    """cache is a name of --limit, 20 GB where nobody says otherwise."""
    assert Cache().most_bytes == 20_000_000_000
    with raised_limits(cache="5GB"):
        assert Cache().most_bytes == 5_000_000_000
    with pytest.raises(RoutectlError, match="expected a size"), raised_limits(cache="much"):
        pass
