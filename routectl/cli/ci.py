"""``routectl ci [CONFIG]``."""

import os
from dataclasses import replace
from functools import partial

from ..jobs.ci.request import CiRequest, answer_ci
from .desk import CommandLine, desk
from .services import Services, say_all
from .terminal import TERMINAL

__all__ = ["ci_command"]


@desk(CiRequest, Services, "html exit_zero as_json summary output force")
def ci_command(line: CommandLine) -> int:
    """Run the checks of a config: each a diff, a check or a staleness with its thresholds.

    All are run, whatever the others come to. Exit status: 0 all passed, 1 at least one is over a
    threshold, 2 trouble with the config or at least one check; 2 wins over 1. docs/ci.md has the
    config, baselines, and workflows for GitHub and GitLab.
    """
    from ..reports.ci.text import render_ci

    request, services, voices = line.request(CiRequest), line.request(Services), line.voices
    voices.refuse()
    services.refuse(voices)
    document = answer_ci(request, TERMINAL)
    if services.github is None:
        services = replace(services, github=os.environ.get("GITHUB_ACTIONS") == "true")
    say_all([partial(voices.tell, document, render_ci), *services.sayings(document, voices)])
    code = int(document["verdict"]["exit_code"])
    return 0 if voices.exit_zero and code == 1 else code
