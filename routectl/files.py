"""Reading a small file, and writing one whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import FormatError, RoutectlError

__all__ = ["read_text", "refuse_existing", "replacing", "replacing_folder"]


def read_text(path: Path, most: int, too_large: str) -> str:
    """The text of a file of at most ``most`` bytes.

    Raises FormatError where it cannot be read or has more, as ``too_large`` says then, ValueError
    where it is no UTF-8.
    """
    try:
        if path.stat().st_size > most:
            raise FormatError(f"{path}: {too_large}")
        return path.read_text("utf-8")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise RoutectlError when ``path`` exists and ``force`` is false."""
    if path.exists() and not force:
        raise RoutectlError(f"{path}: already exists", hint="--force to replace it")


@contextmanager
def replacing(path: Path, *, force: bool) -> Iterator[IO[bytes]]:
    """A binary stream that becomes ``path`` when the block ends well, and vanishes otherwise.

    The bytes go to a temporary name in the same folder, which is the stream's, are fsynced, then
    renamed. Raises RoutectlError when ``path`` exists and ``force`` is false, or cannot be written.
    """
    try:
        refuse_existing(path, force=force)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise RoutectlError(f"{path}: cannot be written: {error.strerror}") from None
    temporary = Path(name)
    try:
        with open(name, "wb", opener=lambda *_: handle) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise RoutectlError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _refuse_foreign(path: Path, foreign: Callable[[Path], str | None]) -> None:
    reason = foreign(path) if path.exists() else None
    if reason is not None:
        raise RoutectlError(f"{path}: {reason}, so --force does not replace it")


@contextmanager
def replacing_folder(
    path: Path, *, force: bool, foreign: Callable[[Path], str | None]
) -> Iterator[Path]:
    """A folder that becomes ``path`` when the block ends well, and vanishes otherwise.

    ``force`` replaces a folder only if ``foreign`` finds nothing in it that would be lost: it gives
    the reason to keep a folder, or None. Of a link, what it points to is replaced. Raises
    RoutectlError when ``path`` exists and may not be replaced, or on a full disk.
    """
    refuse_existing(path, force=force)
    _refuse_foreign(path, foreign)
    path = path.resolve() if path.is_symlink() else path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise RoutectlError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        yield work
        work.chmod(0o777 & ~_umask())
        _refuse_foreign(path, foreign)  # what came in the meantime is kept, too
        if path.exists():
            old = path.rename(work.with_suffix(".old"))
            work.rename(path)
            shutil.rmtree(old)
        else:
            work.rename(path)
    except OSError as error:
        raise RoutectlError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
