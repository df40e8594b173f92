"""``routectl check --candidates``: recorded rows of known makers, mixed, mislabelled and spoilt."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import routectl
from routectl import open_dump
from routectl.dump import WeightSpan
from routectl.formats.native.container import write_native
from support.recordings import FIXTURES
from support.shell import complaint, document, run
from support.tiny_rl import ENGINE, TINY

INPLACE = TINY / "sglang.inplace"
SAMPLES = 16
V0 = TINY / "routes_v0.margins.parquet"
OTHERS = {name: TINY / f"routes_{name}.fp32.npz" for name in ("v1", "v2")}
ALL = [f"--candidates={name}={path}" for name, path in {"v0": V0, **OTHERS}.items()]


def spanned(sample, version):
    """The sample as made by a version, as the dump says it, or without a word."""
    size = sample.response_length
    spans = () if version is None else (WeightSpan(version, 0, size),)
    return replace(sample, weight_spans=spans)


def made(path, change, said=None):
    """A native file of the first recorded samples, each changed by its index, under a label."""
    dump = open_dump(ENGINE)
    samples = [spanned(change(i, dump[i]), said) for i in range(SAMPLES)]
    write_native(samples, dump.meta, path, force=True)
    return path


def as_it_is(index, sample):
    """The engine's rows, of v0."""
    return sample


@cache
def of_v1():
    """v1's routes for the engine's samples, by the index of these."""
    routes, engine = open_dump(OTHERS["v1"]), open_dump(ENGINE)
    place = {key.tokens: i for i, key in enumerate(routes.keys)}
    return [routes[place[engine.keys[index].tokens]].routes for index in range(SAMPLES)]


def mixed(index, sample):
    """Every fourth sample of v1, the others of the engine at v0."""
    return replace(sample, routes=of_v1()[index]) if index % 4 == 0 else sample


def told(doc):
    """The maker of each sample, by what was found."""
    return {
        part["sample"]: "none" if part["none"] else part["made_by"]
        for part in doc["candidates"]["parts"]
    }


def codes(doc):
    """The findings about makers."""
    return {f["code"]: f["samples"] for f in doc["findings"] if "R721" <= f["code"] <= "R725"}


def test_a_sample_of_other_weights_is_an_error(capsys, tmp_path):
    """Of a dump whose labels are gone, samples of another version than --against are named."""
    path = made(tmp_path / "mixed.parquet", mixed)
    doc = document(capsys, "check", path, *ALL, "--against", "v0", code=1)
    makers = list(told(doc).values())
    assert doc["candidates"]["expected"] == "v0"
    assert makers.count("v1") == SAMPLES // 4
    assert makers.count("v0") + makers.count(None) == SAMPLES - SAMPLES // 4
    assert makers.count(None) <= 2
    assert codes(doc)["R721"] == SAMPLES // 4
    first = run(capsys, "check", path, *ALL, "--against", "v0").out.splitlines()[0]
    assert first.startswith("FAULTY  the engine ran v0 in ")
    assert ": newer weights than expected; " in first
    behind = run(capsys, "check", path, *ALL, "--against", "v1").out
    assert ": it had not taken the last update; " in behind.splitlines()[0]
    assert run(capsys, "check", path, *ALL, "--against", "v1", "--ignore", "R721,R7").code == 0


def test_a_label_that_the_rows_contradict_is_an_error(capsys, tmp_path):
    """Rows of v0 under the label v1 contradict it, whatever --against says."""
    path = made(tmp_path / "labels.parquet", as_it_is, "v1")
    for against in ((), ("--against", "v0")):
        doc = document(capsys, "check", path, *ALL, *against, code=1)
        assert codes(doc)["R722"] >= SAMPLES - 2
        assert {part["expected"] for part in doc["candidates"]["parts"]} == {
            against[1] if against else "v1"
        }
    right = made(tmp_path / "right.parquet", as_it_is, "v0")
    doc = document(capsys, "check", right, *ALL)
    assert set(codes(doc)) <= {"R724"}
    assert doc["candidates"]["candidates"][0]["samples"] >= SAMPLES - 2


def test_samples_that_a_candidate_lacks_are_told(capsys, tmp_path):
    """They are not judged, which the verdict and a warning say."""
    half, engine = tmp_path / "half.parquet", open_dump(ENGINE)
    of_half = [replace(engine[i], routes=of_v1()[i]) for i in range(0, SAMPLES, 2)]
    write_native(of_half, open_dump(OTHERS["v1"]).meta, half, force=True)
    some = [ALL[0], f"--candidates=v1={half}"]
    path = made(tmp_path / "right.parquet", as_it_is, "v0")
    doc = document(capsys, "check", path, *some)
    assert (doc["candidates"]["lacking"], doc["candidates"]["samples"]) == (SAMPLES // 2,) * 2
    (found,) = [f for f in doc["findings"] if f["code"] == "R719"]
    assert found["samples"] == SAMPLES // 2
    assert f", {SAMPLES // 2} not judged; 1 warning" in run(capsys, "check", path, *some).out


def test_a_version_that_is_no_candidate_is_said(capsys, tmp_path):
    """Samples under a label that no candidate has are undecided; the others are judged as ever."""
    path = tmp_path / "some.parquet"
    dump = open_dump(ENGINE)
    labels = ["v0", "v9", "v0", "v10"] * (SAMPLES // 4)
    samples = [spanned(dump[i], said) for i, said in enumerate(labels)]
    write_native(samples, dump.meta, path, force=False)
    right = document(capsys, "check", made(tmp_path / "right.parquet", as_it_is, "v0"), *ALL)
    for against in ((), ("--against", "v0")):
        doc = document(capsys, "check", path, *ALL, *against)
        (found,) = [f for f in doc["findings"] if f["severity"] == "undecided"]
        assert (found["code"], found["samples"]) == ("R725", SAMPLES // 2)
        assert found["detail"] == "v9, v10; candidates are v0, v1, v2"
        assert found["places"][0]["note"].startswith("names v9; ")
        assert told(doc) == told(right)
        assert "R722" not in codes(doc)
    done = run(capsys, "check", path, *ALL, "--fail-on", "undecided")
    assert (done.code, done.out.split()[0]) == (1, "UNDECIDED")
    more = [f"--candidates={name}={V0}" for name in ("v9", "v10")]  # as the advice says
    assert "R725" not in codes(document(capsys, "check", path, *ALL, *more))
    unnamed = made(tmp_path / "default.parquet", as_it_is, "default")  # SGLang, nobody said one
    assert "R725" not in codes(document(capsys, "check", unnamed, *ALL))


def test_a_right_label_is_not_what_was_asked(capsys, tmp_path):
    """Rows of v0, labelled so, are not of the weights that --against says should have run."""
    right = made(tmp_path / "right.parquet", as_it_is, "v0")
    doc = document(capsys, "check", right, *ALL, "--against", "v1", code=1)
    assert codes(doc)["R721"] >= SAMPLES - 2
    assert "R722" not in codes(doc)
    guesses = {"R711", "R712", "R715", "R716"}  # who made the rows is known
    assert not guesses & {f["code"] for f in doc["findings"]}
    doc = document(capsys, "check", right, *ALL, "--against", "v0")
    assert guesses & {f["code"] for f in doc["findings"]} == {"R712"}


def test_engine_that_updated_in_place(capsys, tmp_path):
    """SGLang's samples, sampled while the weights were changed, have each version where it says."""
    sides = [f"--candidates={n}={INPLACE}/transformers_{n}.npz" for n in ("v0", "v0p")]
    line = ("check", INPLACE / "samples.jsonl", "--model", TINY / "config.json", *sides)
    doc = document(capsys, *line)
    found = [(p["version"], p["made_by"]) for p in doc["candidates"]["parts"]]
    assert found == [("v0", "v0"), ("v0p", "v0p")] * 2
    text = run(capsys, *line).out
    assert "several, each where the dump says in 2 of 2 samples" in text
    against = document(capsys, *line, "--against", "v0", code=0)
    assert {f["code"] for f in against["findings"]} == {"R501"}
    (tmp_path / "v0p").write_bytes((INPLACE / "transformers_v0p.npz").read_bytes())
    by_place = document(capsys, *line[:-1], "--against", tmp_path / "v0p", code=0)
    assert {f["code"] for f in by_place["findings"]} == {"R501"}


@pytest.mark.parametrize("kind", ["renumbered", "random"])
def test_rows_of_no_candidate(capsys, tmp_path, kind):
    """Renumbered experts, and rows of another model, are of none of the candidates."""
    draws = np.random.default_rng(11)
    to = draws.permutation(32)

    def change(index, sample):
        routes = sample.routes
        ids = to[routes.ids_TLK]
        if kind == "random":
            ids = np.argsort(draws.random((*ids.shape[:2], 32)), axis=2)[:, :, : ids.shape[2]]
        return replace(sample, routes=replace(routes, ids_TLK=ids.astype(np.uint8)))

    path = made(tmp_path / "bad.parquet", change)
    doc = document(capsys, "check", path, *ALL, "--against", "v0", code=1)
    assert doc["candidates"]["none"] == SAMPLES
    assert codes(doc)["R723"] == SAMPLES
    other = {f["code"] for f in doc["findings"]} - {"R723"}
    assert "R706" in other if kind == "renumbered" else other


def test_of_python(tmp_path):
    """routectl.check takes candidates too, and its result says who made what."""
    path = made(tmp_path / "mixed.parquet", mixed)
    found = routectl.check(path, V0, candidates=[f"v0={V0}", f"v1={OTHERS['v1']}"])
    assert found.made_by.samples["v1"] == SAMPLES // 4
    assert found.made_by.expected == "v0"


def test_page_and_summary_say_it(capsys, tmp_path):
    """The page, the summary and a saved report have the verdict."""
    path = made(tmp_path / "mixed.parquet", mixed)
    saved, page = tmp_path / "x.json", tmp_path / "x.html"
    line = ("check", path, *ALL, "--against", "v0")
    first = run(capsys, *line).out.splitlines()[0]
    assert run(capsys, *line, "-o", saved).code == run(capsys, *line, "--html", page).code == 1
    assert run(capsys, "report", saved).out.splitlines()[0] == first
    assert run(capsys, *line, "--summary").out.splitlines()[0] == first
    assert "newer weights than expected" in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--candidates", "v0"], "--candidates v0: expected NAME=WHERE"),
        (["--candidates", "none=x"], "--candidates none: a verdict's word, no candidate's name"),
        (["--candidates", "v0=a", "--candidates", "v0=b"], "--candidates v0 is given twice"),
        ([*ALL, "--forward", "mode=forced"], "--candidates are told apart by free routes"),
        ([*ALL, "--shard", "1/2"], "--shard: all samples together tell"),
        (
            [ALL[0], f"--candidates=b={FIXTURES / 'golden' / 'deepseek_v3.parquet'}"],
            "candidate b: ",
        ),
        ([ALL[1]], "--candidates: one is given, v1: which is nearest is told of two"),
        ([ALL[1], "--against", OTHERS["v1"]], "one is given, v1"),
        ([ALL[1], "--against", "v1"], "one is given, v1"),
        ([*ALL, "--against", "v3"], "--against v3: no file, no folder, and none of the candidates"),
        ([*ALL, "--against", "v3"], "v0, v1, v2"),
        (["--against", "v3"], "a NAME is that of --candidates NAME=WHERE"),
        (
            ["--against", "v3=x.npz"],
            "--candidates v3=x.npz, another one beside it, and --against v3",
        ),
    ],
)
def test_what_makes_no_sense(capsys, more, why):
    """Candidates of no form, given twice, forced, alone or of another shape are refused."""
    assert why in complaint(capsys, "check", ENGINE, *more)


@pytest.mark.models
@pytest.mark.slow
def test_checkpoints_are_run_once(capsys, tmp_path, tiny_checkpoints, monkeypatch):
    """Candidates that are folders are run through recompute's cache, the reference among them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = made(tmp_path / "mixed.parquet", mixed)
    sides = [f"--candidates={name}={where}" for name, where in tiny_checkpoints.items()]
    line = ("check", path, *sides, "--against", tiny_checkpoints["v1"], "--json")
    first = run(capsys, *line)
    assert first.err.count("pushing") == len(tiny_checkpoints)
    again = run(capsys, *line)
    assert (again.out, again.err.count("pushing")) == (first.out, 0)
    assert "the engine ran v0 in" in run(capsys, *line[:-1]).out
