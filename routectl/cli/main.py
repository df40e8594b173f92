"""The one boundary: argv in, an exit code out: 0 same, 1 differs, 2 trouble (never 1)."""

import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import Abort, TyperException

from ..errors import RoutectlError

__all__ = ["app", "main", "script"]

TROUBLE = 2

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


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def _complain(message: str, hint: str | None = None) -> int:
    print(f"routectl: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return TROUBLE


def main(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error becomes one line on stderr."""
    try:
        if any("\0" in word for word in argv):
            return _complain("a NUL in an argument: no file and no option has one")
        code = int(app(list(argv) or ["--help"], prog_name="routectl", standalone_mode=False) or 0)
        return code if argv else TROUBLE
    except RoutectlError as error:
        return _complain(str(error), error.hint)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "routectl"
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        return _complain(message.replace("\n", " "), f"{path} --help")
    except (Abort, KeyboardInterrupt):
        return 130
    except OSError as error:  # a folder without access, a file that is gone, a name too long
        return _complain(f"{error.filename or 'a file'}: {error.strerror or error}")
    except MemoryError:
        return _complain("out of memory")
    except Exception:  # noqa: BLE001 - the one boundary
        traceback.print_exc()
        return _complain("this is a bug in routectl; please report it with the lines above")


def script() -> None:
    """The console script. A closed pipe ends it quietly (141), as it ends any Unix tool."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
