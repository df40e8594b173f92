"""routectl ci: configs, runs, exit codes, baselines; each check does what its command does."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from routectl import open_dump
from routectl.errors import RoutectlError
from routectl.jobs.ci.config import read_checks
from routectl.jobs.ci.runs import runs_of_check
from routectl.ops.diff.metrics import METRICS
from support.ci_configs import CHECK, DIFF, EXACT, V0, V1, V2, config, toml
from support.shell import complaint, document, run, written
from support.tiny_rl import ENGINE, TINY

ROOT = Path(__file__).parent.parent.parent.parent
AT = [f"v0={V0}", f"v1={V1}", f"v2={V2}"]
STALE = {"verb": "staleness", "dump": str(ENGINE), "at": AT}


@pytest.fixture(autouse=True)
def _no_github(monkeypatch):
    """These tests may run on GitHub themselves."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def of(doc, name):
    """The one run of a name."""
    (found,) = [entry for entry in doc["runs"] if entry["name"] == name]
    return found


class TestChecks:
    """What a check comes to."""

    @pytest.mark.slow
    def test_a_check_is_its_command(self, capsys, tmp_path):
        """A diff, a check and a staleness have the exit code, the crossed thresholds and the
        scalars of the command with the same options.
        """
        from routectl import metrics

        words = {
            "diff": (
                {
                    **DIFF,
                    "fail-over": ["mismatch@*:3%"],
                    "tokens": "response",
                    "layers": "3-5",
                    "examples": 0,
                },
                [
                    ENGINE,
                    V0,
                    "--fail-over",
                    "mismatch@*:3%",
                    "--tokens",
                    "response",
                    "--layers",
                    "3-5",
                    "--examples",
                    "0",
                ],
            ),
            "check": (
                {**CHECK, "fail-on": "note", "against": str(V1)},
                [ENGINE, "--fail-on", "note", "--against", V1],
            ),
            "staleness": (
                {**STALE, "fail-over": "staleness:10%", "mini-steps": 4},
                [
                    ENGINE,
                    *(f"--at={one}" for one in AT),
                    "--fail-over",
                    "staleness:10%",
                    "--mini-steps",
                    "4",
                ],
            ),
        }
        path = config(tmp_path, **{verb: table for verb, (table, _) in words.items()})
        doc = document(capsys, "ci", path, code=1)
        for verb, (_, flags) in words.items():
            alone = json.loads(run(capsys, verb, *flags, "--json").out)
            found = of(doc, verb)
            assert found["exit_code"] == alone["verdict"]["exit_code"]
            assert found["failed"] == alone["verdict"].get("failed", [])
            assert found["metrics"] == metrics(alone)
        assert [r["verb"] for r in doc["runs"]] == ["diff", "check", "staleness"]

    def test_trouble_does_not_hide_the_others(self, capsys, tmp_path):
        """All checks run; the exit code is the worst one's, and 2 is worse than 1."""
        checks = {"gone": {**DIFF, "new": "gone.npz"}, "differs": DIFF, "same": EXACT}
        doc = document(capsys, "ci", config(tmp_path, **checks), code=2)
        assert [r["status"] for r in doc["runs"]] == ["trouble", "failed", "passed"]
        assert doc["counts"] == {"passed": 1, "failed": 1, "trouble": 1}
        assert of(doc, "gone")["summary"].endswith(
            "gone.npz: cannot be read: No such file or directory"
        )
        path = config(tmp_path, differs=DIFF, same=EXACT)
        assert run(capsys, "ci", path).code == 1
        assert run(capsys, "ci", path, "--exit-zero").code == 0
        assert run(capsys, "ci", path, "--only", "same").code == 0
        config(tmp_path, gone=checks["gone"])
        assert run(capsys, "ci", path, "--exit-zero").code == 2

    def test_a_bug_is_one_check_and_every_voice_is_written(self, capsys, tmp_path, monkeypatch):
        """What breaks a check is that check's trouble: the others run, and all voices tell both."""
        from routectl.jobs.ci import runs

        def broken(*_):
            raise TypeError("of a kind\n::error::that nobody thought of")

        monkeypatch.setattr(runs, "answer_check", broken)
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
        path = config(tmp_path, broken=CHECK, same=EXACT, differs=DIFF)
        junit, out = tmp_path / "ci.xml", tmp_path / "out.json"
        flags = (f"--junit={junit}", "--github", "-o", out, "--update-baseline")
        done = run(capsys, "ci", path, *flags)
        assert (done.code, done.out) == (2, "")
        doc = json.loads(out.read_text("utf-8"))
        assert [r["status"] for r in doc["runs"]] == ["trouble", "passed", "failed"]
        assert of(doc, "broken")["summary"].startswith("this is a bug in routectl")
        assert any("of a kind" in line for line in of(doc, "broken")["details"])
        assert [line.split(" ")[0] for line in done.err.splitlines() if line[:2] == "::"] == [
            "::error"
        ] * 2
        assert 'errors="1"' in junit.read_text("utf-8")
        assert "could not be run" in (tmp_path / "summary.md").read_text("utf-8")
        kept = json.loads((tmp_path / "ci.baseline.json").read_text("utf-8"))["checks"]
        assert list(kept) == ["differs", "same"]
        text = run(capsys, "ci", path)
        assert text.code == 2
        assert text.out.startswith("TROUBLE  1 of 3 checks passed, 1 failed, 1 could not be run\n")

    def test_a_voice_that_fails_hides_no_other(self, capsys, tmp_path):
        """Where one file cannot be written the others are, and the exit code is 2."""
        path = config(tmp_path, same=EXACT)
        junit, full = tmp_path / "ci.xml", "/dev/full"
        for flags in (("--html", full, "--junit", junit), ("--junit", full, "-o", junit)):
            told = tmp_path / "ci.json"
            flags = [told if flag is junit and "-o" in flags else flag for flag in flags]
            done = run(capsys, "ci", path, *flags)
            assert done.code == 2
            assert len([line for line in done.err.splitlines() if full in line]) == 1
        assert 'tests="1"' in junit.read_text("utf-8")
        assert json.loads(told.read_text("utf-8"))["counts"]["passed"] == 1

    def test_nothing_compared_in_a_layer_is_trouble(self, capsys, tmp_path):
        """A diff with a layer that has no row to compare is trouble, as in the command."""
        import numpy as np

        ids = np.zeros((1, 3, 2, 2), np.uint8) + np.array([0, 1], np.uint8)
        ids_gone = ids.astype(np.int16)
        ids_gone[:, :, 1] = -1
        for name, array in (("a", ids), ("b", ids_gone)):
            np.save(tmp_path / f"{name}.npy", array)
        sizes = {"model": "2,2,4"}
        words = {"verb": "diff", "old": "a.npy", "new": "b.npy", "match": "order", **sizes}
        doc = document(capsys, "ci", config(tmp_path, empty=words), code=2)
        flags = ("--match", "order", "--model", "2,2,4")
        alone = run(capsys, "diff", tmp_path / "a.npy", tmp_path / "b.npy", *flags)
        assert alone.code == 2
        assert f"routectl: {doc['runs'][0]['summary']}\n" in alone.err

    def test_pyproject_is_the_default(self, capsys, tmp_path, monkeypatch):
        """Without CONFIG, the checks are those of [tool.routectl] in ./pyproject.toml."""
        text = "[project]\nname = 'x'\n" + toml({"same": EXACT}, "tool.routectl.checks")
        (tmp_path / "pyproject.toml").write_text(text, "utf-8")
        monkeypatch.chdir(tmp_path)
        assert document(capsys, "ci")["runs"][0]["name"] == "same"
        (tmp_path / "pyproject.toml").write_text("[tool]\n", "utf-8")
        assert "no table [tool.routectl]" in complaint(capsys, "ci")

    def test_the_document_is_its_contract(self, capsys, tmp_path):
        """Every key of the document and of its runs is named in docs/json.md, and no other."""
        doc = document(capsys, "ci", config(tmp_path, differs=DIFF), code=1)
        text = (ROOT / "docs" / "json.md").read_text("utf-8")
        section = text.split("## routectl.ci/1")[1].split("\n## ")[0]
        rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
        assert [name for name, _ in rows] == list(doc)[1:]
        named = set(re.findall(r"`(\w+)`", dict(rows)["runs"]))
        assert set(doc["runs"][0]) <= named

    def test_options_of_every_verb_are_documented(self):
        """docs/ci.md names every key that a check may have."""
        from routectl.jobs.ci import config as ci_config
        from routectl.jobs.options import groups_of, options_of

        page = (ROOT / "docs" / "ci.md").read_text("utf-8")
        for verb, kind in ci_config._VERBS.items():
            row = re.search(rf"^\| `{verb}` \|.*$", page, re.MULTILINE)
            groups = (kind, *(g for n, g in groups_of(kind).items() if n != "reading"))
            keys = {about.flag for g in groups for _, about in options_of(g)} - {
                *ci_config._ELSEWHERE
            }
            assert row is not None
            assert set(re.findall(r"`([\w-]+)`", row[0])) == keys | {verb}


class TestRuns:
    """Paths: relative to the config, globs, and names in braces."""

    @pytest.fixture(name="folder")
    def folder_(self, tmp_path):
        """Two steps on both sides."""
        for side in ("old", "new"):
            (tmp_path / side).mkdir()
            for step in (1, 2):
                shutil.copy(V0, tmp_path / side / f"step-{step}.npz")
            shutil.copy(TINY / "config.json", tmp_path / side)
        return tmp_path

    def test_paths_are_relative_to_the_config(self, capsys, folder, monkeypatch):
        """A check finds its files beside the config, wherever the command runs."""
        words = {"verb": "diff", "old": "old/step-1.npz", "new": "new/step-1.npz"}
        path = config(folder, one=words)
        monkeypatch.chdir(folder.parent)
        found = document(capsys, "ci", path.relative_to(folder.parent))["runs"][0]
        assert found["inputs"]["old"] == f"{folder.name}/old/step-1.npz"

    def test_candidates_are_relative_to_the_config(self, folder):
        """Of --candidates too; a reference that is the name of one is no path."""
        words = {"verb": "check", "dump": "old/{}.npz", "against": "v0"}
        words["candidates"] = ["v0=new/{}.npz", "v1=new/step-2.npz::start=0"]
        (check,) = read_checks(config(folder, one=words)).checks
        first, second = runs_of_check(check, folder)
        assert (first.request.against, first.key, second.key) == ("v0", "step-1", "step-2")
        assert first.request.candidates == (
            f"v0={folder}/new/step-1.npz",
            f"v1={folder}/new/step-2.npz::start=0",
        )
        words = {**words, "against": "new/step-1.npz"}
        (check,) = read_checks(config(folder, one=words)).checks
        (first, _) = runs_of_check(check, folder)
        assert first.request.against == f"{folder}/new/step-1.npz"

    def test_braces_pair_by_name(self, capsys, folder):
        """{} makes a run of each name, paired by it; one that is on one side alone is trouble."""
        path = config(folder, steps={"verb": "diff", "old": "old/{}.npz", "new": "new/{}.npz"})
        doc = document(capsys, "ci", path)
        assert [r["name"] for r in doc["runs"]] == ["steps[step-1]", "steps[step-2]"]
        assert [r["key"] for r in doc["runs"]] == ["step-1", "step-2"]
        for side, other in (("old", "new"), ("new", "old")):
            shutil.copy(V0, folder / side / "step-3.npz")
            last = document(capsys, "ci", path, code=2)["runs"][2]
            assert (last["name"], last["status"]) == ("steps[step-3]", "trouble")
            assert f"{other}/step-3.npz: cannot be read" in last["summary"]
            (folder / side / "step-3.npz").unlink()

    def test_braces_stand_for_a_part_of_a_name(self, capsys, folder):
        """{} beside other letters is what is between them, in a folder's name and in --at too."""
        words = {
            "verb": "staleness",
            "dump": "old/step-{}.npz",
            "at": ["a=new/step-{}.npz", f"b={V2}"],
            "version-map": "=a",
        }
        doc = document(capsys, "ci", config(folder, stale=words))
        assert [r["name"] for r in doc["runs"]] == ["stale[1]", "stale[2]"]
        assert doc["runs"][1]["inputs"]["at"][0] == f"a={folder}/new/step-2.npz"

    @pytest.mark.parametrize(
        ("pattern", "keys"),
        [
            ("dumps/{}/step_?.npz", ["a", "b[1]"]),
            ("dumps/{}/step_[12].npz", ["a", "b[1]"]),
            ("dumps/{}/step_[!2].npz", ["a", "b[1]"]),
            ("dumps/?/step_{}.npz", ["1", "2"]),
            ("dumps/[ab]/step_{}.npz", ["1", "2"]),
            ("dumps/b[1]/step_{}.npz", ["1", "2"]),
            ("dumps/{}/*.npz", ["a", "b[1]"]),
            ("**/step_{}.npz", ["1", "2"]),
            ("dumps/{}/step_*", ["a", "b[1]"]),
            ("{}s/a/{}*.npz", []),
            ("dumps/{}/step_[9].npz", []),
            ("dumps/{}[/step_1.npz", []),
        ],
    )
    def test_braces_beside_globs(self, tmp_path, pattern, keys):
        """What stands beside {} is a glob as the reader has it, in a folder of any name too."""
        from routectl.jobs.ci.config import read_checks
        from routectl.jobs.ci.runs import runs_of_check

        home = tmp_path / "run[1]"
        for folder in ("a", "b[1]"):
            (home / "dumps" / folder).mkdir(parents=True)
            for step in (1, 2):
                shutil.copy(V0, home / "dumps" / folder / f"step_{step}.npz")
        asked = read_checks(config(home, x={**EXACT, "old": pattern, "new": "dumps/a/step_1.npz"}))
        (check,) = asked.checks
        if not keys:
            with pytest.raises(RoutectlError, match="no file matches it"):
                runs_of_check(check, home)
            return
        found = runs_of_check(check, home)
        assert [one.key for one in found] == keys
        for one in found:
            for side in (one.request.old, one.request.new):
                assert len(open_dump(side, model=TINY / "config.json")) > 0

    def test_names_with_brackets_pair_with_themselves(self, capsys, tmp_path):
        """A name that looks like a glob is that name on both sides: it takes no other's file."""
        for side in ("old", "new"):
            (tmp_path / side).mkdir()
            shutil.copy(TINY / "config.json", tmp_path / side)
        shutil.copy(V0, tmp_path / "old" / "s[1].npz")
        shutil.copy(V0, tmp_path / "new" / "s1.npz")
        path = config(tmp_path, x={"verb": "diff", "old": "old/{}.npz", "new": "new/{}.npz"})
        doc = document(capsys, "ci", path, code=2)
        assert [r["key"] for r in doc["runs"]] == ["s1", "s[1]"]
        assert [r["status"] for r in doc["runs"]] == ["trouble"] * 2
        shutil.copy(V0, tmp_path / "new" / "s[1].npz")
        assert of(document(capsys, "ci", path, code=2), "x[s[1]]")["status"] == "passed"

    def test_a_glob_is_one_dump(self, capsys, tmp_path):
        """A glob is one dump of all its files, as on the command line."""
        lines = ENGINE.read_text("utf-8").splitlines(keepends=True)
        for n in (0, 1):
            (tmp_path / f"part-{n}.jsonl").write_text("".join(lines[n::2]), "utf-8")
        shutil.copy(TINY / "config.json", tmp_path)
        words = {"verb": "diff", "old": "part-*.jsonl", "new": str(V0)}
        doc = document(capsys, "ci", config(tmp_path, all=words), code=1)
        assert doc["runs"][0]["metrics"]["routectl/rows"] == 101_616

    @pytest.mark.parametrize("old", ["none/*.npz", "none/{}.npz", "none.npz"])
    def test_nothing_matched_is_trouble(self, capsys, tmp_path, old):
        """A glob, braces or a name that match nothing are one line of trouble."""
        path = config(tmp_path, none={**DIFF, "old": old}, same=EXACT)
        doc = document(capsys, "ci", path, code=2)
        assert [r["status"] for r in doc["runs"]] == ["trouble", "passed"]
        assert "none" in of(doc, "none")["summary"]


class TestRefused:
    """Configs that make no sense: one line, exit 2, and nothing is run."""

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "no check in it"),
            ("[checks]", "no check in it"),
            ("checks = 1", "no check in it"),
            ("[check.a]", "check is not known: did you mean checks?"),
            ("[checks]\na = 1", "checks.a: got an integer, expected a table"),
            ("[checks.a]", "checks.a: verb is not given: diff, check, staleness"),
            (toml({"a": {"old": "x", "new": "y"}}), "checks.a: verb is not given: diff, check"),
            ("[checks.a]\nverb = 'dif'", "checks.a: verb 'dif' is not known: did you mean diff?"),
            ("[checks.a]\nverb = ['diff']", "verb ['diff'] is not known"),
            (toml({"a": {"verb": "diff", "old": "x"}}), "checks.a: new is not given"),
            (toml({"a": {"verb": "check"}}), "checks.a: dump is not given"),
            (toml({"a": {"verb": "staleness", "dump": "x"}}), "checks.a: at is not given"),
            (
                toml({"a": {**DIFF, "fail-ovr": "x"}}),
                "checks.a: fail-ovr is not known: did you mean fail-over?",
            ),
            (toml({"a": {**DIFF, "series": "x"}}), "series is not known"),
            (
                toml({"a": {**DIFF, "step": 3}}),
                "checks.a: step is now: routectl report RESULT.json --tensorboard DIR --step N",
            ),
            (toml({"a": {**CHECK, "save": "x.parquet"}}), "save is not known"),
            (toml({"a": {**DIFF, "fail-over": 3}}), "fail-over: Expected `array`, got `int`"),
            (
                toml({"a": {**DIFF, "fail-over": [3]}}),
                "fail-over: Expected `str`, got `int` - at `$[0]`",
            ),
            (toml({"a": {**DIFF, "fail-over": "nonsense:1"}}), "metric 'nonsense' is not known"),
            (toml({"a": {**DIFF, "fail-under": "k1:+1"}}), "a lower limit is relative as -N"),
            (toml({"a": {**DIFF, "examples": True}}), "examples: Expected `int`, got `bool`"),
            (toml({"a": {**DIFF, "eps": -1}}), "checks.a: --eps -1.0: expected at least 0"),
            (toml({"a": {**DIFF, "old": ""}}), "old: got an empty string, expected a string"),
            (toml({"a": {**DIFF, "tokens": "some"}}), "--tokens 'some' is not known"),
            (toml({"a": {**DIFF, "model": "6,9,4"}}), "LAYERS,K,E: got K 9, expected 1 to 4"),
            (toml({"a": {**CHECK, "ep": 0}}), "checks.a: --ep 0: expected at least 1"),
            (toml({"a": {**CHECK, "fail-on": "all"}}), "--fail-on 'all' is not known"),
            (toml({"a[1]": CHECK}), "a name is printable"),
            ("baseline = 1\n" + toml({"a": CHECK}), "baseline: got an integer, expected a path"),
            (
                toml({"a": {"verb": "diff", "eps": "x", "odd": 1}, "b": {}, "c": CHECK}),
                "checks.a: old is not given; checks.a: new is not given; checks.a: eps: Expected "
                "`float | null`, got `str`; checks.a: odd is not known: ",
            ),
            (toml({n: {} for n in "abcdefg"}), "checks.e: verb is not given: diff, check, stal"),
            (toml({n: {} for n in "abcdefg"}), "; and 2 more"),
            (
                toml({"a": {"vreb": "diff", "old": "x", "neww": "y", "fail-over": "mismach:1%"}}),
                "ci.toml: checks.a: vreb is not known: did you mean verb?; checks.a: new is not "
                "given; checks.a: neww is not known: did you mean new?; checks.a: metric 'mismach' "
                "is not known: did you mean mismatch? (known: mismatch, overlap, ",
            ),
            (
                toml({"a": {"verb": "dif", "old": "x", "xyz": 1, "neww": "y", "step": 3}}),
                "checks.a: verb 'dif' is not known: did you mean diff?; checks.a: xyz is not "
                "known; checks.a: neww is not known: did you mean new?\n",
            ),
            (toml({"a": {**DIFF, "old": "x\0y"}}), "checks.a: old: got a string with a NUL in it"),
            ('baseline = "x\\u0000"\n' + toml({"a": CHECK}), "baseline: got a string"),
            (toml({"a": DIFF}) + "eps = nan", "checks.a: --eps nan: expected at least 0"),
            (toml({"a": DIFF}) + "eps = inf", "checks.a: --eps inf: expected a finite"),
            (toml({"a": {**CHECK, "verb": "check"}}) + "eps = 1e400", "--eps inf: expected a fin"),
            (toml({"a": {**DIFF, "fail-over": "k3:1e400"}}), "'1e400' is not a number"),
            (toml({"a": {**DIFF, "fail-over": "mismatch:NaN%"}}), "'NaN' is not a number"),
            (toml({"a": {**DIFF, "fail-over": "mismatch:1%%"}}), "expected METRIC[@LAYER]:N[%]"),
            (toml({"a": {**DIFF, "fail-over": "mismatch:-1%"}}), "a rate: got -0.01"),
            (toml({"a": {**DIFF, "fail-under": "coverage:101%"}}), "a rate: got 1.01"),
            ("a." * 100_000 + "b = 1", "not TOML: keys of too many parts"),
            ("checks = " + "[" * 100_000, "not TOML"),
            ("x = " + "9" * 100_000, "not TOML"),
            ("[checks.a]\nverb = 'diff", "not TOML"),
            ("[checks.a]\n[checks.a]", "not TOML"),
        ],
    )
    def test_config(self, capsys, tmp_path, text, why):
        """The line names the file, the check and the key."""
        path = tmp_path / "ci.toml"
        path.write_text(text, "utf-8")
        said = complaint(capsys, "ci", path)
        assert f"{path}: " in said
        assert why in said
        assert written(tmp_path) == ["ci.toml"]

    def test_bytes_and_no_file(self, capsys, tmp_path, monkeypatch):
        """A file that is not UTF-8, and one that is not there, are told apart; where none is
        named, that one may be is the hint.
        """
        path = tmp_path / "ci.toml"
        assert complaint(capsys, "ci", path).endswith("cannot be read: No such file or directory\n")
        monkeypatch.chdir(tmp_path)
        assert "hint: routectl ci CONFIG.toml reads another file" in complaint(capsys, "ci")
        path.write_bytes(b"\xff\xfe")
        assert "not TOML" in complaint(capsys, "ci", path)

    def test_flags(self, capsys, tmp_path):
        """A check that is not there, a file that is, and a step of nothing are refused first."""
        path = config(tmp_path, gone={**DIFF, "old": "gone"})
        assert "--only 'other' is not known: gone" in complaint(
            capsys, "ci", path, "--only", "other"
        )
        taken = tmp_path / "taken.json"
        taken.write_text("", "utf-8")
        for flag in ("--junit", "--html", "-o"):
            assert "already exists" in complaint(capsys, "ci", path, flag, taken)
        assert "--junit -: expected a file" in complaint(capsys, "ci", path, "--junit", "-")

    def test_standard_input(self, capsys, tmp_path):
        """A check reads no standard input."""
        doc = document(capsys, "ci", config(tmp_path, a={**DIFF, "old": "-"}), code=2)
        assert "standard input" in doc["runs"][0]["summary"]


class TestBaseline:
    """Accepted numbers, and thresholds relative to them."""

    def accept(self, capsys, folder, **checks):
        """A config whose numbers are accepted; what the baseline holds."""
        path = config(folder, **checks)
        run(capsys, "ci", path, "--update-baseline")
        return path, json.loads((folder / "ci.baseline.json").read_text("utf-8"))["checks"]

    def test_no_baseline_is_trouble(self, capsys, tmp_path):
        """A relative threshold without a baseline is trouble, and says what to run."""
        path = config(tmp_path, a={**DIFF, "fail-over": "mismatch:+2%"}, b=EXACT)
        doc = document(capsys, "ci", path, code=2)
        assert doc["baseline"] is None
        assert of(doc, "a")["details"] == [
            "hint: the same with --update-baseline stores what is measured now"
        ]
        assert of(doc, "b")["status"] == "passed"
        assert written(tmp_path) == ["ci.toml"]

    @pytest.mark.parametrize(
        ("limit", "over"),
        [("+0%", True), ("+6.58%", True), ("+6.59%", False), ("+0.0658", True), ("+0.0659", False)],
    )
    def test_points_over_the_accepted_rate(self, capsys, tmp_path, limit, over):
        """+N% is N percentage points: from 2,055 of 101,616 rows to 8,749 is +6.588 points."""
        words = {**DIFF, "fail-over": f"mismatch:{limit}"}
        path, kept = self.accept(capsys, tmp_path, a=words)
        assert kept["a"]["routectl/mismatch"] == 2055 / 101_616
        assert run(capsys, "ci", path).code == 0
        config(tmp_path, a={**words, "new": str(V1)})
        doc = document(capsys, "ci", path, code=int(over))
        if over:
            (failed,) = doc["runs"][0]["failed"]
            points = float(limit.strip("%")) / (100 if "%" in limit else 1)
            assert failed["limit"] == 2055 / 101_616 + points
            assert (failed["threshold"], failed["metric"]) == (f"mismatch:{limit}", "mismatch")

    @pytest.mark.slow
    def test_each_layer_and_lag_has_its_own(self, capsys, tmp_path):
        """@* holds each layer, and staleness each lag, against its own number."""
        words = {
            "a": {**DIFF, "fail-over": ["mismatch@*:+0%"]},
            "b": {
                **STALE,
                "fail-over": ["staleness:+0%", "staleness@lag1@*:+0%", "total_f2:+1%"],
                "at": AT[:2],
            },
        }
        path, kept = self.accept(capsys, tmp_path, **words)
        layers = {f"routectl/mismatch/layer_00{n}" for n in range(6)}
        assert {name for name in kept["a"] if "/layer_" in name} == layers
        assert {name for name in kept["b"] if "/layer_" in name} == {
            name.replace("mismatch", "staleness/lag_1") for name in layers
        }
        assert run(capsys, "ci", path).code == 0
        lower = {name: value - 0.001 if "5" in name else value for name, value in kept["a"].items()}
        stale = {**kept["b"], "routectl/staleness/lag_1": 0.01}
        text = {"schema": "routectl.baseline/1", "checks": {"a": lower, "b": stale}}
        (tmp_path / "ci.baseline.json").write_text(json.dumps(text), "utf-8")
        doc = document(capsys, "ci", path, code=1)
        assert [f["layer"] for f in of(doc, "a")["failed"]] == [5]
        (failed,) = of(doc, "b")["failed"]
        assert (failed["metric"], failed["limit"]) == ("staleness@lag1", 0.01)

    def test_lower_limits_and_other_figures(self, capsys, tmp_path):
        """A lower limit goes down by points; a count goes up by its own unit."""
        words = {**DIFF, "fail-under": "overlap:-1%", "fail-over": "rows_mismatched:+6693"}
        path, _ = self.accept(capsys, tmp_path, a=words)
        assert run(capsys, "ci", path).code == 0
        config(tmp_path, a={**words, "new": str(V1)})
        failed = document(capsys, "ci", path, code=1)["runs"][0]["failed"]
        assert [f["metric"] for f in failed] == ["rows_mismatched", "overlap"]
        assert failed[0]["limit"] == 2055 + 6693

    def test_what_is_relative(self):
        """A sign makes a limit relative: + of an upper one, - of a lower one where it is a rate;
        k1 may be below 0, so that there - is a number. Staleness keeps its lag.
        """
        from routectl.ops.diff.thresholds import parse_threshold
        from routectl.ops.staleness.thresholds import parse_staleness_threshold

        def read(text, over=True):
            limit = parse_threshold(text, over=over)
            return limit.relative_to, limit.limit

        assert read("mismatch:2%") == (None, 0.02)
        assert read("mismatch:+2%") == ("mismatch", 0.02)
        assert read("mismatch:+0.02") == ("mismatch", 0.02)
        assert read("mismatch: +2%") == ("mismatch", 0.02)
        assert read("overlap:-2%", over=False) == ("overlap", -0.02)
        assert read("k1:-0.5") == read("k1:-0.5", over=False) == (None, -0.5)
        assert read("k1:+0.5") == ("k1", 0.5)
        lag = parse_staleness_threshold("staleness@lag2@3:+1%")
        assert (lag.relative_to, lag.metric, lag.layer) == ("staleness@lag2", "staleness@lag2", 3)
        for text, over in (
            ("mismatch:+2", True),
            ("mismatch:+200%", True),
            ("mismatch:-2%", True),
            ("overlap:+2%", False),
            ("mismatch:++2%", True),
        ):
            with pytest.raises(RoutectlError):
                parse_threshold(text, over=over)

    def test_update_holds_other_thresholds(self, capsys, tmp_path):
        """--update-baseline accepts what is relative, and holds what is not; it is stored."""
        words = {**DIFF, "fail-over": ["mismatch:+0%"]}
        path = config(
            tmp_path, a=words, b={**words, "fail-over": ["mismatch:1%"]}, c={**words, "new": "gone"}
        )
        doc = document(capsys, "ci", path, "--update-baseline", code=2)
        assert [r["status"] for r in doc["runs"]] == ["passed", "failed", "trouble"]
        first = (tmp_path / "ci.baseline.json").read_text("utf-8")
        assert list(json.loads(first)["checks"]) == ["a", "b"]
        assert first == json.dumps(json.loads(first), indent=1, sort_keys=True) + "\n"
        run(capsys, "ci", path, "--update-baseline")
        assert (tmp_path / "ci.baseline.json").read_text("utf-8") == first
        config(tmp_path, a={**words, "new": "gone"}, d=EXACT)
        run(capsys, "ci", path, "--update-baseline")
        kept = json.loads((tmp_path / "ci.baseline.json").read_text("utf-8"))["checks"]
        assert list(kept) == ["a", "d"]
        assert kept["a"] == json.loads(first)["checks"]["a"]

    def test_written_whole_or_not_at_all(self, capsys, tmp_path, monkeypatch):
        """A baseline that cannot be written is exit 2, and leaves the old one as it was."""
        path, _ = self.accept(capsys, tmp_path, a=DIFF)
        before = (tmp_path / "ci.baseline.json").read_bytes()

        def full(*_):
            raise OSError(28, "No space left on device")

        config(tmp_path, a=EXACT)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            assert "No space left" in complaint(capsys, "ci", path, "--update-baseline")
        assert (tmp_path / "ci.baseline.json").read_bytes() == before
        assert written(tmp_path) == ["ci.baseline.json", "ci.toml"]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{}",
            '{"schema": "routectl.baseline/1", "checks": []}',
            '{"schema": "routectl.baseline/1", "checks": {"a": {"x": "1"}}}',
            '{"schema": "routectl.baseline/1", "checks": {"a": {"x": NaN}}}',
        ],
    )
    def test_damaged(self, capsys, tmp_path, text):
        """A baseline that is none is trouble of the checks that need it, and is not replaced."""
        path = config(tmp_path, a={**DIFF, "fail-over": "mismatch:+2%"}, b=EXACT)
        (tmp_path / "ci.baseline.json").write_text(text, "utf-8")
        doc = document(capsys, "ci", path, code=2)
        assert of(doc, "a")["status"] == "trouble"
        assert "ci.baseline.json: " in of(doc, "a")["summary"]
        assert of(doc, "b")["status"] == "passed"
        assert "ci.baseline.json: " in complaint(capsys, "ci", path, "--update-baseline")
        assert (tmp_path / "ci.baseline.json").read_text("utf-8") == text

    def test_commands_have_none(self, capsys):
        """diff and staleness refuse a relative threshold: there is nothing to hold it against."""
        said = complaint(capsys, "diff", ENGINE, V0, "--fail-over", "mismatch:+2%")
        assert "relative to a baseline, and there is none" in said
        flags = [f"--at={one}" for one in AT]
        said = complaint(capsys, "staleness", ENGINE, *flags, "--fail-over", "total:+2%")
        assert "routectl ci keeps one" in said


def test_metrics_of_thresholds_have_scalars(capsys):
    """Every figure that diff can be gated by is a scalar of that name, with the value that the gate
    holds, per layer too.
    """
    import routectl
    from routectl.errors import MismatchError
    from routectl.ops.diff.thresholds import Baseline, judge, parse_threshold, scalar_name

    result = routectl.diff(routectl.open_dump(V0), routectl.open_dump(V1))
    scalars = routectl.metrics(result)
    for metric in METRICS:
        for layer in (None, "@*"):
            if layer and metric.of_measures is None:
                continue
            limit = parse_threshold(f"{metric.name}{layer or ''}:+0", over=True)
            under = {name: value - 1 for name, value in scalars.items()}
            try:
                failed = judge(result, [limit], baseline=Baseline(under)).failed
            except MismatchError:
                assert scalar_name(metric.name) not in scalars
                continue
            assert len(failed) == (6 if layer else 1)
            for one in failed:
                assert scalars[scalar_name(metric.name, one.layer)] == one.value
