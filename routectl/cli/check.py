"""``routectl check DUMP``."""

from dataclasses import replace

from ..errors import RoutectlError
from ..jobs.check.request import CheckRequest, check_dump, write_fixed
from .desk import CommandLine, desk
from .terminal import TERMINAL, answer

__all__ = ["check_command"]

_VOICES = "apply_fix html exit_zero as_json summary no_tokens output force"


@desk("explain", CheckRequest, _VOICES, optional="dump")
def check_command(line: CommandLine) -> int:
    """Say what is wrong with a dump: which bug, where, and what to do.

    From the dump alone: counts, ids, filler by position, constant layers, repeats, weight
    versions, groups. Against a reference: why the two differ, by what each hypothesis would leave
    of the mismatch. docs/checks.md lists every finding. Exit status: 0 no finding of the severity
    of --fail-on, 1 at least one, 2 trouble (the dump cannot be opened at all).
    """
    from ..reports.check.text import render_check

    voices = line.voices
    if voices.explain is not None:
        return _explain(voices.explain)
    if line.values["dump"] is None:
        raise RoutectlError("no dump is named", hint="routectl check --help")
    request = line.request(CheckRequest)
    voices.refuse()
    if voices.apply_fix and (voices.target is None or request.against is None):
        raise RoutectlError("--apply-fix needs --against REFERENCE and -o DST.parquet")
    checked = check_dump(request, TERMINAL)
    told = replace(voices, output=None) if voices.apply_fix else voices  # -o is the dump's then
    told.tell(checked.document, render_check)
    if voices.apply_fix and voices.output is not None:
        write_fixed(checked, voices.output, voices.force, TERMINAL)
    return voices.code(checked.document)


def _explain(code: str) -> int:
    from ..ops.check.book.findings import kind_of, known_codes
    from ..reports.check.document import explain_page

    if code not in known_codes():
        raise RoutectlError(f"--explain {code}: expected one of {', '.join(known_codes())}")
    answer(explain_page(kind_of(code)))
    return 0
