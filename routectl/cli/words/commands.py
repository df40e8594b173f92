"""The commands: a line of the table each, and a room of its name that is loaded when it is asked.

The room ``NAME.py``, or that of ROOMS, has the function ``NAME_command``; a group such as
``predict fit`` has ``NAME_commands`` in its place, a dict of functions by their second word.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from .help import HELP, SHARED, HelpedCommand, Wording

__all__ = ["COMMANDS", "Commands", "command_lines", "functions_of"]

COMMANDS = {
    "show": "What a dump or a checkpoint holds: format, layers, sizes.",
    "diff": "Where two dumps of the same tokens differ.",
    "check": "Which bug is in a dump, where, and what to do.",
    "convert": "Write a dump as native Parquet, or as trainers read it.",
    "recompute": "What a checkpoint's routers select for a dump's tokens.",
    "staleness": "Mismatch, of engine and numerics, told from old weights.",
    "predict": "Routes of later weights, predicted (PR2), judged, written.",
    "pack": "Write the replay tensors of packed sequences, for every rank.",
    "verify": "Prove that replay tensors hold every route exactly once.",
    "layout": "Draw which token of packed sequences sits where.",
    "unpack": "Write the dump that replay tensors were packed from.",
    "merge": "Parts that --shard and --partial counted, added up.",
    "report": "Show a saved report again: as text, page, JUnit, scalars.",
    "ci": "Run the checks of a config, with one exit code.",
    "capture": "Ask a running SGLang or vLLM server for rollouts with routes.",
    "cache": "What is kept of checkpoints that were run; clear it.",
    "watch": "Follow a training run's dump folder, check each new dump.",
}


ROOMS = {"layout": "pack"}


class _Group(TyperGroup):
    """Commands of two words."""

    context_class = Wording

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of them in --help, each with the whole first line of its own."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, (one.help or "").partition("\n\n")[0])
                    for name, one in self.commands.items()
                ]
            )


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
            cls=_Group, add_completion=False, rich_markup_mode=None, context_settings=dict(HELP)
        )
        functions = functions_of(cmd_name)
        for name, function in functions.items():
            alone.command(name or cmd_name, cls=_made_of(function), context_settings=dict(HELP))(
                function
            )
        if "" not in functions:
            alone.callback(help=COMMANDS[cmd_name])(lambda: None)
        return typer.main.get_command(alone)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of them in --help, and the options that many have."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        with formatter.section("Options of many commands"):
            formatter.write_dl(list(SHARED.items()))


def _made_of(function: Any) -> type[HelpedCommand]:
    """The class of a function's command, which knows its options."""
    return type("Command", (HelpedCommand,), {"options": function.options})


def functions_of(command: str) -> dict[str, Any]:
    """The functions of a command by their second word, which is empty where there is none."""
    room = import_module(f"..{ROOMS.get(command, command)}", __package__)
    group: dict[str, Any] | None = getattr(room, f"{command}_commands", None)
    return {"": getattr(room, f"{command}_command")} if group is None else group


def command_lines() -> Iterator[tuple[str, Any]]:
    """Every command that does something, such as ``predict fit``, and its function."""
    for command in COMMANDS:
        for second, function in functions_of(command).items():
            yield f"{command} {second}".strip(), function
