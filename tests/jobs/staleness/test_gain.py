"""What replay gains, asked on the command line: of dumps, in parts, in a series, of checkpoints."""

import json
import pickle
from functools import partial

import pytest

import routectl
from routectl.formats import open_dump
from routectl.formats.native.container import write_native
from routectl.jobs.recompute.cache import Cache
from routectl.jobs.staleness.own_routes import OwnRoutes, older_samples
from routectl.ops.staleness.attribution import Attributor
from support.recordings import FIXTURES
from support.replays import kept_versions
from support.shell import complaint, document, run

ENGINE = FIXTURES / "tiny_rl" / "vllm.bf16" / "samples.jsonl"
FEW = 8


@pytest.fixture(name="line", scope="module")
def line_(tmp_path_factory):
    """A command line over the first samples of the recording, and v0 and v1 in every mode."""
    folder = tmp_path_factory.mktemp("gain")
    engine = open_dump(ENGINE).select(samples=range(FEW))
    write_native(engine, engine.meta, folder / "rollout.parquet", force=False)
    found = ["staleness", folder / "rollout.parquet", "--exit-zero"]
    for version in kept_versions(engine)[:2]:
        for mode in ("free", "forced", "R2"):
            dump = version.routes(mode)
            if dump is not None:
                path = folder / f"{version.name}.{mode}.parquet"
                write_native(dump, dump.meta, path, force=False)
                found.append(f"--at={version.name}={path}")
    return found


def without(line, *endings):
    """The same line without some of the files."""
    return [word for word in line if not str(word).endswith(tuple(f"{e}.parquet" for e in endings))]


def test_it_is_said_in_text_and_json(capsys, line):
    """A sentence comes first, then a table by version and mode; JSON has every figure."""
    lines = run(capsys, *line).out.splitlines()
    assert lines[1].startswith("gain      replaying the engine's routes cuts k3 from 0.00")
    assert lines[1].endswith(" at v1")
    rows = [text.split() for text in lines if text.startswith(("v0   ", "v1   "))]
    table = [row[:3] for row in rows if row[2:3] and row[2] in ("none", "R2", "R3")]
    assert table == [[f"v{n}", str(n), mode] for n in (0, 1) for mode in ("none", "R2", "R3")]
    gain = document(capsys, *line, "--json")["gain"]
    assert gain["unmeasured"] == []
    assert [(one["version"], one["lag"], one["tokens"]) for one in gain["versions"]] == [
        ("v0", 0, FEW * 96),
        ("v1", 1, FEW * 96),
    ]
    for one in gain["versions"]:
        none, own, engine = one["modes"]
        assert [f["tau"] for f in none["f_taus"]] == [1.1, 1.25, 2]
        assert engine["gain"] == pytest.approx(none["k3"] / engine["k3"])
        assert one["r2_over_r3"] == pytest.approx(own["k3"] / engine["k3"])
    assert gain["versions"][1]["r2_path"].endswith("v1.R2.parquet")
    assert "forced to the routes of R2" in "\n".join(lines)
    short = run(capsys, *line, "--summary").out.splitlines()
    assert lines[1] in short
    assert len(short) <= 10


def test_parts_merge_to_the_bytes_of_one(capsys, line, tmp_path):
    """Parts of samples, merged in any order, give the JSON of one command byte for byte."""
    paths = [tmp_path / f"{n}.partial" for n in (1, 2, 3)]
    for n, path in enumerate(paths, 1):
        assert run(capsys, *line, "--shard", f"{n}/3", "--partial", path).code == 0
    one = run(capsys, *line, "--json").out
    assert json.loads(one)["gain"]["versions"]
    assert run(capsys, "merge", paths[2], paths[0], paths[1], "--json").out == one


def test_thresholds_and_scalars(capsys, line, tmp_path):
    """gain_r3 is gated at lag 0 or at a lag, and is a scalar of either name."""
    gated = [word for word in line if word != "--exit-zero"]
    done = run(capsys, *gated, "--fail-under", "gain_r3:2", "--fail-under", "gain_r3@lag1:2")
    assert done.code == 1
    assert "  gain_r3@lag1:2: 1." in done.out
    assert "1 of 2 thresholds crossed" in done.out
    told = complaint(capsys, *gated, "--fail-under", "gain_r3@lag7:2")
    assert "there is no gain_r3 at lag 7: it is known at lag 0, 1" in told
    found = routectl.metrics(document(capsys, *line, "--json"))
    assert found["routectl/gain_r3"] == found["routectl/gain_r3/lag_0"] > 2
    assert found["routectl/gain_r2/lag_1"] > 1
    assert 0 < found["routectl/f2_r3/lag_1"] < 0.1
    series = tmp_path / "run"
    series.mkdir()
    assert run(capsys, *line, "-o", series / "step-5.json").code == 0
    asked = ["staleness", "--series", series, "--fail-under"]
    assert run(capsys, *asked, "gain_r3:2").code == 0
    crossed = run(capsys, *asked, "gain_r3@lag1:2")
    assert crossed.code == 1
    assert "gain R3" in crossed.out
    assert "the last step, step-5.json, has no k3_r3@lag4" in complaint(
        capsys, *asked, "k3_r3@lag4:2"
    )


def test_what_is_missing_is_said_in_a_line(capsys, line):
    """One line says what is not measured, and what makes it."""

    def said(*endings):
        out = run(capsys, *without(line, *endings)).out
        return [text for text in out.splitlines() if text.startswith("gain ")]

    (none,) = said("forced", "R2")
    assert none.startswith("gain      what replay gains is not measured: no forced routes with")
    assert none.endswith("routectl recompute CHECKPOINT DUMP --mode both --logprobs")
    sentence, missing = said("R2")
    assert " cuts k3 " in sentence
    assert missing.startswith("gain      R2 is not measured: v1: --at NAME=CHECKPOINT --forward")
    lost = run(capsys, *without(line, "v1.free", "v1.forced"))
    assert lost.code == 2
    assert "version v1: " in lost.err
    assert "R2 comes beside a version's own" in lost.err


def test_in_python(line):
    """The library takes a list of a version's modes, and gives a table of what replay gains."""
    versions = {"v0": [], "v1": []}
    for word in line[3:]:
        name, where = str(word).removeprefix("--at=").split("=")
        versions[name].append(where)
    result = routectl.staleness(line[1], versions)
    assert [one.best for one in result.gains.versions] == ["R3", "R3"]
    table = result.to_arrow("replays").to_pylist()
    assert [(row["version"], row["mode"]) for row in table] == [
        (v, mode) for v in ("v0", "v1") for mode in ("none", "R2", "R3")
    ]
    assert table[2]["gain"] == pytest.approx(table[0]["k3"] / table[2]["k3"])
    assert table[0]["gain"] is None
    held = {name: [routectl.open_dump(path) for path in paths] for name, paths in versions.items()}
    again = routectl.staleness(routectl.open_dump(line[1]), held)
    assert again.to_arrow("replays").equals(result.to_arrow("replays"))


@pytest.mark.models
def test_checkpoints_are_run_in_every_mode_once(
    capsys, line, tmp_path, monkeypatch, tiny_checkpoints
):
    """Of checkpoints, mode=both gives the figures of the kept log-probs; R2's run is kept, too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    at = [f"--at={name}={tiny_checkpoints[name]}" for name in ("v0", "v1")]
    how = ["--forward", "mode=both,dtype=fp32,threads=1,gate-logprobs=no"]
    asked = ["staleness", line[1], *at, *how, "--exit-zero", "--json"]
    first = run(capsys, *asked)
    assert "R2: pushing 904 tokens of 8 samples" in first.err
    truth = document(capsys, *line, "--json")["gain"]["versions"]
    for one, kept in zip(json.loads(first.out)["gain"]["versions"], truth, strict=True):
        assert (one["tokens"], one["best"]) == (kept["tokens"], kept["best"])
        for mode, expected in zip(one["modes"], kept["modes"], strict=True):
            assert mode["mode"] == expected["mode"]
            for name in ("k1", "k3", "mean_abs_d", "max_abs_d"):
                assert mode[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
            f_taus = [[f["f_tau"] for f in m["f_taus"]] for m in (mode, expected)]
            assert f_taus[0] == pytest.approx(f_taus[1], abs=2 / one["tokens"])
    assert len(list(Cache().folder.glob("*.parquet"))) == 5
    again = run(capsys, *asked)
    assert "pushing" not in again.err
    assert again.out == first.out


def test_other_processes_open_the_same_routes():
    """R2's routes are opened from a pickle too, for the chosen samples."""
    engine = open_dump(ENGINE)
    free = FIXTURES / "tiny_rl" / "routes_v0.fp32.npz"
    by = Attributor(("v0", "v1"), {}, None, exact=True)
    assert older_samples(engine, by, 0, [0]) == ()
    assert older_samples(engine, by, 1, []) == ()
    chosen = older_samples(engine, by, 1, [0, 1])
    assert chosen == tuple(range(96))
    how = OwnRoutes(partial(open_dump, ENGINE), {0: partial(open_dump, free)}, by, (3, 5), "auto")
    found, own = pickle.loads(pickle.dumps(how))(), open_dump(free)
    assert len(found) == 2
    for sample, index in zip(found, (3, 5), strict=True):
        assert (sample.routes.ids_TLK == own[index].routes.ids_TLK).all()
        assert (sample.token_ids == engine[index].token_ids).all()
