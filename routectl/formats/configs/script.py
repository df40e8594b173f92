"""The options that a shell script, or a saved command line, gives a trainer.

Three spellings: ``--name value``, ``--name=value`` and hydra's ``a.b.c=value``. A variable that the
script itself sets to a plain word is put in its place; nothing is run, no environment is asked.
"""

import re
import shlex
from collections.abc import Iterator
from typing import Any

__all__ = ["plain_value", "script_settings"]

_ASSIGNED = re.compile(r"(?:export\s+|local\s+)?([A-Za-z_]\w*)=([^\s(]*)")
_OPENED = re.compile(r"\w+\+?=\(")  # ARGS=( and ARGS+=(
_OPTION = re.compile(r"--([A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)
_DOTTED = re.compile(r"\+{0,2}~?([A-Za-z_]\w*(?:\.\w+)+)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?-([^}]*))?\})")
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_PASSES = 8  # variables that are set to variables


def plain_value(text: str) -> Any:
    """A number, True, False or None out of a word that is one, else the word."""
    if re.fullmatch(r"[+-]?\d{1,18}", text):
        return int(text)
    return _WORDS.get(text.lower(), text)


def script_settings(text: str) -> dict[str, Any]:
    """Options by name, dashes as underscores; the last of a name counts.

    An option without a value is True. A value that names a variable which the script does not set
    keeps it, with its dollar.
    """
    variables: dict[str, str] = {}
    words: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        split = _split(line)
        assigned = _ASSIGNED.fullmatch(" ".join(split)) if len(split) < 3 else None
        if assigned:
            own = _VARIABLE.fullmatch(assigned[2])  # NAME=${NAME:-1}
            kept = own is not None and own[2] == assigned[1] and own[3] is not None
            variables[assigned[1]] = own[3] if kept and own else assigned[2]
        words += split
    return dict(_options([_put_in(word, variables) for word in words]))


def _split(line: str) -> list[str]:
    """The words of a line, without its comment and the brackets of arrays."""
    try:
        found = shlex.split(line, comments=True)
    except ValueError:  # a quote that another line closes
        found = line.split()
    opened = (_OPENED.sub("", word) if _OPENED.match(word) else word for word in found)
    return [word for word in opened if word not in ("", "(", ")")]


def _put_in(word: str, variables: dict[str, str]) -> str:
    for _ in range(_PASSES):
        found = _VARIABLE.sub(
            lambda m: variables.get(m[1] or m[2], m[3] if m[3] is not None else m[0]), word
        )
        if found == word or len(found) > 1000:
            break
        word = found
    return word


def _options(words: list[str]) -> Iterator[tuple[str, Any]]:
    for i, word in enumerate(words):
        dotted, option = _DOTTED.fullmatch(word), _OPTION.fullmatch(word)
        if option:
            after = words[i + 1] if i + 1 < len(words) else "--"
            if option[2] is not None:
                value = plain_value(option[2])
            else:
                value = True if after.startswith("--") else plain_value(after.rstrip(")"))
            yield option[1].replace("-", "_"), value
        elif dotted:
            yield dotted[1], plain_value(dotted[2])
