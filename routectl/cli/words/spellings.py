"""What a refused command line should say: the new spelling, or that an option is of others."""

from collections.abc import Iterator, Sequence

from ...jobs.spellings import ALONE, OLD, POSITIONAL
from .commands import COMMANDS, functions_of
from .help import SHARED

__all__ = ["own_flags", "said_now"]


def said_now(words: Sequence[str], *, too_many: bool) -> str | None:
    """What a refused command line should say: of an old spelling, or of an option of others.

    ``too_many`` says that it was refused for an argument too many. None where it has neither, or
    where the command has the option.
    """
    command = words[0] if words else ""
    if command not in COMMANDS:
        return None
    own = set(own_flags(command))
    named = [
        _flag(word) for word in _before_dashes(words[1:]) if word.startswith("-") and word != "-"
    ]
    unknown = [flag for flag in named if flag not in own]
    for flag in unknown:
        new = OLD.get(command, {}).get(flag)
        if new is not None:
            return f"{command} {flag} is now: {new}"
        if flag in _shared_flags():
            data = flag in ("-o", "--output") and "--save" in own
            return f"{command} has no use for {flag}{': --save DST writes data' * data}"
    return _positional(command, words[1:]) if too_many and not unknown else None


def _positional(command: str, words: Sequence[str]) -> str | None:
    """The answer to one argument too many."""
    if command not in POSITIONAL:
        return None
    count, told = POSITIONAL[command]
    given = [word for word in words if not word.startswith("-") or word == "-"]
    alone = (ALONE[command, word] for word in words if (command, word) in ALONE)
    return next(alone, told) if len(given) >= count else None


def _before_dashes(words: Sequence[str]) -> Sequence[str]:
    return words[: words.index("--")] if "--" in words else words


def _flag(word: str) -> str:
    """The option that a word names: --json of --json=1, -o of -oPATH."""
    return word.partition("=")[0] if word.startswith("--") else word[:2]


def _shared_flags() -> set[str]:
    """The names of shared options."""
    return {told.split()[0] for told in SHARED} | {"--output"}


def own_flags(command: str) -> Iterator[str]:
    """The options that a command has today, those of all of a group."""
    for function in functions_of(command).values():
        for one, about in function.options:
            yield f"--{about.flag}"
            if about.short is not None:
                yield f"-{about.short}"
            if one.type == bool | None:
                yield f"--no-{about.flag}"
