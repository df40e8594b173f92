"""Options of a request, each written once: name, type and default by its field, help beside it.

The command line makes flags of them and ``routectl ci`` keys: the field ``fail_over`` is
``--fail-over`` and ``fail-over``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from ..errors import RoutectlError, check_choice

__all__ = [
    "Option",
    "allow_unmatched_option",
    "argument",
    "build",
    "check_bounds",
    "eps_option",
    "fail_on_option",
    "force_option",
    "groups_of",
    "layers_option",
    "match_option",
    "no_tokens_option",
    "option",
    "options_of",
    "save_option",
    "threads_option",
    "threshold_option",
    "tokens_option",
]

_KEY = "option"


@dataclass(frozen=True, slots=True)
class Option:
    """What the field of an option does not say itself.

    help        None of what its name says whole; ``{choices}`` in it stands for the list of them
    flag        its name on the command line, without dashes, and as a key of ``routectl ci``
    metavar     what stands for its value in --help
    short       its name of one letter
    least, most bounds of a number, inclusive
    positional  given by its place
    choices     the values that it has, or each of a tuple has; another is refused with the list
    suggests    what completion offers where values are not a closed list, made when it is asked
    shared      told once in ``routectl --help``, and by its name alone in a command's
    decides     of a shared one: it changes what the answer is, not only how and where it is made
    """

    help: str | None
    flag: str
    metavar: str | None = None
    short: str | None = None
    least: float | None = None
    most: float | None = None
    positional: bool = False
    choices: Sequence[str] = ()
    suggests: Callable[[], Sequence[str]] | None = None
    shared: bool = False
    decides: bool = False

    @property
    def aside(self) -> bool:
        """Whether the same is answered whatever its value."""
        return self.shared and not self.decides

    @property
    def named(self) -> str:
        """How a user names it."""
        if self.positional:
            return (self.metavar or self.flag.upper()).strip("[]")
        return f"--{self.flag}" if self.short is None else f"-{self.short}"

    @property
    def told(self) -> str | None:
        """Its help, with the choices where they stand."""
        return self.help and self.help.replace("{choices}", _either(self.choices))

    def placeholder_of(self, kind: Any) -> str:
        """What stands for its value, of a type: the choices, where help does not list them."""
        if self.metavar is not None:
            return self.metavar
        if self.choices:
            return "NAME" if "{choices}" in (self.help or "") else "|".join(self.choices)
        kinds = {kind, *get_args(kind)}
        return "N" if kinds & {int, float} else "PATH" if Path in kinds else "TEXT"


def _either(words: Sequence[str]) -> str:
    """Words as a list in prose: a, b or c."""
    return f"{', '.join(words[:-1])} or {words[-1]}" if words[1:] else "".join(words)


def option(default: Any = MISSING, **about: Any) -> Any:
    """A field of a request that is an option; ``about`` are the fields of Option.

    ``name`` is the flag's where it is not the field's.
    """
    return field(default=default, metadata={_KEY: about})


def argument(default: Any = MISSING, **about: Any) -> Any:
    """A field of a request that is given by its place."""
    return option(default, positional=True, **about)


def allow_unmatched_option() -> Any:
    """--allow-unmatched of every comparison whose verdict counts what one side alone has."""
    return option(
        False,
        help="Samples, layers and rows that one side alone has are no difference.",
    )


def eps_option() -> Any:
    """--eps of every request that tells near-ties from clear flips; see ``finite_eps``."""
    return option(
        None,
        least=0,
        help="A mismatch with a margin up to this is a near-tie, beyond it a clear flip; in "
        "units of the selection score; 0.001 when not given.",
    )


def fail_on_option() -> Any:
    """--fail-on of every request that has findings."""
    return option(
        "error",
        metavar="SEVERITY",
        choices=("error", "warning", "undecided", "note"),
        help="The least severity to exit 1 for: {choices}.",
    )


def force_option() -> Any:
    """--force of whatever writes a file."""
    return option(False, shared=True, help="Replace a file that exists.")


def layers_option() -> Any:
    """--layers of every comparison; see ``parse_layers``."""
    return option(None, metavar="LIST", help="Only these layers, such as 0-3,7.")


def match_option(*choices: str) -> Any:
    """--match of every comparison; ``choices`` beside auto, id and tokens."""
    return option(
        "auto",
        metavar="HOW",
        choices=("auto", "id", "tokens", *choices),
        help="Join samples by {choices}; auto is id, else tokens.",
    )


def no_tokens_option(what: str) -> Any:
    """--no-tokens of whatever writes samples."""
    return option(False, shared=True, help=f"Leave token ids and text out of {what}.")


def save_option(what: str, default: Any = None) -> Any:
    """--save of whatever writes data: a dump, a folder, a predictor; a report is -o's."""
    return option(default, metavar="DST", help=f"Write {what} there.")


def threads_option() -> Any:
    """--threads of whatever runs a model."""
    return option(None, least=1, help="CPU threads.")


def threshold_option(told: str, names: Callable[[], Sequence[str]], where: str = "[@LAYER]") -> Any:
    """--fail-over or --fail-under of every request that judges; ``names`` are those of metrics."""
    return option((), metavar=f"METRIC{where}:N[%]", suggests=names, help=f"{told}; repeatable.")


def tokens_option() -> Any:
    """--tokens of every comparison."""
    return option(
        "all",
        metavar="WHICH",
        choices=("all", "prompt", "response"),
        help="Compare {choices} tokens.",
    )


def _about(one: "Field[Any]") -> Option:
    about = dict(one.metadata[_KEY])
    return Option(flag=(about.pop("name", None) or one.name).replace("_", "-"), **about)


def options_of(kind: Any) -> Iterator[tuple["Field[Any]", Option]]:
    """The options that a request has itself, in order."""
    for one in fields(kind):
        if _KEY in one.metadata:
            yield one, _about(one)


def groups_of(kind: Any) -> dict[str, Any]:
    """The fields of a request that are groups of options themselves, and their classes."""
    return {one.name: one.type for one in fields(kind) if is_dataclass(one.type)}


def build(kind: Any, values: Mapping[str, Any]) -> Any:
    """A request of a class, its groups too, out of values by field; others are left out."""
    found = {name: build(group, values) for name, group in groups_of(kind).items()}
    for one in fields(kind):
        if one.name in values and one.name not in found:
            found[one.name] = values[one.name]
    return kind(**found)


def check_bounds(request: Any) -> None:
    """Raise RoutectlError for a number out of its bounds or not finite and for a word that is none
    of an option's choices, and TypeError for a value that is not of its option's type: text for a
    path, text for a list of it.
    """
    name = type(request).__name__
    for field_name, group in groups_of(type(request)).items():
        if not isinstance(getattr(request, field_name), group):
            raise TypeError(f"{name}: {field_name}: expected {group.__name__}")
    for one, about in options_of(request):
        value: Any = getattr(request, one.name)
        if not _fits(value, one.type):
            wanted = getattr(one.type, "__name__", None) if isinstance(one.type, type) else None
            raise TypeError(
                f"{name}: {one.name}: got {type(value).__name__} {value!r:.60}, expected "
                f"{wanted or one.type}"
            )
        if about.choices and value is not None:
            for word in value if isinstance(value, tuple) else (value,):
                check_choice(about.named, word, about.choices)
        if isinstance(value, bool) or not _fits(value, float):
            continue
        if about.least is not None and not value >= about.least:
            raise RoutectlError(f"--{about.flag} {value}: expected at least {about.least}")
        if about.most is not None and not value <= about.most:
            raise RoutectlError(f"--{about.flag} {value}: expected at most {about.most}")
        if not isinstance(value, Integral) and not isfinite(value):
            raise RoutectlError(f"--{about.flag} {value}: expected a finite number")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an option's type; numbers of numpy are numbers."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        return any(_fits(value, part) for part in parts)
    if origin is tuple and parts[1:] == (...,):
        return isinstance(value, tuple) and all(_fits(part, parts[0]) for part in value)
    if kind in (int, float):
        number = Integral if kind is int else Real
        return isinstance(value, number) and not isinstance(value, bool)
    return not isinstance(kind, type) or isinstance(value, kind)
