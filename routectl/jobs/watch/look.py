"""One file of a folder that is watched: opened, checked, and what is to be said of it."""

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ...errors import FormatError, RoutectlError, misspelt
from ...files.places import place_of
from ..inputs import Input, parse_input
from ..reading import Reading, otherwise_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...ops.check.book.results import CheckResult

__all__ = ["Looked", "Lookout", "check_template", "reference_of"]

_REFUSED = ("R001", "R011")  # nothing was read, or a part
_NAMES = ("name", "stem", "parent")  # of a dump, in a template
_NAMED = re.compile(r"\{([^{}]*)\}(/?)")


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of a look at a file: ``result``, or ``error`` in one line; neither: no dump.

    ``doubtful`` where waiting may help: it cannot be read, or its reader refused samples.
    """

    result: "CheckResult | None" = None
    error: str | None = None
    doubtful: bool = False


def _about(path: Path, error: RoutectlError) -> str:
    """An error of a file, without the file's name before it."""
    return str(error).removeprefix(f"{path}: ")


def check_template(template: str) -> None:
    """Raise RoutectlError for a path of references that names nothing of the dump, or no such."""
    found = [name for name, _ in _NAMED.findall(template)]
    for name in found:
        if name not in _NAMES:
            told = f"--against {template}: {{{name}}} is not known"
            raise misspelt(told, name, _NAMES, RoutectlError)
    if not found:
        names = [f"{{{name}}}" for name in _NAMES]
        raise RoutectlError(f"--against {template}: expected {', '.join(names)} of a dump in it")


def reference_of(template: str, below: PurePosixPath) -> str:
    """Where a dump's reference is: a template with {name}, {stem} and {parent} of the dump's path.

    ``below`` is that path, below the folder that is watched. The parent of a dump which lies in the
    folder itself is nothing, and the slash behind it goes too.
    """
    parent = below.parent.as_posix().removeprefix(".")
    said = {"name": below.name, "stem": below.stem, "parent": parent}
    return _NAMED.sub(lambda one: said[one[1]] + (one[2] if said[one[1]] else ""), template)


@dataclass(frozen=True, slots=True)
class Lookout:
    """How files are opened and checked.

    said     gives a file with what was said of it
    against  gives a file's reference, see ``reference_of``; None for none
    """

    reading: Reading
    against: "Callable[[Path], str] | None" = None
    said: "Callable[[Path], Input]" = field(default=lambda path: Input(str(path)))

    def look(self, path: Path) -> Looked:
        """Open and check a file. Raises UnknownModelError where only --model helps."""
        from ...formats.documents.facts import UnknownModelError
        from ...formats.wire.sample import NoRoutesError, NoSamplesError

        try:
            if path.stat().st_size == 0:
                return Looked(error="the file is empty", doubtful=True)
            result = self._check(path)
        except NoRoutesError as error:
            return Looked(error=_about(path, error))
        except NoSamplesError:
            return Looked()
        except UnknownModelError:
            raise
        except RoutectlError as error:
            return Looked(error=_about(path, error), doubtful=True)
        except OSError as error:
            return Looked(error=f"cannot be read: {error.strerror}", doubtful=True)
        refused = any(finding.code in _REFUSED for finding in result.findings)
        return Looked(result, None, refused)

    def _check(self, path: Path) -> "CheckResult":
        from ...ops.check.check import check
        from ..check.model import options_of_dump

        dump = self.reading.open(str(self.said(path)))
        other = None
        if self.against is not None:
            name = self.against(path)
            if not place_of(parse_input(name).path).is_file():
                raise FormatError(f"{path}: its reference {name} is not there")
            other = self.reading.open(name, otherwise_of(dump, "the dump"))
        return check(dump, other, options=options_of_dump(dump, self.reading.facts, 1))
