"""The one boundary: argv in, an exit code out: 0 same, 1 differs, 2 trouble (never 1)."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import Abort, TyperException

from ..errors import RoutectlError
from ..limits import parse_limits, raised_limits
from ..visible import visible
from .logs import show_logs
from .signals import ended_by_signals
from .terminal import say

__all__ = ["app", "main", "script"]

TROUBLE = 2
_BUG = "this is a bug in routectl; please report it with the lines above"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_COMMANDS = {  # of each the room of its name has the function
    "show": "What a dump or a checkpoint holds: format, layers, sizes.",
    "diff": "Where two dumps of the same tokens differ.",
    "check": "Which bug is in a dump, where, and what to do.",
    "convert": "Write a dump as native Parquet, or as trainers read it.",
    "recompute": "What a checkpoint's routers select for a dump's tokens.",
    "staleness": "Mismatch, of engine and numerics, told from old weights.",
    "predict": "Routes of later weights, predicted (PR2), judged, written.",
    "pack": "Write the replay tensors of packed sequences, for every rank.",
    "unpack": "Write the dump that replay tensors were packed from.",
    "report": "Show a saved report again: as text, or as an HTML page.",
    "ci": "Run the checks of a config, with one exit code.",
    "capture": "Ask a running SGLang or vLLM server for rollouts with routes.",
    "watch": "Follow a training run's dump folder, check each new dump.",
}


class _Commands(TyperGroup):
    """The commands, each imported when it is asked for: --help needs their names alone."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands = dict.fromkeys(_COMMANDS, TyperCommand("later"))  # names to suggest

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; None for another word."""
        if cmd_name not in _COMMANDS:
            return None
        room = import_module(f".{cmd_name}", __package__)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(cmd_name)(getattr(room, f"{cmd_name}_command"))
        return typer.main.get_command(alone)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of them in --help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Compare and convert the expert routes of mixture-of-experts models in RL.",
)


def _version(asked: bool) -> None:
    if asked:
        from ..version import __version__

        print(f"routectl {__version__}")
        raise typer.Exit(0)


_LIMIT = "Let a file ask for more work: cell=1GB, ratio=1000. docs/formats.md has the names."


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
    limit: Annotated[
        list[str] | None, typer.Option("--limit", metavar="NAME=SIZE", help=_LIMIT)
    ] = None,
) -> None:
    pass


def _without_limits(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without each --limit that stands before ``--``, and what these say."""
    left: list[str] = []
    said: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            left += [word, *words]
        elif word == "--limit":
            said.append(next(words, ""))
        elif word.startswith("--limit="):
            said.append(word.partition("=")[2])
        else:
            left.append(word)
    return left, said


def _complain(message: str, hint: str | None = None) -> int:
    say("routectl", message)
    if hint:
        say("hint", hint)
    return TROUBLE


def main(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error becomes one line on stderr."""
    try:
        if any("\0" in word for word in argv):
            return _complain("a NUL in an argument: no file and no option has one")
        words, given = _without_limits(argv)
        with raised_limits(**parse_limits(given)):
            code = int(app(words or ["--help"], prog_name="routectl", standalone_mode=False) or 0)
        return code if words else TROUBLE
    except RoutectlError as error:
        return _complain(str(error), error.hint)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "routectl"
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        return _complain(message, f"{path} --help")
    except (Abort, KeyboardInterrupt):
        return 130
    except MemoryError:
        return _complain("out of memory")
    except OSError as error:
        if error.filename is None and error.errno in _FULL:  # every other writer says where
            return _unwritten(error)
        name = "" if error.filename is None else f"{error.filename}: "
        return _complain(f"{name}{error.strerror or error}")
    except Exception:  # noqa: BLE001 - the one boundary
        for line in traceback.format_exc().split("\n")[:-1]:
            print(visible(line, end=1000), file=sys.stderr)
        return _complain(_BUG)


def script() -> None:
    """The console script. Signals end it when it has cleaned up: 130, 143, 129.

    A closed pipe ends it quietly (141), as it ends any Unix tool.
    """
    show_logs()
    code = TROUBLE
    with ended_by_signals() as ended:
        code = _flushed(main(sys.argv[1:]))
    sys.exit(ended.code(code))


def _flushed(code: int) -> int:
    """The exit code, when all of stdout is written: 2 where it cannot be."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left is not tried again at exit
        return code if code == TROUBLE else _unwritten(error)
    return code


def _unwritten(error: OSError) -> int:
    return _complain(f"stdout: cannot be written: {error.strerror}")
