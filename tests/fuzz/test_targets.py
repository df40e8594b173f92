"""Every door takes sound cases and some hundreds of changed ones; the search itself is run.py."""

import random
from dataclasses import replace

import pytest

from fuzz import run
from fuzz.cases import changed_case, packed, unpacked
from fuzz.run import judged, warmed
from fuzz.targets import TARGETS

CHANGES = 40  # of each target; a search makes thousands


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_door_takes_sound_and_changed_files(name, tmp_path):
    """Of any change a door makes an answer or one line, soon, in little memory."""
    target = TARGETS[name]
    cases = [packed(files) for files in target.cases()]
    for data in cases:
        warmed(name, data, tmp_path / "x")
    rng = random.Random(1)
    changed = [
        changed_case(rng.choice(cases), rng.getrandbits(64), target.weights) for _ in range(CHANGES)
    ]
    found = [judged(name, data, tmp_path / "x") for data in (*cases, *changed)]
    assert [one.text for one in found if one is not None] == []


def test_a_search_without_atheris_says_what_to_install(monkeypatch, capsys):
    """Without the package, one line names the extra, and what goes without it: exit 2."""
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["run.py", "npy"])
    assert run.main() == 2
    said = capsys.readouterr().err
    assert "pip install 'routectl[fuzz]'" in said
    assert "--plain" in said


def test_a_finding_is_kept_once_for_its_cause(tmp_path, monkeypatch, capsys):
    """A door that raises is a finding, kept with its case; a second case of the cause is not."""

    def judge(folder):
        raise KeyError(sorted(path.name for path in folder.iterdir()))

    monkeypatch.setitem(TARGETS, "npy", replace(TARGETS["npy"], judge=judge))
    search = run.Search("npy", tmp_path / "kept", tmp_path / "x")
    for body in (b"1", b"2"):
        assert not search.judge(packed({"x.npy": body}))
    kept = sorted(path.name for path in search.keep.glob("npy.*"))
    assert [name.rpartition(".")[2] for name in kept] == ["case", "txt"]
    assert "KeyError" in (search.keep / kept[1]).read_text("utf-8")
    assert unpacked((search.keep / kept[0]).read_bytes()) == {"x.npy": b"1"}
    assert "npy.raised" in capsys.readouterr().err


def test_changes_are_those_of_their_seed():
    """The same case and seed give the same changed case, and most seeds another one."""
    for name in ("npy", "report", "config", "ci", "codecs"):
        data = packed(TARGETS[name].cases()[0])
        changed = [changed_case(data, seed) for seed in range(20)]
        assert changed == [changed_case(data, seed) for seed in range(20)]
        assert len({*changed, data}) > 12
