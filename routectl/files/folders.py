"""Writing a folder whole or not at all."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import RoutectlError
from .writing import mode_of, refuse_existing

__all__ = ["replacing_folder"]


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
        work.chmod(mode_of(0o777))
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
