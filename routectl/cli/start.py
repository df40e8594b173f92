"""The console script, begun before anything is loaded that could be interrupted."""

import atexit
import gc
import os
import signal
import sys

# Made and not let go of, before anybody looks for circles among them: what is loaded stays, and to
# look at it each time is a tenth of a start.
_OBJECTS = 50_000

__all__ = ["console_script"]


def _open_streams() -> None:
    """Give a process that was started without some of its streams others in their place.

    stderr goes nowhere, and what is written to stdout fails, which is said: an answer is not lost
    in silence. stdin stays none to who would read it. Left closed, the next file that is opened
    would be that stream.
    """
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, flags)  # the lowest that is free: 0, 1 or 2
            if name != "stdin":
                setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def console_script() -> None:
    """Run the command line of this process, and exit by it.

    While it is loaded there is nothing to clean up: SIGINT, where it is not ignored, ends the
    process at once, and quietly.
    """
    _open_streams()
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.set_threshold(_OBJECTS)
    atexit.register(gc.freeze)  # what is left at the end is not searched for garbage
    from .main import script

    script()
