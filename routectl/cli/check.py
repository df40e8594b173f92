"""``routectl check DUMP``."""

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import RoutectlError, did_you_mean
from ..jobs.check.request import CheckRequest, answer_check, check_dump, write_fixed
from .desk import CommandLine, desk
from .terminal import TERMINAL, answer

if TYPE_CHECKING:
    from rich.console import Console

    from ..reports.check.schema import CheckDocument

__all__ = ["check_command"]

_VOICES = "html exit_zero as_json summary no_tokens output force"


@desk("rules", CheckRequest, _VOICES, optional="dump")
def check_command(line: CommandLine) -> int:
    """Say what is wrong with a dump: which bug, where, and what to do.

    From the dump alone: counts, ids, filler by position, constant layers, repeats, weight
    versions, groups. Against a reference: why the two differ, by what each hypothesis would leave
    of the mismatch. docs/checks.md lists every finding, and `routectl check --rules`. Exit status:
    0 no finding of the severity of --fail-on, 1 at least one, 2 trouble (the dump cannot be opened
    at all).
    """
    voices = line.voices
    if voices.rules:
        return _rules(line.values["dump"])
    if line.values["dump"] is None:
        raise RoutectlError("no dump is named", hint="routectl check --help")
    request = replace(line.request(CheckRequest), force=voices.force)
    voices.refuse()
    if request.share.partial is not None:
        voices.refuse_report()
        voices.tell_saved(answer_check(request, TERMINAL))
        return 0
    checked = check_dump(request, TERMINAL)
    voices.tell(checked.document, _render)
    write_fixed(checked, request, TERMINAL)
    return voices.code(checked.document)


def _render(document: "CheckDocument", console: "Console") -> None:
    """As render_check does, which is not loaded before the dump is read, nor for --json."""
    from ..reports.check.text import render_check

    render_check(document, console)


def _rules(code: str | None) -> int:
    """Print the entry of a finding, or a line of each whose code begins so."""
    from ..ops.check.book.findings import kind_of, known_codes
    from ..reports.check.rules import rule_page, rules_page

    page = rule_page(kind_of(code)) if code in known_codes() else rules_page(code or "")
    if not page:
        raise RoutectlError(
            f"--rules {code}: no finding's code begins so",
            hint=did_you_mean(code, known_codes()) or "routectl check --rules lists all",
        )
    answer(page)
    return 0
