"""What was asked of a job, as words of a command line that asks it again."""

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from .options import groups_of, options_of

if TYPE_CHECKING:
    from ..reports.document import AskedEntry

__all__ = ["asked_of"]


def asked_of(request: Any) -> "AskedEntry":
    """Inputs by their place, and the options that are not at their defaults, each with its flag.

    An option that is given several times is there as often; a flag has no value. What only says
    where answers and data go is left out, and what no command line can say.
    """
    inputs: list[str] = []
    options: list[list[str]] = []
    for one, about in options_of(type(request)):
        value = getattr(request, one.name)
        if about.aside or about.flag == "save" or value in (None, one.default):
            continue
        values = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(each, str | int | float | PurePath) for each in values):
            continue  # an object that a program gave: no word says it
        if about.positional:
            inputs += map(str, values)
        elif isinstance(value, bool):
            options.append([f"--{about.flag}" if value else f"--no-{about.flag}"])
        else:
            options += [[f"--{about.flag}", str(each)] for each in values]
    for name in groups_of(type(request)):
        inner = asked_of(getattr(request, name))
        inputs += inner["inputs"]
        options += inner["options"]
    return {"inputs": inputs, "options": options}
