"""Two reports side by side: figures of both by hand, the layers that part, what is refused."""

import json

import pytest

from routectl.reports.document import to_json
from routectl.reports.recompute.document import RecomputedFrom, recompute_document
from routectl.reports.text.wording import amount, percent
from support.pages import NEW, OLD, Parsed
from support.recordings import FIXTURES
from support.shell import complaint, document, run

GOLDEN, TINY = FIXTURES / "golden", FIXTURES / "tiny_rl"
V2 = TINY / "routes_v2.fp32.npz"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Saved reports: a diff, one of two steps later, summaries of both sides, a check."""
    from routectl.cli.main import main

    folder = tmp_path_factory.mktemp("saved")
    lines = {
        "near": ("diff", OLD, NEW),
        "far": ("diff", OLD, V2),
        "old": ("show", OLD),
        "new": ("show", V2),
        "check": ("check", OLD),
        "check2": ("check", V2, "--against", OLD),
    }
    for name, line in lines.items():
        main([*map(str, line), "-o", str(folder / f"{name}.json")])
    return folder


def saved(made, name):
    """A saved report."""
    return json.loads((made / f"{name}.json").read_text("utf-8"))


def test_figures_are_those_of_both_reports(made, capsys):
    """Each figure has the number of A and of B, and what B has more."""
    a, b = saved(made, "near"), saved(made, "far")
    doc = document(capsys, "report", made / "near.json", made / "far.json")
    assert (doc["of"], doc["a"]["path"]) == ("routectl.diff/1", str(made / "near.json"))
    figures = {f["name"]: f for f in doc["figures"]}
    for name, key in (("mismatch", "mismatch_rate"), ("overlap", "overlap_rate"), ("rows", "rows")):
        assert figures[name]["a"] == a[key]
        assert figures[name]["b"] == b[key]
        assert figures[name]["difference"] == b[key] - a[key]
    assert figures["clear"]["a"] == a["margins"]["clear_rate"]
    assert (figures["clear"]["b"], figures["clear"]["difference"]) == (None, None)
    assert doc["figures_differing"] == sum(f["a"] != f["b"] for f in doc["figures"])
    assert [f["name"] for f in doc["figures"] if f["rate"]][:2] == ["mismatch", "overlap"]
    assert not figures["rows"]["rate"]


def test_the_worst_layers_come_first(made, capsys):
    """By layer, the layers are in the order of how far the reports part in them."""
    a, b = saved(made, "near"), saved(made, "far")
    doc = document(capsys, "report", made / "near.json", made / "far.json")
    told = next(f for f in doc["layer_figures"] if f["name"] == "mismatch")
    parts = [
        y["mismatch_rate"] - x["mismatch_rate"]
        for x, y in zip(a["layers"], b["layers"], strict=True)
    ]
    assert [p["difference"] for p in told["layers"]] == parts
    assert told["worst"] == sorted(range(6), key=lambda n: -abs(parts[n]))


def test_the_text_says_what_parts(made, capsys):
    """The verdict first, both reports, then figures with their units, then layers."""
    out = run(capsys, "report", made / "near.json", made / "far.json").out
    lines = out.splitlines()
    a, b = saved(made, "near"), saved(made, "far")
    assert lines[0].startswith("APART  ")
    assert lines[1].split()[:2] == ["A", str(made / "near.json")]
    told = next(line.split() for line in lines if line.startswith("mismatch"))
    rates = [rate for d in (a, b) for rate in percent(d["mismatch_rate"]).split()]
    assert told[1:5] == rates
    points = 100 * (b["mismatch_rate"] - a["mismatch_rate"])
    assert told[5:] == [f"{points:+.2f}", "points"]
    assert any(line.startswith("layer 5") for line in lines)


def test_a_report_is_like_itself(capsys):
    """A report beside itself has no figure that differs, and no layer."""
    doc = document(capsys, "report", GOLDEN / "diff.json", GOLDEN / "diff.json")
    assert doc["figures_differing"] == 0
    assert all(f["worst"] == [] for f in doc["layer_figures"])
    assert run(capsys, "report", *[GOLDEN / "diff.json"] * 2).out.startswith("ALIKE  0 of ")


@pytest.mark.parametrize(
    ("a", "b", "figure", "value"),
    [
        ("old", "new", "rows", lambda d: d["rows"]),
        ("check", "check2", "findings/notes", lambda d: d["counts"]["notes"]),
    ],
)
def test_other_kinds(made, capsys, tmp_path, a, b, figure, value):
    """Summaries and checks are laid side by side too, and have a page, which reads again."""
    target = tmp_path / "both.json"
    done = run(capsys, "report", made / f"{a}.json", made / f"{b}.json", "-o", target)
    assert done.code == 0, done.err
    doc = json.loads(target.read_text("utf-8"))
    told = next(f for f in doc["figures"] if f["name"] == figure)
    assert [told["a"], told["b"]] == [value(saved(made, name)) for name in (a, b)]
    page = tmp_path / "page.html"
    assert run(capsys, "report", target, "--html", page).code == 0
    parsed = Parsed(page.read_text("utf-8"))
    assert parsed.data == doc
    assert amount(int(told["b"])) in parsed.text


@pytest.mark.parametrize("name", ["checkpoint", "series", "staleness"])
def test_goldens_beside_themselves(capsys, name):
    """Every kind of report that is kept as a golden file can be laid beside itself."""
    doc = document(capsys, "report", *[GOLDEN / f"{name}.json"] * 2)
    assert doc["figures"]
    assert doc["figures_differing"] == 0


def test_recomputes_by_mode(made, capsys, tmp_path):
    """Of two recomputes each mode's comparison is laid beside the other's."""
    for name in ("near", "far"):
        diff = {k: v for k, v in saved(made, name).items() if k not in ("detail", "asked")}
        about = RecomputedFrom("weights", {}, diff["old"], ())
        found = recompute_document(about, {"free": diff})
        (tmp_path / f"{name}.json").write_text(to_json(found))
    doc = document(capsys, "report", tmp_path / "near.json", tmp_path / "far.json")
    told = next(f for f in doc["figures"] if f["name"] == "free/mismatch")
    rates = [saved(made, name)["mismatch_rate"] for name in ("near", "far")]
    assert [told["a"], told["b"], told["rate"]] == [*rates, True]
    assert "free/mismatch" in {f["name"] for f in doc["layer_figures"] if f["worst"]}


def test_what_cannot_be_compared_is_refused(made, capsys):
    """Other kinds, other models and three reports are errors of one line."""
    near, old = made / "near.json", made / "old.json"
    told = complaint(capsys, "report", near, old)
    assert f"{near} is of routectl.diff/1, {old} of routectl.show/1" in told
    told = complaint(capsys, "report", GOLDEN / "show.json", old)
    assert "2 MoE layers, top-2 of 4" not in told
    assert "6 MoE layers, top-4 of 32" in told
    assert "got 3 RESULTs" in complaint(capsys, "report", near, near, near)
