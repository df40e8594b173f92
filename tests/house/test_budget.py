"""How many words the command line has: docs/design.md says why they are few."""

import re
from pathlib import Path

from routectl.cli.words.commands import COMMANDS, command_lines

PAGE = Path(__file__).parent.parent.parent / "docs" / "cli.md"


def test_commands_are_few():
    """At most 17 commands."""
    assert len(COMMANDS) <= 17


def test_a_command_has_few_options():
    """At most 24 options in the list of a command; arguments and shared options aside."""
    counts = {
        line: sum(not (about.positional or about.shared) for _, about in function.options)
        for line, function in command_lines()
    }
    assert {line: count for line, count in counts.items() if count > 24} == {}


def test_all_options_are_few():
    """At most 200 of them in docs/cli.md, those of all commands."""
    options = re.findall(r"^  -", PAGE.read_text("utf-8"), re.MULTILINE)
    assert 100 < len(options) <= 200


def test_each_is_told_there():
    """docs/cli.md has every command, and every option of each in its own section, once."""
    text = PAGE.read_text("utf-8")
    for line, function in command_lines():
        section = text.partition(f"\n## routectl {line}\n")[2].partition("\n## ")[0]
        for _, about in function.options:
            if not (about.positional or about.shared):
                found = re.findall(rf"^  .*--{about.flag}\b(?!-)", section, re.MULTILINE)
                assert found, (line, about.flag)
