"""Python in README and docs: blocks are run, or at the least read, and name what is there."""

import ast
import doctest
import importlib.util
import re
from pathlib import Path

import pytest

import routectl
from support.tiny_rl import ENGINE, TINY

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FILES = {
    "rollout.parquet": ENGINE,
    "v0.parquet": TINY / "routes_v0.margins.parquet",
    "v1.parquet": TINY / "transformers_v1.fp32.npz",
    "trainer.npz": TINY / "routes_v0.fp32.npz",
}


def blocks_of(path, language):
    """The code blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text("utf-8"), re.DOTALL)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the files that examples name, of twelve samples each, to work in."""
    monkeypatch.chdir(tmp_path)
    for name, source in FILES.items():
        routectl.write(routectl.open_dump(source).select(samples=range(12)), name)
    return tmp_path


def is_installed(block):
    """Whether the libraries that a block imports are there; ours always is."""
    names = re.findall(r"^>>> import (\w+)$", block, re.MULTILINE)
    return all(importlib.util.find_spec(name) for name in names)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks_of(p, "pycon")], ids=lambda p: p.name)
def test_sessions_are_true(workplace, page):
    """What a page shows of a session is what comes, line by line."""
    text = "\n".join(filter(is_installed, blocks_of(page, "pycon")))
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    said = []
    done = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not done.failed, "".join(said)
    assert done.attempted >= 12


def test_the_program_of_the_readme_runs(workplace, capsys):
    """README's program runs as it stands, and writes the folder that it says."""
    (program,) = blocks_of(ROOT / "README.md", "python")
    exec(compile(program, "README.md", "exec"), {})
    assert "rows mismatched" in capsys.readouterr().out
    assert (workplace / "replay" / "manifest.json").is_file()


def test_programs_name_what_is_there():
    """Every Python block of README and docs is Python, and each ``routectl.name`` is public."""
    seen = 0
    for page in PAGES:
        for block in blocks_of(page, "python"):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "routectl":
                    assert node.attr in routectl.__all__, f"{page.name}: routectl.{node.attr}"
                    seen += 1
    assert seen >= 15
