"""One text that tries everything, and what a terminal, a log's reader or a table would make of it.

Nothing here calls the code under test: characters are judged by their category, lines by the rules
of those who read logs.
"""

import copy
import re
import unicodedata

__all__ = ["LONG", "POISON", "POISONS", "SURROGATE", "commands_in", "faults_of", "poisoned"]

POISON = (
    "\x1b[2J\x1b]0;owned\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\x9b31m\x90q\x00\x7f\x08"
    "\u202eabc\u2066\u200b\ufeff\u2028\u2029\x85\x0b\x0c\ufe0f\u3164\U000e0041"
    "\n::error file=a,line=1::gotcha\r\n \u00a0::add-mask::x\n##[error]gotcha\n##vso[task.x]x"
    "\n##teamcity[buildStop]\nsection_start:1560896352:x\r\x1b[0K::stop-commands::t\n"
    "=cmd|'/C calc'!A0<script>alert(1)</script>|`x`[a](http://x)![b](http://x)@all &amp; \"'$(id)"
)
LONG = "::error::" + "x" * 10_000 + "\x1b[0m"
SURROGATE = "\ud800::error::\udc9b"
POISONS = {
    "all": POISON,
    "long": LONG,
    "surrogate": SURROGATE,
    "formula": "=cmd()",
    "start": "::error",
}
_SGR = re.compile(r"\x1b\[[0-9;]*m")  # colours, which are ours
_FORBIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_IGNORED = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10)))
_LONGEST = 20_000  # characters of a line
# actions/runner, src/Runner.Worker/ActionCommandManager.cs and its extensions
_REGISTERED = {
    *("add-mask", "add-matcher", "add-path", "debug", "echo", "endgroup", "error", "group"),
    *("internal-set-repo-path", "notice", "remove-matcher", "save-state", "set-env"),
    *("set-output", "stop-commands", "warning"),
}


def _named(info):
    """Whether what stands before the first blank is a command of the runner, in any case."""
    return info.split(" ", 1)[0].lower() in _REGISTERED


def commands_in(line):
    """What a log's reader would do at this line; empty for plain text.

    GitHub: actions/runner, src/Runner.Common/ActionCommand.cs, TryParseV2 (`::name k=v::data` after
    blanks are trimmed as .NET does) and TryParse (`##[name k=v]data` anywhere in the line). Azure:
    microsoft/azure-pipelines-agent, Command.cs, `##vso[` anywhere. TeamCity: `##teamcity[`. GitLab:
    gitlab-org/gitlab, lib/gitlab/ci/ansi2json, `section_start:TIME:NAME`.
    """
    found = []
    trimmed = line.strip()
    if trimmed.startswith("::"):
        end = trimmed.find("::", 2)
        if (end >= 0 and _named(trimmed[2:end])) or _named(trimmed[2:]):
            found.append("github")
    at = line.find("##[")
    if at >= 0 and line.find("]", at) >= 0 and _named(line[at + 3 : line.find("]", at)]):
        found.append("github, anywhere")
    found += [mark for mark in ("##vso[", "##teamcity[", "##[") if mark in line]
    found += re.findall(r"^section_(?:start|end):\d+:", trimmed)
    return found


def faults_of(text, *, own=(), longest=_LONGEST):
    """What is wrong with text that was printed: its characters, its lines, commands in them.

    Lines that begin with one of ``own`` are commands of ours.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")  # a lone surrogate fails here
    plain = _SGR.sub("", text).replace("\r\n", "\n")
    faults = []
    for line in plain.split("\n"):
        bad = [c for c in line if unicodedata.category(c) in _FORBIDDEN or c in _IGNORED]
        faults += [f"U+{ord(c):04X} in {line[:80]!r}" for c in bad[:3]]
        if not line.startswith(tuple(own)) or not own:
            faults += [f"{command} in {line[:80]!r}" for command in commands_in(line)]
        if len(line) > longest:
            faults.append(f"a line of {len(line)} characters: {line[:80]!r}")
    return faults


def poisoned(document, poison, keep=(), *, longest=200):
    """The document with each text in it, but for values of keys to keep and payloads, poisoned."""
    document = copy.copy(document)
    if isinstance(document, dict):
        return {
            k: v if k in keep else poisoned(v, poison, keep, longest=longest)
            for k, v in document.items()
        }
    if isinstance(document, list):
        return [poisoned(v, poison, keep, longest=longest) for v in document]
    return poison if isinstance(document, str) and len(document) < longest else document
