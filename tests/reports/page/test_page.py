"""Pages without a browser: whole, escaped, readable without scripts, equal to their JSON."""

import hashlib
import json
import random
import re
from base64 import b64encode

import pytest

from routectl.errors import FormatError
from routectl.ops.diff.diff import DiffOptions, diff_as
from routectl.reports.diff.document import diff_document
from routectl.reports.document import to_json
from routectl.reports.page.page import html_page, with_texts
from routectl.reports.text.wording import amount, percent
from support.pages import HOSTILE, NEW, OLD, Parsed, hostile_document, large_dumps
from support.recordings import FIXTURES
from support.shell import complaint, detailed, document, run

GOLDEN = sorted(p for p in (FIXTURES / "golden").glob("*.json") if p.name != "codecs.json")
FORBIDDEN = (
    "innerHTML",
    "outerHTML",
    "insertAdjacent",
    "document.write",
    "eval(",
    "Function(",
    "http:",
    "https:",
    "fetch(",
    "XMLHttp",
    "import(",
    "</",
)
ASSETS = FIXTURES.parent / "routectl" / "reports" / "page" / "assets"


ODD = (None, -1, 1e308, 10**400, "x", "</script>", "\ud800", True, [], {}, [1], {"a": 1})


def damaged(document, rng):
    """The document with one value somewhere gone, or another."""
    found = json.loads(json.dumps(document))
    place, keys = found, [key for key in found if key != "schema"]
    while True:
        key = rng.choice(keys)
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.2:
            break
        place, keys = inner, list(inner) if isinstance(inner, dict) else range(len(inner))
    if rng.random() < 0.3:
        del place[key]
    else:
        place[key] = rng.choice(ODD)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page of a real diff, and the JSON document with its detail."""
    folder = tmp_path_factory.mktemp("page")
    from routectl.cli.main import main

    arguments = ["diff", str(OLD), str(NEW), "--examples", "3", "--exit-zero"]
    page, text, saved = (str(folder / name) for name in ("diff.html", "diff.txt", "diff.json"))
    assert main([*arguments, "--html", page, "-o", text]) == 0
    assert main([*arguments, "-o", saved]) == 0
    return folder


def test_the_data_is_the_document(made):
    """The page holds the very document that -o NAME.json writes."""
    page = Parsed((made / "diff.html").read_text("utf-8"))
    assert page.data == json.loads((made / "diff.json").read_text("utf-8"))


def test_it_is_readable_without_scripts(made):
    """Verdict, what was compared and every layer's figures are there as text and tables."""
    page = Parsed((made / "diff.html").read_text("utf-8"))
    doc = page.data
    assert "DIFFERS 2,055 of 101,616 rows (2.02 %)" in re.sub(r"\s+", " ", page.text)
    assert doc["old"]["path"] in page.text
    layers = next(table for table in page.tables if table[0][0] == "layer")
    column = {name: i for i, name in enumerate(layers[0])}
    for line, figures in zip(layers[1:], [*doc["layers"], doc], strict=True):
        assert line[column["rows"]] == amount(figures["rows"])
        assert line[column["mismatched"]] == amount(figures["rows_mismatched"])
        assert line[column["rate"]] == percent(figures["mismatch_rate"])
    assert "noscript" in page.tags


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("show.json", "DUMP 46 samples, 5,611 tokens with routes, layers 1-4, top-4 of 32 experts"),
        ("checkpoint.json", "CHECKPOINT MoE in layers 1-2, top-4 of 8 experts"),
        ("diff.json", "DIFFERS 2,055 of 101,616 rows"),
    ],
)
def test_the_heading_is_of_what_is_shown(name, head):
    """A page begins with the verdict, or with the kind and sizes of what has none."""
    page = html_page(json.loads((FIXTURES / "golden" / name).read_text("utf-8")))
    heading = re.search("<h1>(.*?)</h1>", page, re.DOTALL)[1]
    text = re.sub(r"\s+", " ", "".join(Parsed(heading).texts))
    assert text.startswith(head), text


def test_a_cache_has_a_page(tmp_path, capsys, monkeypatch):
    """What routectl cache tells is a page too, named by its folder, and reads again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    saved, page = tmp_path / "cache.json", tmp_path / "cache.html"
    for target in (saved, page):
        assert run(capsys, "cache", "-o", target).code == 0
    assert Parsed(page.read_text("utf-8")).data == json.loads(saved.read_text("utf-8"))
    assert "0 kept" in run(capsys, "report", saved).out


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.name)
def test_every_saved_report_has_a_page(path, tmp_path, capsys):
    """routectl report makes a page of every kind of document, and the text that made it."""
    target = tmp_path / "page.html"
    done = run(capsys, "report", path, "-o", target)
    assert (done.code, done.out) == (0, "")
    page = Parsed(target.read_text("utf-8"))
    assert page.data == json.loads(path.read_text("utf-8"))
    assert page.inside == []
    shown = run(capsys, "report", path).out
    squeezed = re.sub(r"\s+", "", page.text)
    for line in shown.splitlines():
        assert re.sub(r"\s+", "", line) in squeezed


def test_a_saved_report_reads_as_it_was_printed(made, capsys):
    """The text of a saved report is what the command printed."""
    assert run(capsys, "report", made / "diff.json").out == (made / "diff.txt").read_text("utf-8")


def test_plain_json_has_no_detail(tmp_path, capsys):
    """What --json prints is without detail; a file of JSON has it."""
    plain = document(capsys, "diff", OLD, NEW, "--exit-zero")
    assert "detail" not in plain
    shown = document(capsys, "show", OLD)
    assert "detail" not in shown
    whole = detailed(capsys, tmp_path, "show", OLD)
    assert sum(map(sum, whole.pop("detail")["load"]["dump"])) == whole["rows"] * 4
    assert whole == shown


@pytest.fixture(scope="module")
def page_text():
    """The page of a document of hostile names."""
    return html_page(hostile_document())


class TestHostile:
    """What is in a dump never becomes markup, script, or a command."""

    def test_no_element_is_made(self, page_text):
        """The page has its own two scripts, no image, and no handler in an attribute."""
        page = Parsed(page_text)
        assert page.tags.count("script") == 2
        assert "img" not in page.tags
        assert not [name for name, _ in page.attributes if name.startswith("on")]

    def test_the_data_comes_back(self, page_text):
        """The data reads as the same document: escaping lost nothing."""
        assert Parsed(page_text).data == json.loads(json.dumps(hostile_document()))

    def test_nothing_turns_text_around(self, page_text):
        """No invisible or bidirectional control stands in the page; they are escaped."""
        assert not re.search("[\x00-\x08\x0b-\x1f\u2028-\u202e\ufeff\ud800-\udfff]", page_text)
        assert "\\u202e" in Parsed(page_text).text

    def test_it_is_text(self, page_text):
        """Every hostile name is on the page as text."""
        text = Parsed(page_text).text
        for name in (HOSTILE[0], HOSTILE[1], HOSTILE[4], HOSTILE[5], HOSTILE[9]):
            assert name in text

    @pytest.mark.parametrize("name", ["style", "script"])
    def test_a_policy_allows_our_script_alone(self, page_text, name):
        """The policy allows nothing but inline style and the script of one hash."""
        policy = re.search('Content-Security-Policy" content="([^"]*)"', page_text)[1]
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        script = Parsed(page_text).scripts["module"]
        digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert rules == {
            "default-src": "'none'",
            "script-src": f"'sha256-{digest}'",
            "style-src": "'unsafe-inline'",
            "img-src": "data:",
            "base-uri": "'none'",
            "form-action": "'none'",
        }
        assert f"{name}-src" in rules

    def test_scripts_only_set_text(self):
        """No script of ours parses markup, evaluates text, or names an address."""
        for path in ASSETS.glob("*.js"):
            text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
            for word in FORBIDDEN:
                assert word not in text, f"{path.name}: {word}"


@pytest.mark.slow
def test_a_million_tokens_stay_under_8_mb():
    """The page of 1,000,000 tokens of 48 layers, one row in 17 mismatched, is below 8 MB."""
    result = diff_as(*large_dumps(250, 4000), DiffOptions(detail=True))
    assert (result.num_tokens, result.rows) == (1_000_000, 48_000_000)
    doc = diff_document(result)
    assert len(html_page(doc).encode()) < 8_000_000
    assert len(to_json(doc).encode()) < 8_000_000
    assert len(doc["detail"]["sequences"]) == 10


class TestTokenizer:
    """--tokenizer: tokens as text."""

    @pytest.fixture
    def tokenizer(self, tmp_path):
        """A byte-level tokenizer.json whose tokens are single bytes."""
        tokenizers = pytest.importorskip("tokenizers")
        alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
        model = tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, [])
        made = tokenizers.Tokenizer(model)
        made.decoder = tokenizers.decoders.ByteLevel()
        made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        path = tmp_path / "tokenizer.json"
        made.save(str(path))
        return path

    def test_texts_join_to_the_whole(self, tokenizer):
        """Each token has the text that it adds; a character's first bytes have none."""
        from tokenizers import Tokenizer

        from routectl.formats.tokenizer import open_tokenizer

        text = "Möchten 你 <b>\n"
        ids = Tokenizer.from_file(str(tokenizer)).encode(text).ids
        texts = open_tokenizer(tokenizer)(ids)
        assert len(texts) == len(ids)
        assert "".join(texts) == text
        assert texts[:3] == ["M", "", "ö"]

    def test_unknown_ids_are_numbers(self, tokenizer):
        """An id that the vocabulary has not, or a stray byte, breaks nothing."""
        from routectl.formats.tokenizer import open_tokenizer

        texts = open_tokenizer(tokenizer.parent)([-1, 0, 2**31 - 1, *[255] * 20, 5])
        assert (texts[0], texts[2]) == ("⟨-1⟩", "⟨2147483647⟩")
        assert len(texts) == 24

    def test_a_vocabulary_that_would_take_gigabytes(self, tmp_path):
        """Pieces of a Unigram become a trie: more than 4,000,000 characters are refused unread."""
        from routectl.formats.tokenizer import open_tokenizer

        pytest.importorskip("tokenizers")
        pieces = [[chr(0x4E00 + i % 9999) * 1000, -1.0] for i in range(4001)]
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps({"model": {"type": "Unigram", "vocab": pieces}}))
        with pytest.raises(FormatError, match="4001000 characters in its pieces, expected at most"):
            open_tokenizer(path)

    def test_a_page_has_the_texts(self, tokenizer, made, tmp_path, capsys):
        """The worst sequences of a page have a text a token; the JSON keeps ids alone."""
        target = tmp_path / "texts.html"
        done = run(capsys, "report", made / "diff.json", "-o", target, "--tokenizer", tokenizer)
        assert done.code == 0
        for entry in Parsed(target.read_text("utf-8")).data["detail"]["sequences"]:
            assert len(entry["token_texts"]) == len(entry["token_ids"]) == entry["kept"]

    def test_documents_without_sequences_are_left(self):
        """A document that has no tokens stays as it is."""
        assert with_texts({"schema": "routectl.check/1"}, lambda ids: []) == {
            "schema": "routectl.check/1"
        }

    def test_trouble_is_named(self, made, tmp_path, capsys):
        """A file that is no tokenizer is an error of one line; so is one without a page."""
        bad = tmp_path / "bad.json"
        bad.write_text('{"model": 3}')
        page = tmp_path / "x.html"
        saved = made / "diff.json"
        assert "not a tokenizer.json" in complaint(
            capsys, "report", saved, "-o", page, "--tokenizer", bad
        )
        assert not page.exists()
        assert "for a page" in complaint(capsys, "report", saved, "--tokenizer", bad)
        assert "for a page" in complaint(capsys, "diff", OLD, NEW, "--tokenizer", bad)
        assert "no such file" in complaint(
            capsys, "diff", OLD, NEW, "--html", page, "--tokenizer", tmp_path / "none"
        )


class TestCommands:
    """--html of every verb, and report."""

    def test_html_comes_beside_the_text(self, tmp_path, capsys):
        """With --html, stdout and the exit code are what they are without."""
        plain = run(capsys, "diff", OLD, NEW, "--examples", "1")
        paged = run(capsys, "diff", OLD, NEW, "--examples", "1", "--html", tmp_path / "x.html")
        assert (paged.code, paged.out) == (plain.code, plain.out)
        assert paged.err == f"routectl: wrote {tmp_path / 'x.html'}\n"

    @pytest.mark.parametrize("verb", [["show", OLD], ["check", OLD]])
    def test_other_verbs(self, verb, tmp_path, capsys):
        """show and check write pages of their documents."""
        target = tmp_path / "x.html"
        assert run(capsys, *verb, "--html", target).code == 0
        page = Parsed(target.read_text("utf-8")).data
        plain = document(capsys, *verb)
        page.pop("detail", None)
        assert page == plain

    def test_a_file_is_not_replaced(self, tmp_path, capsys):
        """An existing page is refused without --force, before any work; - is refused."""
        target = tmp_path / "x.html"
        target.write_text("mine")
        assert "already exists" in complaint(capsys, "diff", OLD, NEW, "--html", target)
        assert target.read_text() == "mine"
        assert run(capsys, "show", OLD, "--html", target, "--force").code == 0
        assert "a page is a file" in complaint(capsys, "show", OLD, "--html", "-")

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("[]", "got a JSON list"),
            ("{", "not JSON"),
            ("{}", "got schema None"),
            ('{"schema": "routectl.diff/1"}', "not a whole report of routectl.diff/1"),
            ('{"schema": ["x"]}', "expected one of routectl.diff/1"),
        ],
    )
    def test_what_is_no_report_is_refused(self, text, why, tmp_path, capsys):
        """A file that is no whole report is an error of one line that says why."""
        saved = tmp_path / "saved.json"
        saved.write_text(text)
        assert why in complaint(capsys, "report", saved)
        assert why in complaint(capsys, "report", saved, "-o", tmp_path / "x.html")
        assert not (tmp_path / "x.html").exists()

    @pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.name)
    def test_damage_is_a_page_or_one_line(self, path, tmp_path, capsys):
        """A report with a value gone, or of another type, is a page or an error of one line."""
        whole = json.loads(path.read_text("utf-8"))
        rng = random.Random(path.name)
        saved, page = tmp_path / "saved.json", tmp_path / "x.html"
        for _ in range(25):
            saved.write_text(json.dumps(damaged(whole, rng)))
            done = run(capsys, "report", saved, "-o", page, "--force")
            assert (done.code == 0) == ("wrote" in done.err)
            assert "bug" not in done.err
            assert len(done.err.splitlines()) == 1

    @pytest.mark.parametrize("positions", ["a", "5-3", "-3", "1-", "1-2-3", "²", "9" * 50])
    def test_positions_are_a_range(self, positions, capsys):
        """--positions that is no ascending range is refused."""
        line = complaint(capsys, "diff", OLD, NEW, f"--positions={positions}")
        assert "expected a range" in line

    def test_a_cell_is_what_its_command_shows(self, made, capsys):
        """The command of a cell compares exactly the rows of that cell."""
        detail = json.loads((made / "diff.json").read_text("utf-8"))["detail"]
        width = detail["bin_width"]
        place = next(p for p in detail["places"] if p["place"] == "response")
        rows, bad = place["rows"][3][10], place["rows_mismatched"][3][10]
        cell = document(
            capsys,
            "diff",
            OLD,
            NEW,
            "--layers",
            "3",
            "--tokens",
            "response",
            "--positions",
            f"{10 * width}-{11 * width - 1}",
            "--exit-zero",
        )
        assert (cell["rows"], cell["rows_mismatched"]) == (rows, bad)

    def test_the_noise_floor_is_of_old_against_its_rerun(self, capsys):
        """--rerun counts how much a rerun of OLD differs from OLD, by layer."""
        doc = document(capsys, "diff", OLD, NEW, "--rerun", OLD, "--exit-zero")
        assert doc["noise"][0]["rows_mismatched"] == 0
        doc = document(capsys, "diff", OLD, NEW, "--rerun", NEW, "--exit-zero")
        noise = doc["noise"][0]
        assert noise["rows_mismatched"] == doc["rows_mismatched"]
        rates = [layer["mismatch_rate"] for layer in noise["layers"]]
        assert rates == [layer["mismatch_rate"] for layer in doc["layers"]]
