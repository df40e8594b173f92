"""The one boundary: argv in, an exit code out: 0 same, 1 differs, 2 trouble (never 1)."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence

import typer
from typer.exceptions import Abort, TyperException

from ..errors import RoutectlError, check_choice
from ..jobs.inputs import STDIN
from ..limits import parse_limits, raised_limits
from ..visible import visible
from .logs import show_logs, tell_compiling
from .signals import ended_by_signals
from .terminal import note, say
from .words.commands import COMMANDS, Commands, functions_of
from .words.help import HELP
from .words.scripts import SCRIPTS
from .words.spellings import said_now

__all__ = ["app", "main", "script"]

TROUBLE = 2
_BUG = "this is a bug in routectl; please report it with the lines above"
_TOO_MANY = "Got unexpected extra argument"  # how the parser's message begins
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF)  # EBADF: stdout is closed

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=dict(HELP),
    help="Compare and convert the expert routes of mixture-of-experts models in RL.",
)


def _version(asked: bool) -> None:
    if asked:
        from ..version import __version__

        print(f"routectl {__version__}")
        raise typer.Exit(0)


def _completion(shell: str | None) -> None:
    if shell is not None:
        check_choice("--completion", shell, SCRIPTS)
        print(SCRIPTS[shell], end="")
        raise typer.Exit(0)


@app.callback()
def _root(
    completion: str | None = typer.Option(
        None,
        "--completion",
        callback=_completion,
        is_eager=True,
        metavar="bash|zsh|fish",
        help="Print the script that completes command lines in a shell; its first lines say where "
        "it goes.",
    ),
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def _without_globals(argv: Sequence[str]) -> tuple[list[str], list[str], bool]:
    """The command line without each --limit and --plain that stands before ``--``, and what they
    say; ``help X`` is ``X --help``.
    """
    left: list[str] = []
    said: list[str] = []
    plain = False
    words = iter(argv)
    for word in words:
        if word == "--":
            left += [word, *words]
        elif word == "--limit":
            said.append(next(words, ""))
        elif word.startswith("--limit="):
            said.append(word.partition("=")[2])
        elif word == "--plain":
            plain = True
        elif word.startswith("-::"):  # standard input with options: typer takes it for a flag
            left.append(f"{STDIN}{word[1:]}")
        else:
            left.append(word)
    return [*left[1:], "--help"] if left[:1] == ["help"] else left, said, plain


def _complete(argv: Sequence[str]) -> int:
    """Answer a script of completion."""
    from .words.completion import completed

    sys.stdout.write(completed(argv[0] if argv else "", argv[1:]))
    return 0


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
        if argv[:1] == ["--complete"]:
            return _complete(argv[1:])
        words, given, plain = _without_globals(argv)
        with raised_limits(**parse_limits(given)):
            code = app(
                words or ["--help"],
                prog_name="routectl",
                standalone_mode=False,
                obj={"plain": plain},
            )
        return int(code or 0) if words else TROUBLE
    except RoutectlError as error:
        return _complain(str(error), error.hint)
    except TyperException as error:
        told = error.format_message()
        said = said_now(words, too_many=told.startswith(_TOO_MANY))
        if said is not None:
            return _complain(said)
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else _asked(words)
        return _complain(told, f"{path} --help")
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


def _asked(words: Sequence[str]) -> str:
    """The command that words ask for, where its parser does not say."""
    if not words or words[0] not in COMMANDS:
        return "routectl"
    number = 2 if words[1:2] and words[1] in functions_of(words[0]) else 1
    return " ".join(["routectl", *words[:number]])


def script() -> None:
    """The console script. Signals end it when it has cleaned up: 130, 143, 129.

    A closed pipe ends it quietly (141), as it ends any Unix tool.
    """
    show_logs()
    if sys.stderr.isatty():
        tell_compiling(note)
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
