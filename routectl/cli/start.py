"""The console script, begun before anything is loaded that could be interrupted."""

import gc
import signal

_OBJECTS = 50_000  # made and not let go of, before anybody looks for circles among them

__all__ = ["console_script"]


def console_script() -> None:
    """Run the command line of this process, and exit by it.

    While it is loaded there is nothing to clean up: SIGINT, where it is not ignored, ends the
    process at once, and quietly.
    """
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.set_threshold(
        _OBJECTS
    )  # what is loaded stays: to look at it each time is a tenth of a start
    from .main import script

    script()
