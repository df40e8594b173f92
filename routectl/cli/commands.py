"""The commands: a line of the table each, and a room of its name that is loaded when it is asked.

The room ``NAME.py`` has the function ``NAME_command``; a group such as ``predict fit`` has
``NAME_commands`` in its place, a dict of functions by their second word.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["COMMANDS", "HELP", "SHARED", "Commands", "Wording", "command_lines", "functions_of"]

COMMANDS = {
    "show": "What a dump or a checkpoint holds: format, layers, sizes.",
    "diff": "Where two dumps of the same tokens differ.",
    "check": "Which bug is in a dump, where, and what to do.",
    "convert": "Write a dump as native Parquet, or as trainers read it.",
    "recompute": "What a checkpoint's routers select for a dump's tokens.",
    "staleness": "Mismatch, of engine and numerics, told from old weights.",
    "predict": "Routes of later weights, predicted (PR2), judged, written.",
    "pack": "Write the replay tensors of packed sequences, for every rank.",
    "unpack": "Write the dump that replay tensors were packed from.",
    "report": "Show a saved report again: as text, page, JUnit, scalars.",
    "ci": "Run the checks of a config, with one exit code.",
    "capture": "Ask a running SGLang or vLLM server for rollouts with routes.",
    "watch": "Follow a training run's dump folder, check each new dump.",
}
SHARED = {  # options that many commands have: told here once, and by name in each command's help
    "--json": "Print the report as one JSON document.",
    "-o PATH": "Write the report there: NAME.json (all of it: routectl report makes the others "
    "of it), .html, .txt, .md or .csv; - is stdout.",
    "--summary": "Print ten lines: the verdict, and what is behind it.",
    "--exit-zero": "Exit 0, not 1, for what differs or is over a threshold.",
    "--no-tokens": "Leave token ids, their texts, and sample names that read as text out of "
    "what is written.",
    "--force": "Replace files that exist.",
    "--plain": "Print to a terminal as to a pipe: no colours, no pictures.",
    "--limit NAME=SIZE": "Let a file ask for more work: cell=1GB, ratio=1000. docs/formats.md has "
    "the names.",
    "-h, --help": "Say what a command does, and its options.",
}
_GLOBAL = ("--plain", "--limit NAME=SIZE", "-h")
HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
_HYPHEN, _SPACE = "\ue000\ue001"  # stand for these where no line is to be broken


class _Formatter(typer.Context.formatter_class):  # type: ignore[misc, valid-type]
    """Help that is broken between words alone."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args.replace("-", _HYPHEN), prefix)

    def write_text(self, text: str) -> None:
        super().write_text(text.replace("-", _HYPHEN))

    def write_dl(self, rows: Any, col_max: int = 30, col_spacing: int = 2) -> None:
        whole = [(first, second.replace("-", _HYPHEN)) for first, second in rows]
        super().write_dl(whole, col_max, col_spacing)

    def getvalue(self) -> str:
        return str(super().getvalue()).replace(_HYPHEN, "-").replace(_SPACE, " ")


class Wording(typer.Context):
    """A context whose help is written by our formatter."""

    formatter_class = _Formatter


class _Command(TyperCommand):
    """A command whose help names shared options in its last line."""

    context_class = Wording

    def get_help_option(self, ctx: Any) -> Any:
        """-h, told in ``routectl --help``."""
        found = super().get_help_option(ctx)
        if found is not None:
            found.hidden = True
        return found

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The shared options that it takes."""
        own = {flag for one in self.params for flag in one.opts}
        taken = [told for told in SHARED if told.split()[0] in own]
        formatter.write_paragraph()
        formatter.write_text(
            f"Also: {', '.join(told.replace(' ', _SPACE) for told in [*taken, *_GLOBAL])} "
            "(see routectl --help)."
        )


class _Group(TyperGroup):
    """Commands of two words."""

    context_class = Wording


class Commands(TyperGroup):
    """The commands, each imported when it is asked for: --help needs their names alone."""

    context_class = Wording

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands = dict.fromkeys(COMMANDS, TyperCommand("later"))  # names to suggest

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; None for another word."""
        if cmd_name not in COMMANDS:
            return None
        alone = typer.Typer(
            cls=_Group, add_completion=False, rich_markup_mode=None, context_settings=HELP
        )
        functions = functions_of(cmd_name)
        for name, function in functions.items():
            alone.command(name or cmd_name, cls=_Command, context_settings=HELP)(function)
        if "" not in functions:
            alone.callback(help=COMMANDS[cmd_name])(lambda: None)
        return typer.main.get_command(alone)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of them in --help, and the options that many have."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        with formatter.section("Options of many commands"):
            formatter.write_dl(list(SHARED.items()))


def functions_of(command: str) -> dict[str, Any]:
    """The functions of a command by their second word, which is empty where there is none."""
    room = import_module(f".{command}", __package__)
    group: dict[str, Any] | None = getattr(room, f"{command}_commands", None)
    return {"": getattr(room, f"{command}_command")} if group is None else group


def command_lines() -> Iterator[tuple[str, Any]]:
    """Every command that does something, such as ``predict fit``, and its function."""
    for command in COMMANDS:
        for second, function in functions_of(command).items():
            yield f"{command} {second}".strip(), function
