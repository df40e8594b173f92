"""``routectl cache``."""

from ..jobs.recompute.listing import CacheRequest, answer_cache
from .desk import CommandLine, desk
from .terminal import TERMINAL

__all__ = ["cache_command"]


@desk(CacheRequest, "as_json output force")
def cache_command(line: CommandLine) -> int:
    """List what is kept of checkpoints that were run, or let go of it.

    diff, check and staleness keep the routes that they compute at a checkpoint, below
    XDG_CACHE_HOME or ~/.cache. The cache holds 20 GB (--limit cache=SIZE): what was not used for
    longest goes first, never what a run is using. Exit status: 0 done, 1 something that was to go
    is in use, 2 trouble.
    """
    from ..reports.cache.text import render_cache

    request, voices = line.request(CacheRequest), line.voices
    voices.refuse()
    document = answer_cache(request, TERMINAL)
    voices.tell(document, render_cache)
    return int(bool(document["in_use"]))
