"""Old spellings of the command line: each is one line that has the new one."""

import pytest

from routectl.cli.words.commands import COMMANDS
from routectl.cli.words.spellings import own_flags
from routectl.jobs.spellings import OLD, POSITIONAL
from support.shell import complaint

ENTRIES = [(command, flag, new) for command, flags in OLD.items() for flag, new in flags.items()]
GONE = [one for one in ENTRIES if one[0] in COMMANDS and one[1] not in own_flags(one[0])]


def test_no_old_flag_is_one_of_today():
    """A flag is old or of today."""
    assert [one for one in ENTRIES if one not in GONE] == []


@pytest.mark.parametrize(("command", "flag", "new"), GONE, ids=lambda text: text)
def test_an_old_flag_is_answered(capsys, command, flag, new):
    """One line on stderr, exit 2, whatever else the line has."""
    for words in ((flag,), ("x", f"{flag}=y"), ("x", "y", flag, "z", "--json")):
        said = complaint(capsys, command, *words)
        assert said == f"routectl: {command} {flag} is now: {new}\n"


@pytest.mark.parametrize("command", POSITIONAL)
def test_an_old_place_is_answered(capsys, command):
    """A word too many is answered with the option that says it now."""
    count, told = POSITIONAL[command]
    assert complaint(capsys, command, *(f"w{n}" for n in range(count))) == f"routectl: {told}\n"


@pytest.mark.parametrize("command", POSITIONAL)
def test_a_mistyped_option_is_no_word_too_many(capsys, command):
    """What is wrong is the option, not its value behind it."""
    said = complaint(capsys, command, "x", "--agianst", "y", "z")
    assert said.startswith("routectl: No such option: --agianst")


def test_the_table_is_of_the_commands():
    """The table has no word that is no command."""
    assert {*OLD, *POSITIONAL} <= set(COMMANDS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "x", "--exit-zero"), "show has no use for --exit-zero"),
        (("capture", "--summary", "x"), "capture has no use for --summary"),
        (("show", "x", "--nothing"), "No such option: --nothing"),
    ],
)
def test_a_shared_option_of_others_is_refused_by_name(capsys, words, said):
    """A shared option that a command has no use for is refused by its name, as any other is."""
    assert complaint(capsys, *words).startswith(f"routectl: {said}")
