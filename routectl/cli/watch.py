"""``routectl watch DIR``."""

from dataclasses import replace
from typing import Any

from ..jobs.watch.request import WatchRequest, watch_folder
from .desk import CommandLine, desk
from .terminal import TERMINAL, answer

__all__ = ["watch_command"]


@desk(WatchRequest, "lines exit_zero")
def watch_command(line: CommandLine) -> int:
    """Follow a training run's dump folder: check each new dump, print a line each.

    A file is read when it has not changed for --settle seconds; one that cannot be read then is
    waited for, and reported once when it has not changed for --give-up seconds. DIR is stat'ed and
    never written into. Ends by --once, --until-idle, Ctrl-C (130) or SIGTERM (143). Exit status
    of an end of its own: 0 no finding of the severity of --fail-on, 1 at least one, 2 a dump that
    could not be checked, or none seen, or a model that --model must name. docs/live.md says more.
    """
    from ..reports.check.text import watch_text
    from ..reports.document import to_line, visible_document

    def tell(document: Any) -> None:
        if line.voices.lines:
            print(to_line(document), flush=True)
        else:
            answer(watch_text(visible_document(document)))

    request = line.request(WatchRequest)
    code = watch_folder(request, replace(TERMINAL, part=tell)).exit_code
    return 0 if line.voices.exit_zero and code == 1 else code
