"""What a coded file needs beside it: the base of codec delta, another dump of the same tokens,
opened when it is needed, and the dictionary of codec token.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...dump import Dump, DumpMeta
from ...errors import FormatError, MismatchError, UnsupportedError
from ...files.places import RemotePath, place_of
from ...model import ModelFacts
from ...routes import Routes

if TYPE_CHECKING:
    from ...codecs.dictionary import TokenDictionary

__all__ = ["Bases", "base_path", "check_base"]

Opener = Callable[[Path, ModelFacts | None], Dump]
_FACTS = ("layers_L", "num_experts", "top_k")


def check_base(base: Dump, meta: DumpMeta) -> None:
    """Raise MismatchError unless a base has the layers, E and K of a dump."""
    for name in _FACTS:
        if getattr(base.meta, name) != getattr(meta, name):
            raise MismatchError(
                f"{base.meta.path}: no base: {name} is {getattr(base.meta, name)}, "
                f"in {meta.path} {getattr(meta, name)}"
            )


class Bases:
    """The routes of a base by index, in some of its layers.

    ``path`` is the one in the coded file, of a file in its folder or below: nothing else is opened
    for its sake, so that a foreign file names nothing of the reader's. ``given`` is a dump or a
    path that takes its place. ``opener`` makes a dump of a path, and of the model's facts where it
    must be told them. ``dictionary`` is the one that the file names, None where it is not there.
    """

    def __init__(
        self,
        file: Path,
        path: str | None,
        given: Dump | Path | str | None,
        opener: Opener,
        dictionary: "TokenDictionary | None" = None,
    ) -> None:
        self.dictionary = dictionary
        self._file, self._path, self._given, self._opener = file, path, given, opener
        self._whole: Dump | None = None
        self._parts: dict[tuple[int, ...], Dump] = {}

    def routes(self, index: int, meta: DumpMeta, layers: tuple[int, ...]) -> Routes | None:
        """The routes of the base's sample ``index``.

        Raises MismatchError where the base is not there or is another one.
        """
        if self._whole is None:
            self._whole = self._dump(meta)
            check_base(self._whole, meta)
        if layers not in self._parts:
            self._parts[layers] = self._whole.select(layers=layers)
        dump = self._parts[layers]
        if not 0 <= index < len(dump):
            raise MismatchError(
                f"{self._file}: {dump.meta.path} is not the base that this was coded against: got "
                f"{len(dump)} samples, expected at least {index + 1}"
            )
        return dump[index].routes

    def _dump(self, meta: DumpMeta) -> Dump:
        if isinstance(self._given, Dump):
            return self._given
        path = place_of(self._given) if self._given else self._named()
        try:
            return self._opener(path, None)
        except FormatError:  # no model beside it: this file knows
            layers = meta.layers_L
            facts = ModelFacts(layers[-1] + 1, layers, meta.num_experts, meta.top_k, None)
            return self._opener(path, facts)

    def _named(self) -> Path:
        """The file that the coded one names. Raises UnsupportedError unless it is in its folder."""
        named, folder = Path(self._path or ""), self._file.parent
        try:
            inside = not named.is_absolute() and (folder / named).resolve().is_relative_to(
                folder.resolve()
            )
            if isinstance(folder, RemotePath):  # where .. is a name as any other
                inside = inside and ".." not in named.parts
            if inside and (folder / named).is_file():
                return folder / named
        except (OSError, ValueError, RuntimeError):  # too long, a NUL, links in a circle
            inside = True
        where = "there is no such file" if inside else "which is not in its folder: not opened"
        raise UnsupportedError(
            f"{self._file}: coded against another dump, {str(named)[:80]!a}: {where}",
            hint=f"{self._file}::base=DUMP names it",
        )


def base_path(base: Path, folder: Path) -> str:
    """What a file in ``folder`` names its base by.

    The path from there to a file in the folder or below; of any other file its name alone, which
    is found once the file lies there.
    """
    alike = isinstance(base, RemotePath) == isinstance(folder, RemotePath)
    if alike and base.resolve().is_relative_to(folder.resolve()):
        return str(base.resolve().relative_to(folder.resolve()))
    return base.name
