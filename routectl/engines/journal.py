"""The side file of a run: an answer a line, kept while the run goes on and read when it resumes."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import FormatError, MismatchError, RoutectlError
from ..files.places import waiting_for
from ..files.private import open_private
from ..files.temporaries import is_at, lock_is_had
from ..files.writing import replacing
from ..formats.documents.fields import from_json
from ..limits import check_budget, limits
from ..visible import quoted
from .answers import Answer
from .requests import Request
from .server import Server

__all__ = ["Journal", "partial_path"]


def partial_path(output: Path) -> Path:
    """The side file of an output: OUTPUT.partial.jsonl beside it."""
    return waiting_for(output, ".partial.jsonl")


@dataclass(frozen=True, slots=True)
class _Place:
    offset: int
    length: int
    engine_id: str | None


_ASIDE = {"model", "return_weight_versions"}  # the same is sampled whatever they are


def _differing(asked: Any, now: Mapping[str, Any]) -> str | None:
    """The first field in which two bodies ask for other samples; None where none does."""
    if not isinstance(asked, dict):
        return "its request is no object"
    for name in sorted({*asked, *now} - _ASIDE):
        was, is_now = asked.get(name), now.get(name)
        if name == "sampling_params" and isinstance(was, dict) and isinstance(is_now, dict):
            if inner := _differing(was, is_now):
                return inner
        elif was != is_now or (name in asked) != (name in now):
            shown = [
                quoted(v) if n else "not there"
                for v, n in ((was, name in asked), (is_now, name in now))
            ]
            return f"{name} was {shown[0]}, and is {shown[1]} now"
    return None


class Journal:
    """Answers that are had, by sample; on disk as soon as they are added.

    A last line that a killed run left unfinished is cut off. One run at a time holds the file, and
    only its user can read it.
    ``judge`` gives the engine's own name of a response, None where it has none. ``models`` are the
    names under which the model of the kept answers was served, and how many each has; ``versions``
    the same of the engine's.
    """

    def __init__(self, path: Path, judge: Callable[[Request, Any], str | None]) -> None:
        self.path = path
        self._judge = judge
        self._places: dict[str, _Place] = {}
        self._owners: dict[str, str] = {}
        self.models: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self._file: IO[bytes] = open_private(path)
        try:
            fd = self._file.fileno()
            if lock_is_had(fd) is False or not is_at(fd, path):
                raise RoutectlError(f"{path}: another run writes it")
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, sample_id: str) -> bool:
        return sample_id in self._places

    def refuse_earlier(self) -> None:
        """Raise MismatchError where an earlier run has left anything."""
        if self._file.seek(0, os.SEEK_END):
            raise MismatchError(
                f"{self.path}: an earlier run left answers there, and without tokens nobody can "
                "tell what they answer",
                hint="remove it, or keep it: it is a dump",
            )

    def load(self, requests: Iterable[Request]) -> None:
        """Take what an earlier run of the same requests has left.

        Under which name the model was served is no matter: an update of the weights may rename it.
        Raises MismatchError for an answer to another request, FormatError for a damaged one.
        """
        planned = {request.sample_id: request for request in requests}
        self._file.seek(0)
        offset, most = 0, limits().line
        while (line := self._file.readline(most + 1)).endswith(b"\n"):
            self._take(line, offset, planned)
            offset += len(line)
        check_budget("line", len(line), f"{self.path}: bytes of a line")
        self._file.truncate(offset)

    def _take(self, line: bytes, offset: int, planned: Mapping[str, Request]) -> None:
        try:
            doc: Any = from_json(line, str(self.path))
            sample_id, asked, response = doc["sample_id"], doc["request"], doc["response"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._foreign("a line that no run wrote") from None
        request = planned.get(sample_id) if isinstance(sample_id, str) else None
        if request is None:
            raise self._foreign(f"sample {sample_id} is not asked for now")
        if other := _differing(asked, json.loads(json.dumps(request.body))):
            raise self._foreign(f"sample {sample_id} was asked for otherwise: {other}")
        try:
            engine_id = self._judge(request, response)
        except FormatError as error:
            raise FormatError(f"{self.path}: {error}", hint=error.hint) from None
        self._note(sample_id, _Place(offset, len(line), engine_id))
        self._count(doc.get("served_model") or asked.get("model"), doc.get("engine_version"))

    def _count(self, model: Any, version: Any) -> None:
        for counted, name in ((self.models, model), (self.versions, version)):
            if isinstance(name, str):
                counted[name] += 1

    def said_of(self, server: Server) -> Iterator[str]:
        """Lines on kept answers that came of another name of the model, or another version."""
        for what, names, now in (
            ("served model", self.models, server.model),
            (f"version of {server.engine}", self.versions, server.version),
        ):
            others = [f"{name} ({n} answers)" for name, n in names.items() if name != now]
            if others and now is not None:
                yield f"{self.path}: the {what} was {', '.join(others)}, and is {now} now"

    def _foreign(self, what: str) -> MismatchError:
        return MismatchError(
            f"{self.path}: of another run: {what}",
            hint="give the options of that run, or remove the file",
        )

    def _note(self, sample_id: str, place: _Place) -> None:
        if place.engine_id is not None:
            other = self._owners.setdefault(place.engine_id, sample_id)
            if other != sample_id:
                raise RoutectlError(
                    f"sample {sample_id}: its answer is that of sample {other}, id "
                    f"{place.engine_id}: something between here and the engine answers for it"
                )
        self._places[sample_id] = place

    def add(self, sample_id: str, answer: Answer) -> None:
        """Keep an answer. Raises RoutectlError for one that was given to another sample before."""
        assert sample_id not in self._places
        self._file.seek(0, os.SEEK_END)
        self._note(sample_id, _Place(self._file.tell(), len(answer.line), answer.engine_id))
        self._count(answer.model, answer.version)
        try:
            self._file.write(answer.line)
            self._file.flush()
        except OSError as error:
            raise RoutectlError(f"{self.path}: cannot be written: {error.strerror}") from None

    def write_lines(self, output: Path, sample_ids: Iterable[str], *, force: bool) -> None:
        """Write the answers of these samples, in this order, as a file that appears whole."""
        with replacing(output, force=force) as target:
            for sample_id in sample_ids:
                place = self._places[sample_id]
                self._file.seek(place.offset)
                target.write(self._file.read(place.length))

    def remove(self) -> None:
        """Remove the file, which nobody needs any more."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let the file go; an empty one is removed first, while nobody else can write it."""
        if self._file.seek(0, os.SEEK_END) == 0:
            self.remove()
        self._file.close()
