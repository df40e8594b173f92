"""From a request to a command: its options become the parameters that typer reads.

An option is written once, on the field of the request (``jobs/options.py``) or of Voices.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, get_args

import typer

from ..errors import RoutectlError
from ..files.places import place_of
from ..jobs.options import Option, build, check_bounds, groups_of, options_of
from .voices import Voices

__all__ = ["CommandLine", "desk"]

_Request = TypeVar("_Request")
_STRINGS = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A command line: values by field, and the flags of those that it names itself."""

    values: Mapping[str, Any]
    given: Mapping[str, str]

    @property
    def voices(self) -> Voices:
        """How the answer is told."""
        return self.request(Voices)

    def request(self, kind: type[_Request]) -> _Request:
        """The request of a class, out of the options that it has.

        Raises RoutectlError where one is absent that it needs, or where it or a bound refuses them.
        """
        for one, about in options_of(kind):
            if one.default is MISSING and self.values.get(one.name) is None:
                raise RoutectlError(f"expected a {about.named}")
        request: _Request = build(kind, self.values)
        check_bounds(request)
        return request


def desk(
    *parts: type[Any] | str, optional: str = ""
) -> Callable[[Callable[[CommandLine], int]], Callable[..., int]]:
    """Make a command of a function, its options those of ``parts`` in the order of --help.

    What is made has them as ``options``: of each the field, and what it says of itself.

    A part is a request, or names of options of Voices. Options of a request's last field, where
    that is a group such as Reading, come after all. ``optional`` are those that a request needs
    but the command line may go without; with several requests it may go without any.
    """

    def made(command: Callable[[CommandLine], int]) -> Callable[..., int]:
        parameters = {one.name: (one, about) for one, about in _laid_out(parts)}
        requests = [part for part in parts if not isinstance(part, str)]
        free = [*parameters] if len(requests) > 1 else optional.split()

        def run(command_line: typer.Context, **values: Any) -> int:
            flags = {
                name: about.named
                for name, (_, about) in parameters.items()
                if _is_given(command_line, name)
            }
            paths = {name for name, (one, _) in parameters.items() if _is_path(one.type)}
            lists = {name for name, (one, _) in parameters.items() if one.type == _STRINGS}
            found = {n: tuple(v or ()) if n in lists else v for n, v in values.items()}
            found |= {n: place_of(values[n]) for n in paths if values[n] is not None}
            found["plain"] = bool((command_line.obj or {}).get("plain"))
            return command(CommandLine(found, flags))

        signed: Any = run
        signed.__signature__ = inspect.Signature(
            [
                inspect.Parameter("command_line", _ANYHOW, annotation=typer.Context),
                *(_parameter(one, about, one.name in free) for one, about in parameters.values()),
            ]
        )
        signed.__annotations__ = {}
        signed.__doc__, signed.__name__ = command.__doc__, command.__name__
        signed.options = tuple(parameters.values())
        return run

    return made


_ANYHOW = inspect.Parameter.KEYWORD_ONLY


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _is_path(kind: Any) -> bool:
    """Whether an option's type is a path's, which is a place: a URI, too."""
    return Path in {kind, *get_args(kind)} and str not in get_args(kind)


def _laid_out(parts: tuple[type[Any] | str, ...]) -> Iterator[tuple["Field[Any]", Option]]:
    """All options in the order of --help; the first of a name counts."""
    told = {one.name: (one, about) for one, about in options_of(Voices)}
    last: list[tuple[Field[Any], Option]] = []
    for part in parts:
        if isinstance(part, str):
            yield from (told[name] for name in part.split())
        else:
            yield from _own(part, last)
    yield from last


def _own(
    kind: type[Any], last: list[tuple["Field[Any]", Option]]
) -> Iterator[tuple["Field[Any]", Option]]:
    """The options of a request, its groups in place; those of a group at its end go to ``last``."""
    groups, own = groups_of(kind), {one.name: (one, about) for one, about in options_of(kind)}
    names = [one.name for one in fields(kind)]
    for name in names:
        if name in own:
            yield own[name]
        elif name in groups and name == names[-1]:
            last += options_of(groups[name])
        elif name in groups:
            yield from options_of(groups[name])


def _parameter(one: "Field[Any]", about: Option, optional: bool) -> inspect.Parameter:
    """An option as typer reads it; one without a default is required unless ``optional``."""
    kind: Any = one.type
    default = one.default
    if _is_path(kind):
        kind = str | None if kind is not Path else str
    if str in get_args(kind) and kind != _STRINGS:  # what may be text is text here
        kind = str | None
    if kind == _STRINGS:
        kind, default = list[str] | None, (None if one.default == () else one.default)
    if default is MISSING:
        kind, default = (kind | None, None) if optional else (kind, inspect.Parameter.empty)
    given = Annotated[kind, _info(about, kind)]
    return inspect.Parameter(one.name, _ANYHOW, default=default, annotation=given)


def _info(about: Option, kind: Any) -> Any:
    """What typer parses; help is made of the option itself (words/help.py)."""
    if about.positional:
        return typer.Argument(metavar=about.named)
    flag = f"--{about.flag}"
    if isinstance(kind, UnionType) and bool in get_args(kind):
        flag = f"{flag}/--no-{about.flag}"
    names = [flag] if about.short is None else [f"-{about.short}", flag]
    return typer.Option(*names, min=about.least, max=about.most)
