"""What was asked, as words: defaults left out, groups in, and a command line that asks it again."""

from pathlib import Path

from routectl.cli.main import main
from routectl.jobs.asked import asked_of
from routectl.jobs.check.request import CheckRequest
from routectl.jobs.diff.request import DiffRequest
from routectl.jobs.reading import Reading
from routectl.model import ModelFacts
from support.shell import document
from support.tiny_rl import ENGINE, TINY


def test_defaults_are_left_out():
    """Inputs alone, where nothing else was said; what says where data goes is never there."""
    assert asked_of(DiffRequest(old="a", new="b")) == {"inputs": ["a", "b"], "options": []}
    asked = asked_of(CheckRequest(dump="a", against="b", force=True))
    assert asked == {"inputs": ["a"], "options": [["--against", "b"]]}


def test_options_are_as_they_are_typed():
    """Repeated options are there as often, flags have no value, groups are told too."""
    request = DiffRequest(
        old="a::start=0",
        new="b",
        match="order",
        sample=("x", "#1"),
        allow_unmatched=True,
        eps=0.5,
        reading=Reading(model="6,4,32"),
    )
    assert asked_of(request) == {
        "inputs": ["a::start=0", "b"],
        "options": [
            ["--match", "order"],
            ["--sample", "x"],
            ["--sample", "#1"],
            ["--allow-unmatched"],
            ["--eps", "0.5"],
            ["--model", "6,4,32"],
        ],
    }
    config = Path("config.json")
    asked = asked_of(DiffRequest(old="a", new="b", reading=Reading(model=config)))
    assert asked["options"] == [["--model", "config.json"]]


def test_objects_have_no_words():
    """A model that a program made is no option."""
    facts = ModelFacts(6, tuple(range(6)), 32, 4, None)
    assert asked_of(DiffRequest(old="a", new="b", reading=Reading(model=facts)))["options"] == []


def test_a_document_asks_itself_again(capsys):
    """The words of a document are a command line of the same document."""
    line = ("diff", ENGINE, TINY / "routes_v0.fp32.npz", "--layers", "2-3", "--examples", "1")
    doc = document(capsys, *line, "--tokens", "response", code=1)
    words = [*doc["asked"]["inputs"], *(word for one in doc["asked"]["options"] for word in one)]
    assert document(capsys, "diff", *words, code=1) == doc
    assert main(["diff", *words, "--exit-zero"]) == 0
