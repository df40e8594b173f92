"""What a door may do with any bytes: answer, or refuse in one line; soon, and in little memory.

Shape suffixes: T rows, L MoE layers, K top_k.
"""

import contextlib
import hashlib
import io
import resource
import threading
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from routectl.cli.main import main
from routectl.errors import RoutectlError
from routectl.formats import open_dump
from support.timing import ended_after

__all__ = ["Finding", "WrongError", "command", "opened_whole", "read_again", "watched"]

MOST_S, MOST_BYTES = 2.0, 300 << 20
ENDLESS_S = 30
BUG = "this is a bug in routectl"
SEEN = (*map(chr, range(32)), *map(chr, range(127, 160)), "\u2028", "\u202e", "\u2066")


class WrongError(Exception):
    """A door did what none may; ``kind`` in a word or two."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class EndlessError(BaseException):
    """It did not end by itself."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A case that a door did not take as it may; ``where`` tells findings of one cause."""

    target: str
    kind: str
    where: str
    text: str
    case: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """A name for a file, of the cause and the case."""
        digest = hashlib.sha256(self.case).hexdigest()[:8]
        return f"{self.target}.{self.kind.replace(' ', '-')}.{digest}"


def command(*words):
    """Run a command line: code, out, err. Raises WrongError for what none may do."""
    out, err = io.StringIO(), io.StringIO()
    line = " ".join(Path(str(w)).name if "/" in str(w) else str(w) for w in words)
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        for kind in (RuntimeWarning, SyntaxWarning, UserWarning):
            warnings.simplefilter("always", kind)  # else each is told once in a process
        code = main([str(word) for word in words])
    said = err.getvalue()
    if BUG in said:
        raise WrongError("bug", f"{line}\n{said}")
    if code not in (0, 1, 2):
        raise WrongError("exit code", f"{line}: {code}\n{said}")
    shown = said if "--json" in words else said + out.getvalue()
    raw = sorted(set(SEEN) & set(shown.replace("\n", "")))
    if raw:
        raise WrongError("raw text", f"{line}: {raw!a} is not escaped\n{shown!a}")
    lines = said.splitlines()
    if any(not one.startswith(("routectl: ", "hint: ")) for one in lines):
        raise WrongError("lines", f"{line}: a line of its own\n{said!a}")
    if code == 2 and not (lines or out.getvalue()):  # a report may tell the trouble
        raise WrongError("lines", f"{line}: trouble without a word")
    return SimpleNamespace(code=code, out=out.getvalue(), err=said)


def _rows(sample, *, sort):
    if sample.routes is None:
        return None
    routes = sample.routes
    ids = np.sort(routes.ids_TLK, axis=2) if sort else routes.ids_TLK
    if routes.missing_TL is not None:
        ids = np.where(routes.missing_TL[..., None], 0, ids)
    missing = (
        None
        if routes.missing_TL is None or not routes.missing_TL.any()
        else (routes.missing_TL.tolist())
    )
    return routes.start, routes.layers_L, ids.tolist(), missing


def _listed(values):
    return None if values is None else np.asarray(values).tolist()


def read_again(first, second, *, sort=False):
    """Raise WrongError unless two dumps hold the same routes, tokens, log-probs and ids."""
    if len(first) != len(second):
        raise WrongError("other samples", f"{len(first)} became {len(second)}")
    for i, (was, now) in enumerate(zip(first, second, strict=True)):
        if _rows(was, sort=sort) != _rows(now, sort=sort):
            raise WrongError("other routes", f"sample {i}")
        for name in ("prompt_ids", "response_ids", "logprobs", "loss_mask"):
            old, new = _listed(getattr(was, name)), _listed(getattr(now, name))
            if repr(old) != repr(new):  # NaN is NaN
                raise WrongError("other fields", f"sample {i}: {name}: {old!a}, {new!a}"[:300])
        for name in ("sample_id", "group_id", "weight_spans", "finish_reason", "prompt_length"):
            old, new = getattr(was, name), getattr(now, name)
            if old != new:
                raise WrongError("other fields", f"sample {i}: {name}: {old!a}, {new!a}"[:300])


def opened_whole(path, **options):
    """The dump, all its samples read once; None where one of them is refused."""
    try:
        dump = open_dump(path, **options)
        for _ in dump:
            pass
    except RoutectlError:
        return None
    return dump


def _ended():
    """What does not end by itself is ended; in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        return contextlib.nullcontext()
    return ended_after(ENDLESS_S, EndlessError())


def _place(error):
    """The innermost lines of the house in a traceback, without their numbers' drift."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/routectl/" in f.filename]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno} {last.name}"


def _place_of_text(text):
    """The same of a traceback that was printed."""
    lines = [line.strip() for line in text.splitlines()]
    files = [line for line in lines if line.startswith('File "') and "/routectl/" in line]
    last = files[-1].rpartition("/")[2] if files else ""
    error = next((line for line in reversed(lines) if "Error" in line.partition(":")[0]), "")
    return f"{error.partition(':')[0]} in {last}"


def watched(target, judge, place, case):
    """Judge a case: a Finding, or None. ``place`` writes its files and gives their folder.

    What was slow is judged once more: a kernel may have been compiled for it.
    """
    found = _watched(target, judge, place(), case)
    return _watched(target, judge, place(), case) if found and found.kind == "slow" else found


def _watched(target, judge, folder, case):
    before_s, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with _ended():
            judge(folder)
    except RoutectlError:
        pass
    except EndlessError:
        return Finding(target, "endless", "", f"after {ENDLESS_S} s", case)
    except WrongError as wrong:
        where = _place_of_text(str(wrong)) if wrong.kind == "bug" else str(wrong)[:80]
        return Finding(target, wrong.kind, where, str(wrong), case)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        return Finding(target, "raised", _place(error), traceback.format_exc(), case)
    took_s = time.process_time() - before_s
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if took_s > MOST_S:
        return Finding(target, "slow", "", f"{took_s:.1f} s of the processor", case)
    if grown > MOST_BYTES:
        return Finding(target, "large", "", f"{grown >> 20} MB more", case)
    return None
