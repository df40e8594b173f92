"""Commands that feed each other: whatever one of them wrote, no other ends in a bug of routectl."""

import itertools

import pytest

from routectl.cli.main import main
from support.chains import families, made_of

SOME = ("native", "npz", "jsonl")
OTHERS = {
    "deepseek": ("native", "jsonl-sglang", "verl", "slime"),
    "inplace": ("native", "safetensors", "skyrl", "prime-rl"),
    "odd": ("native", "nemo-rl", "miles", "art"),
}
WATCH = ("--once", "--settle", "0", "--interval", "0.01", "--give-up", "0")


def told(capsys, *args):
    """What a command line says that ends in neither an answer nor a line; None where it does."""
    capsys.readouterr()
    line = [str(arg) for arg in args]
    code = main(line)
    said = capsys.readouterr().err
    wrong = code not in (0, 1, 2) or "bug in routectl" in said or "Traceback" in said
    if code == 2 and "routectl: " not in said and line[0] not in ("ci", "watch"):
        wrong = True
    return f"{' '.join(line)}: exit {code}\n{said}" if wrong else None


def alone(one, folder):
    """Every command on one file."""
    path, out = one.path, folder / "out"
    model = [str(word) for word in one.model]
    yield "show", path, *model, "--html", folder / "s.html", "--force"
    yield "check", path, *model
    yield "convert", path, "--save", folder / "c.parquet", *model, "--force"
    yield "convert", path, "--save", folder / "c.npz", *model, "--lossy", "--force"
    yield "pack", path, *model, "--framework", "megatron", "--save", out, "--force"
    yield "layout", path, *model, "--framework", "verl", "--cp", "2"
    yield "layout", "--lens", "3,4", "--layout", path
    yield "unpack", path, "--save", folder / "u.parquet", "--force"
    yield "report", path
    yield "report", path, "-o", folder / "r.html", "--force"
    yield "predict", "fit", path, "--at", f"a={path}", "--save", folder / "p.safetensors", "--force"
    yield "ci", path
    yield "recompute", path, path, "--save", folder / "x.parquet", "--force"
    yield "staleness", "--series", path
    if path.is_dir():
        yield "watch", path, *model, *WATCH


def together(one, other, folder):
    """Every command on two files."""
    model = [str(word) for word in one.model or other.model]
    a, b = one.path, other.path
    page = ("--html", folder / "d.html", "--force")
    yield "diff", a, b, *model, *page
    yield "diff", a, b, *model, "--match", "order", "--tokens", "response", "--rerun", b
    yield "check", a, "--against", b, *model
    yield "staleness", a, f"--at=v0={b}", f"--at=v1={a}", "--version-map", "=v0", *model
    yield "verify", b, "--against", a, *model, "--layout", "framework=slime"
    yield (
        "convert",
        a,
        "--save",
        folder / "x.parquet",
        "--codec",
        "delta",
        "--base",
        b,
        *model,
        "--force",
    )


def failures(capsys, folder, singles, pairs):
    """What ends in a bug, of every command on each file and on each pair."""
    lines = itertools.chain(
        *(alone(one, folder) for one in singles), *(together(*pair, folder) for pair in pairs)
    )
    return [found for line in lines if (found := told(capsys, *line)) is not None]


def test_dumps_of_every_family(capsys, tmp_path):
    """Every command takes, or refuses in a line, each family."""
    found = list(families(tmp_path).values())
    assert failures(capsys, tmp_path, found, []) == []


@pytest.mark.slow
def test_pairs_of_every_family(capsys, tmp_path):
    """Every command takes, or refuses in a line, each family with itself, and pairs of a model."""
    found = list(families(tmp_path).values())
    pairs = [(a, b) for a, b in itertools.combinations(found, 2) if a.what[:4] == b.what[:4]]
    pairs += [(one, one) for one in found]
    assert failures(capsys, tmp_path, [], pairs) == []


def test_two_versions_of_a_group_limited_model(capsys, tmp_path):
    """A dump without the last row, of two versions, against recomputes with all rows: group margins
    of rows that are set apart go with them.
    """
    found = families(tmp_path)
    engine, first, second = (found[f"grouped.{name}"].path for name in ("engine", "v0", "v1"))
    line = ("staleness", engine, f"--at=v0={first}", f"--at=v1={second}")
    assert told(capsys, *line) is None
    assert main([str(word) for word in (*line, "--tokens", "response")]) == 0


def test_what_is_made_of_a_group_limited_dump(capsys, tmp_path):
    """Every command on what the others made of one dump, and that with the dump itself."""
    base = families(tmp_path)["grouped.engine"]
    made = list(made_of(base, tmp_path, SOME, capsys).values())
    assert failures(capsys, tmp_path, made, [(base, one) for one in made]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_made_of_each_family(capsys, tmp_path, name):
    """Every command on what the others made of a family, trainers' files too, alone and with the
    dump; and with a dump of another model.
    """
    found = families(tmp_path)
    base, stranger = found[name], found["grouped.engine"]
    made = list(made_of(base, tmp_path, OTHERS[name], capsys).values())
    pairs = [pair for one in made for pair in ((base, one), (one, stranger))]
    assert failures(capsys, tmp_path, made, pairs) == []
