"""Where an answer goes: -o by suffix, --summary, options that many commands share, help."""

import csv
import io
import json

import pytest
from markdown_it import MarkdownIt

from routectl.cli.words.commands import COMMANDS, command_lines
from routectl.cli.words.help import SHARED
from routectl.reports.diff.text import render_diff
from routectl.reports.text.main_table import csv_table, main_table
from routectl.reports.text.markdown import markdown_report
from routectl.visible import visible
from support.pages import HOSTILE, Parsed, hostile_document
from support.recordings import FIXTURES
from support.shell import complaint, document, on_terminal, run, written
from support.tiny_rl import ENGINE, TINY

V0 = TINY / "routes_v0.fp32.npz"
DIFF = ("diff", ENGINE, V0, "--sample", "0/0", "--exit-zero")
ELEMENTS = {*["h3", "ul", "li", "strong", "p", "table", "thead", "tbody", "tr", "th", "td"]}
LINES = [line.split() for line, _ in command_lines()]


class TestForms:
    """-o NAME: the suffix says the form."""

    @pytest.mark.parametrize("name", ["x", "x.xml", "x.json.bak", "dir.html/x"])
    def test_another_suffix_is_refused(self, capsys, tmp_path, name):
        """It is refused with the list before anything is read, and nothing is written."""
        said = complaint(capsys, "diff", "gone", "gone", "-o", tmp_path / name)
        assert ": a report is one of .json, .html, .txt, .md, .csv; - is stdout\n" in said
        assert written(tmp_path) == []

    def test_text(self, capsys, tmp_path):
        """NAME.txt is what a pipe gets; - is stdout; in capitals too."""
        piped = run(capsys, *DIFF).out
        for name in ("x.txt", "y.TXT"):
            done = run(capsys, *DIFF, "-o", tmp_path / name)
            verdict = piped.splitlines()[0]
            assert (done.out, done.err) == ("", f"routectl: wrote {tmp_path / name}: {verdict}\n")
            assert (tmp_path / name).read_text("utf-8") == piped
        assert run(capsys, *DIFF, "-o", "-").out == piped

    def test_json_is_the_whole(self, capsys, tmp_path):
        """NAME.json has what --json prints, and detail; report makes the whole page of it."""
        saved, page, again = (tmp_path / name for name in ("x.json", "x.html", "y.html"))
        run(capsys, *DIFF, "-o", saved)
        whole = json.loads(saved.read_text("utf-8"))
        assert whole.pop("detail")["sequences"]
        assert whole == document(capsys, *DIFF)
        run(capsys, *DIFF, "-o", page)
        assert run(capsys, "report", saved, "-o", again).code == 0
        assert page.read_bytes() == again.read_bytes()

    def test_markdown(self, capsys, tmp_path):
        """NAME.md, rendered by markdown-it, has the verdict as heading, and a table whose figures
        are the text's.
        """
        run(capsys, *DIFF, "-o", tmp_path / "x.md")
        text = (tmp_path / "x.md").read_text("utf-8")
        page = Parsed(MarkdownIt("commonmark").enable("table").render(text))
        shown = run(capsys, *DIFF).out
        assert text.startswith("### DIFFERS ")
        assert " ".join(shown.splitlines()[0].split()) in " ".join(page.text.split())
        lines = [line.split() for line in shown.splitlines()]
        table = page.tables[0]
        for row in table[1:]:
            assert "".join("".join(row).split()) in ["".join(line) for line in lines]
        assert set(page.tags) <= ELEMENTS

    def test_csv(self, capsys, tmp_path):
        """NAME.csv is the table of layers, read by csv: the document's figures."""
        run(capsys, *DIFF, "-o", tmp_path / "x.csv")
        text = (tmp_path / "x.csv").read_bytes().decode()
        rows = list(csv.DictReader(io.StringIO(text)))
        for row, layer in zip(rows, document(capsys, *DIFF)["layers"], strict=True):
            assert int(row["layer"]) == layer["layer"]
            assert float(row["mismatch_rate"]) == layer["mismatch_rate"]
            assert row["swaps"] == " ".join(map(str, layer["swaps"]))

    @pytest.mark.parametrize("name", ["diff", "check", "staleness", "series", "show", "checkpoint"])
    def test_every_document_has_a_table(self, name):
        """A document's main table has a line for each entry; no cell is a list or a table."""
        doc = json.loads((FIXTURES / "golden" / f"{name}.json").read_text("utf-8"))
        names, rows = main_table(doc)
        assert len(names) >= 3
        assert rows
        assert not [cell for row in rows for cell in row if isinstance(cell, dict | list)]

    def test_hostile_markdown(self):
        """Rendered by markdown-it, links found too, hostile names are text: our elements alone."""
        text = markdown_report(hostile_document(), render_diff)
        render = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render
        page = Parsed(render(text))
        assert set(page.tags) <= ELEMENTS | {"code"}
        assert page.attributes in ([], [("style", "text-align:right")] * len(page.attributes))
        squeezed = "".join(page.text.split())
        for name in (name for name in HOSTILE if len(name) < 100):  # others are cut
            assert "".join(visible(name).split()) in squeezed

    @pytest.mark.parametrize(
        "begin", ["- x", "+ x", "1. x", "12) x", "=== x", "# x", "> x", "    x"]
    )
    def test_a_line_begins_nothing(self, begin):
        """A line that begins as a list, a heading or a quotation is a paragraph."""

        def render(_, console):
            for line in ("HEAD", begin, begin):
                console.print(line)

        page = Parsed(MarkdownIt("commonmark").render(markdown_report({}, render)))
        assert page.tags.count("p") == 2
        assert set(page.tags) == {"h3", "p"}
        assert page.text.split() == f"HEAD {begin} {begin}".split()

    @pytest.mark.parametrize("text", ["=1+1", " @SUM(A1)", "+1", "-1", "\t=1", "＝1"])
    def test_a_cell_is_no_formula(self, text):
        """What a spreadsheet would run is quoted; numbers below 0 are numbers."""
        run_of = {"name": text, "check": 'a,"b\n', "exit_code": -1}
        out = csv_table({"schema": "routectl.ci/1", "runs": [run_of]})
        ((name, check, code),) = list(csv.reader(io.StringIO(out)))[1:]
        assert name.startswith("'")
        assert (check, code) == ('a,"b\\n', "-1")

    def test_what_does_not_go_together(self, capsys, tmp_path):
        """--json with another form, and --summary with --json on stdout, are refused first."""
        line = ("diff", "gone", "gone")
        assert "the suffix says the form" in complaint(
            capsys, *line, "--json", "-o", tmp_path / "x.txt"
        )
        assert "--summary is of text" in complaint(capsys, *line, "--summary", "--json")
        assert run(capsys, *DIFF, "--json", "-o", tmp_path / "x.json").code == 0


def test_a_summary_is_ten_lines(capsys, tmp_path):
    """--summary prints the verdict and at most nine lines more; a file beside it has the whole."""
    short, whole = run(capsys, *DIFF, "--summary").out, run(capsys, *DIFF).out
    assert short.splitlines()[0] == whole.splitlines()[0]
    assert 1 < len(short.splitlines()) <= 10 < len(whole.splitlines())
    for name in ("x.txt", "x.json", "x.html"):
        done = run(capsys, *DIFF, "--summary", "-o", tmp_path / name)
        assert (done.out, done.err) == (short, f"routectl: wrote {tmp_path / name}\n")
    assert (tmp_path / "x.txt").read_text("utf-8") == whole


class TestShared:
    """Options that many commands share are told once."""

    @pytest.mark.parametrize("words", LINES, ids=" ".join)
    def test_help_names_them_in_its_last_line(self, capsys, words):
        """Each that a command takes, and no other, is in the last line of its help and nowhere
        above; -h, --help and help are the same.
        """
        told = run(capsys, *words, "--help").out
        above, _, last = told.rpartition("\nAlso: ")
        function = dict(command_lines())[" ".join(words)]
        own = {f"--{about.flag}" for _, about in function.options if about.shared}
        own |= {f"-{about.short}" for _, about in function.options if about.shared and about.short}
        last = " ".join(last.split())
        for flag in (told.split()[0] for told in SHARED):
            taken = flag in own or flag in ("--plain", "--limit", "-h,")
            assert (f" {flag.strip(',')}" in f" {last}") == taken, flag
            assert not (taken and f"\n  {flag} " in above)
        for other in ((*words, "-h"), ("help", *words)):
            assert run(capsys, *other).out == told

    def test_help_of_all(self, capsys):
        """``routectl --help`` has every command and every shared option, at most 80 columns wide;
        ``help`` and -h are the same; no word is broken.
        """
        told = run(capsys, "--help").out
        assert run(capsys, "-h").out == run(capsys, "help").out == told
        for name in (*COMMANDS, *SHARED):
            assert f"\n  {name} " in told
        assert max(map(len, told.splitlines())) <= 80
        assert not [line for line in told.splitlines() if line.endswith("-")]

    def test_plain_anywhere(self, capsys, monkeypatch):
        """--plain before or after the command prints to a terminal what a pipe gets."""
        piped = run(capsys, *DIFF).out
        assert on_terminal(monkeypatch, 200, *DIFF)[1] != piped
        for words in (("--plain", *DIFF), (*DIFF, "--plain")):
            assert on_terminal(monkeypatch, 200, *words) == (0, piped)

    def test_choices_are_listed(self, capsys):
        """A word that is none of an option's choices: the nearest, and below it all of them."""
        said = complaint(capsys, "diff", "a", "b", "--match", "toks")
        assert said == (
            "routectl: --match 'toks' is not known: did you mean tokens?\n"
            "hint: known: auto, id, tokens, prefix, order\n"
        )
        assert "Join samples by auto, id, tokens, prefix or order" in " ".join(
            run(capsys, "diff", "--help").out.split()
        )

    @pytest.mark.parametrize(
        ("words", "near"),
        [
            (("diff", "a", "b", "--fail-over", "mismach:1%"), "mismatch"),
            (("diff", "a", "b", "--limit", "cel=1GB"), "cell"),
            (("show", "a::formt=json"), "format="),
            (("show", "a::format=jsnl"), "jsonl"),
            (("check", "--rules", "r709"), "R709"),
            (("check", "a", "--ignore", "R709x"), "R709"),
            (
                ("capture", "http://a", "--prompts", "a", "--save", "b", "--endpoint", "chatt"),
                "chat",
            ),
            (("layout", "--lens", "5", "--layout", "framewrk=verl"), "framework"),
            (("layout", "--lens", "5", "--layout", "form=thdd"), "thd"),
            (("layout", "--lens", "5", "--layout", "fp8=blokwise"), "blockwise"),
        ],
    )
    def test_a_misspelt_name_is_answered_with_the_nearest(self, capsys, words, near):
        """Of a metric, a budget, a key, a format, a code, a word of an option: whoever refuses."""
        assert f": did you mean {near}?\n" in complaint(capsys, *words)

    @pytest.mark.parametrize(
        ("words", "named"),
        [
            (("show", "a", "-o", "a.json", "-ob.json"), "-o"),
            (("show", "a", "-o", "a.json", "--output", "a.json"), "-o"),
            (("diff", "a", "b", "--eps=1", "--eps", "2"), "--eps"),
            (("staleness", "a", "--method", "level=0.9,level=0.8"), "--method level"),
            (("show", "a", "--limit", "cell=1GB", "--limit", "cell=2GB"), "--limit cell"),
        ],
    )
    def test_an_option_of_one_value_is_given_once(self, capsys, words, named):
        """The last would win in silence: it is refused, whatever spelling it has."""
        said = complaint(capsys, *words)
        assert said == f"routectl: {named} is given twice: it takes one value\n"

    def test_every_option_of_one_value_is_refused_twice(self, capsys):
        """Of every command; one that is repeatable, and a flag, may be there again."""
        for command, function in command_lines():
            for one, about in function.options:
                if about.positional or one.type is bool:
                    continue
                word = f"--{about.flag}" + ("" if one.type == bool | None else "=1")
                told = complaint(capsys, *command.split(), word, word)
                twice = f"{about.named} is given twice" in told
                assert twice == (one.type != tuple[str, ...]), (command, about.flag)
