"""The one boundary: argv in, an exit code out: 0 same, 1 differs, 2 trouble (never 1)."""

import signal
import sys
import traceback
from collections.abc import Sequence

import typer
from typer.exceptions import Abort, TyperException

from ..errors import RoutectlError
from .capture import capture_command
from .check import check_command
from .ci import ci_command
from .convert import convert_command
from .diff import diff_command
from .pack import pack_command
from .predict import predict_command
from .recompute import recompute_command
from .report import report_command
from .show import show_command
from .staleness import staleness_command
from .unpack import unpack_command
from .watch import watch_command

__all__ = ["app", "main", "run"]

TROUBLE = 2

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Compare and convert the expert routes of mixture-of-experts models in RL.",
)

_COMMANDS = (
    ("show", show_command),
    ("diff", diff_command),
    ("check", check_command),
    ("convert", convert_command),
    ("recompute", recompute_command),
    ("staleness", staleness_command),
    ("predict", predict_command),
    ("pack", pack_command),
    ("unpack", unpack_command),
    ("report", report_command),
    ("ci", ci_command),
    ("capture", capture_command),
    ("watch", watch_command),
)
for _name, _command in _COMMANDS:
    app.command(_name)(_command)


def _version(asked: bool) -> None:
    if asked:
        from .. import __version__

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
    except MemoryError:
        return _complain("out of memory")
    except Exception:  # noqa: BLE001 - the one boundary
        traceback.print_exc()
        return _complain("this is a bug in routectl; please report it with the lines above")


def run() -> None:
    """The console script. A closed pipe ends it quietly (141), as it ends any Unix tool."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
