"""The console script, begun before anything is loaded that could be interrupted."""

import signal

__all__ = ["console_script"]


def console_script() -> None:
    """Run the command line of this process, and exit by it.

    While it is loaded there is nothing to clean up: SIGINT, where it is not ignored, ends the
    process at once, and quietly.
    """
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .main import script

    script()
