"""What completion offers: commands, options, names that options have, or files.

Rooms are loaded as for --help; heavier libraries for names alone that only they know.
"""

import shlex
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields
from typing import Any, get_args

from ...jobs.options import Option
from ...limits import Limits
from .commands import COMMANDS, functions_of
from .help import SHARED
from .scripts import SCRIPTS

__all__ = ["completed"]

_Words = list[tuple[str, str]]  # a word and what it is
_Pair = tuple["Field[Any]", Option]
_BUDGETS = [(f"{one.name}=", "a budget of foreign files") for one in fields(Limits)]
_SHELLS = [(shell, "its script") for shell in SCRIPTS]
_GLOBAL: dict[str, _Words] = {"--plain": [], "--limit": _BUDGETS, "--help": [], "-h": []}
_ROOT = {**_GLOBAL, "--version": [], "--completion": _SHELLS}  # with the values that each has
_TOLD = {told.split()[0].strip(","): about for told, about in SHARED.items()}
_BREAKS = "=:"  # of COMP_WORDBREAKS: bash replaces what is after the last of them


def completed(shell: str, words: Sequence[str]) -> str:
    """The answer to a script: to the words after the command's name, the last of which is being
    typed. bash gives the whole line up to the cursor in their place.
    """
    cut = 0
    if shell == "bash":
        words = _split("".join(words))[1:]
        cut = max((words or [""])[-1].rfind(mark) for mark in _BREAKS) + 1
    *before, current = words or [""]
    offered = _offered(before, current)
    if offered is None:
        return "files\n"
    fitting = [(word, about) for word, about in offered if word.startswith(current)]
    return "".join(["words\n", *(f"{word[cut:]}\t{about}\n" for word, about in fitting)])


def _split(line: str) -> list[str]:
    """The words of a line that may end within quotes; the last is empty after a blank."""
    for closing in ("", "'", '"'):
        try:
            words = shlex.split(line + closing)
        except ValueError:
            continue
        return [*words, ""] if not closing and line[-1:].isspace() else words
    return line.split(" ")


def _offered(before: list[str], current: str) -> _Words | None:
    """What can stand after some words; None for a file."""
    if "--" in before:
        return None
    before, waiting = _without_globals(before)
    if waiting is not None:
        return _ROOT[waiting]
    if before[:1] == ["help"]:
        return _names(before[1:]) or []
    names = _names(before)
    if names is not None:
        flags = _GLOBAL if before else _ROOT
        return [(flag, _TOLD.get(flag, "")) for flag in flags] if current[:1] == "-" else names
    functions = functions_of(before[0]) if before[0] in COMMANDS else {}
    second = "" if "" in functions else "".join(before[1:2])
    if second not in functions:
        return []
    return _Line(functions[second].options).offered(before[1 + bool(second) :], current)


def _without_globals(words: list[str]) -> tuple[list[str], str | None]:
    """Words without options of every command, and the one of these that waits for its value."""
    left: list[str] = []
    waiting: str | None = None
    for word in words:
        if waiting is not None:
            waiting = None
        elif word in _ROOT:
            waiting = word if _ROOT[word] else None
        else:
            left.append(word)
    return left, waiting


def _names(before: list[str]) -> _Words | None:
    """Names of commands, where one is to come."""
    if not before:
        return [*COMMANDS.items(), ("help", "Say what a command does.")]
    functions = functions_of(before[0]) if before[0] in COMMANDS else {}
    if before[1:] or not functions or "" in functions:
        return None
    return [(name, made.__doc__.partition("\n")[0]) for name, made in functions.items()]


@dataclass(frozen=True, slots=True)
class _Line:
    """What a command takes."""

    options: Sequence[_Pair]

    @property
    def flags(self) -> dict[str, _Pair]:
        """Its options by each of their names."""
        found: dict[str, _Pair] = {}
        for one, about in self.options:
            if not about.positional:
                found[f"--{about.flag}"] = (one, about)
            if one.type == bool | None:
                found[f"--no-{about.flag}"] = (one, about)
            if about.short is not None:
                found[f"-{about.short}"] = (one, about)
        return found

    def offered(self, before: list[str], current: str) -> _Words | None:
        """A value of the option that waits for one, a flag, or an argument."""
        flags, places = self.flags, [pair for pair in self.options if pair[1].positional]
        waiting: _Pair | None = None
        taken = 0
        for word in before:
            if waiting is not None:
                waiting = None
            elif word in flags:
                waiting = flags[word] if _has_value(flags[word]) else None
            else:
                taken += not word.startswith("--")
        if waiting is not None:
            return _values(waiting, current, "")
        flag, equals, value = current.partition("=")
        if equals and flag in flags:
            return _values(flags[flag], value, f"{flag}=")
        if current[:1] == "-":
            own = [
                (flag, _TOLD.get(flag) or _sentence(about)) for flag, (_, about) in flags.items()
            ]
            return [*own, *((flag, _TOLD.get(flag, "")) for flag in _GLOBAL)]
        if places and (taken < len(places) or _is_many(places[-1])):
            return _values(places[min(taken, len(places) - 1)], current, "")
        return []


def _values(pair: _Pair, value: str, before: str) -> _Words | None:
    """The values of an option, of a list with commas its last part; None for a file."""
    one, about = pair
    if about.choices:
        return [(before + word, "") for word in about.choices]
    if about.suggests is not None:
        last = value.rfind(",") + 1
        fitting = [word for word in about.suggests() if word.startswith(value[last:])]
        if "FILE" in (about.metavar or "") and not (value and fitting):
            return None  # what is typed so far begins no key: a file
        return [(before + value[:last] + word, "") for word in fitting]
    return [] if {int, float} & {one.type, *get_args(one.type)} else None


def _has_value(pair: _Pair) -> bool:
    return pair[0].type not in (bool, bool | None)


def _is_many(pair: _Pair) -> bool:
    return bool(pair[0].type == tuple[str, ...])


def _sentence(about: Option) -> str:
    """The first sentence of an option's help."""
    return (about.told or "").partition(". ")[0]
