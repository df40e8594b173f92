"""A run: what a journal lacks is asked of a server, the first request alone."""

from collections.abc import Callable, Sequence
from contextlib import closing

from ..errors import RoutectlError
from .asking import Asking, ask_all
from .http import RefusedError
from .journal import Journal
from .requests import Request

__all__ = ["collect"]


def collect(
    asking: Asking,
    requests: Sequence[Request],
    journal: Journal,
    *,
    skip_refused: bool,
    on_answer: Callable[[int], None],
) -> list[tuple[Request, RefusedError]]:
    """Ask for every sample that the journal lacks, and return those that the server refused.

    The first is asked for alone: a server without routes, or with another model, is found out
    before others are asked. ``on_answer`` gets the tokens of each answer. Raises RoutectlError
    when the run cannot go on, or a request is refused and ``skip_refused`` is false; what came
    before is in the journal.
    """
    missing = [request for request in requests if request.sample_id not in journal]
    refused: list[tuple[Request, RefusedError]] = []
    for batch in (missing[:1], missing[1:]):
        with closing(ask_all(asking, batch)) as answers:
            for asked in answers:
                if asked.refused is not None:
                    if not skip_refused:
                        raise RoutectlError(
                            str(asked.refused), hint="--skip-refused goes on without it"
                        )
                    refused.append((asked.request, asked.refused))
                    continue
                assert asked.answer is not None
                journal.add(asked.request.sample_id, asked.answer)
                on_answer(asked.answer.tokens)
    return refused
