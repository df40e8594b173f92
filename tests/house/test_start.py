"""What is loaded at start, and what ``import routectl`` promises."""

import subprocess
import sys

import pytest

import routectl

HEAVY = ["numpy", "numba", "torch", "pyarrow", "rich", "safetensors", "transformers", "wandb"]


def said(code):
    """What a program of its own prints on stderr."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stderr.strip()


@pytest.mark.parametrize(
    "code", ["import routectl", "from routectl.cli.main import main; main([])"]
)
def test_nothing_heavy_is_loaded_at_start(code):
    """``import routectl`` and ``routectl --help`` load no heavy library."""
    check = f"{code}\nimport sys\nprint([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    assert said(check) == "[]"


def test_help_loads_no_command():
    """``routectl --help`` loads the room of no command, and each is there under its name."""
    code = (
        "import sys\n"
        "from routectl.cli.words.commands import COMMANDS, functions_of\n"
        "from routectl.cli.main import main\n"
        "main(['--help'])\n"
        "print([n for n in COMMANDS if f'routectl.cli.{n}' in sys.modules], file=sys.stderr)\n"
        "print(all(map(callable, (f for n in COMMANDS for f in functions_of(n).values()))), "
        "file=sys.stderr)"
    )
    assert said(code).split() == ["[]", "True"]


def test_windows_is_refused_in_one_sentence():
    """On Windows the import says where routectl runs, before it meets what Windows has not."""
    code = (
        "import sys\n"
        "sys.platform = 'win32'\n"
        "try:\n"
        "    import routectl\n"
        "except ImportError as error:\n"
        "    print(error, file=sys.stderr)"
    )
    assert said(code) == "routectl runs on Linux and macOS; on Windows in WSL, which is a Linux"


def test_public_names_resolve():
    """Every name in routectl.__all__ can be fetched, and an unknown one is an AttributeError."""
    for name in routectl.__all__:
        assert getattr(routectl, name) is not None
    assert set(routectl.__all__) <= set(dir(routectl))
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = routectl.nothing_here
