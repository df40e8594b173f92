"""A worker process: it is told of work, then of one shard after another, and tells what came.

What it says is (kind, shard's number, value), kind one of the constants below.
"""

import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from ...errors import RoutectlError
from ...limits import within
from .work import Shard, Work

__all__ = ["BUG", "DONE", "FAILED", "READY", "TOTAL", "Told", "done_by", "serve", "with_more"]

READY, DONE, FAILED, TOTAL, BUG = "ready", "done", "failed", "total", "bug"
Told = tuple[str, int, Any]


def done_by(work: Work[Any], shard: Shard) -> Any:
    """What a shard gives, or the RoutectlError that it raised."""
    try:
        return work.partial(shard)
    except RoutectlError as error:
        return error
    except MemoryError:
        return RoutectlError(f"{shard.name}: out of memory", hint="--jobs N with fewer processes")


def with_more(total: Any, partial: Any) -> Any:
    """What was added up, and one partial more; ``total`` is None of none."""
    return partial if total is None else total + partial


def serve(number: int, modules: Sequence[str] = ()) -> None:
    """Do what comes through a socket, until nothing more does; ``modules`` are imported first."""
    end = Connection(number)
    threading.Thread(target=_end_with_parent, args=(number,), daemon=True).start()
    signal.signal(signal.SIGTERM, _clean_up)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    try:
        for name in modules:
            import_module(name)
        while True:
            work, folds, budgets = end.recv()
            with within(budgets):
                _take_shards(end, work, folds)
            del work
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # whoever asked is gone
    except RoutectlError as error:  # what is opened here cannot be: another one opened it before
        end.send((FAILED, -1, error))
    except Exception:  # noqa: BLE001 - told to whoever asked, as a bug
        end.send((BUG, -1, traceback.format_exc()))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left to be cleaned up


def _clean_up(*_: Any) -> None:
    """End as an error does, once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


def _take_shards(end: Connection, work: Work[Any], folds: bool) -> None:
    """Each shard that comes; with ``folds`` what they give is added up and told at the end."""
    total = None
    end.send((READY, -1, None))
    while (told := end.recv()) is not None:
        number, shard = told
        result = done_by(work, shard)
        if isinstance(result, RoutectlError):
            end.send((FAILED, number, result))
        elif folds:
            total = with_more(total, result)
            end.send((DONE, number, None))
        else:
            end.send((DONE, number, result))
    end.send((TOTAL, -1, total))


def _end_with_parent(number: int) -> None:
    """End at once when the other end of the socket is closed."""
    ends = select.poll()
    ends.register(number, 0)
    ends.poll()
    os._exit(1)
