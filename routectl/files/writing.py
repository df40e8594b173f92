"""Writing a file whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import RoutectlError

__all__ = ["mode_of", "refuse_existing", "replacing"]


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
        temporary.chmod(mode_of(0o666))
        temporary.replace(path)
    except OSError as error:
        raise RoutectlError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def mode_of(mode: int) -> int:
    """A mode less what the process's umask takes away."""
    mask = os.umask(0)
    os.umask(mask)
    return mode & ~mask
