"""A document without tokens: what goes, what is written in its place, and what stays."""

from routectl.reports.withheld import without_tokens

POEM = "Write a poem\nabout cats"


def test_ids_and_texts_of_tokens_go():
    """Token ids become null, texts go, wherever they stand; figures and arrays stay."""
    kept = {"sample": "a/0", "tokens": 3, "old": "AAEC"}
    found = without_tokens({"detail": [{**kept, "token_ids": [1, 2], "token_texts": ["a", "b"]}]})
    assert found == {"detail": [{**kept, "token_ids": None}]}


def test_names_that_are_no_text_stay():
    """Names of letters, digits and marks of paths stay as they are."""
    names = ["p0/3", "#17", "cmpl-1f2e:0", "a.b_c@d+e=f~g", "x" * 128]
    doc = [{"sample": name} for name in names]
    assert without_tokens(doc) == doc


def test_names_that_read_as_text_are_numbered():
    """A name with spaces, line breaks, other letters or too many of them is withheld everywhere."""
    doc = {
        "worst": [
            {"sample": POEM},
            {"sample_id": "写一首诗"},
            {"sample": "x" * 129},
            {"sample": ""},
        ],
        "first": f"{POEM}: position 3",
        "shown": "Write a poem\\nabout cats: position 3",
        "cut": "Write a poem\\nab\N{HORIZONTAL ELLIPSIS}",
        "samples": {"columns": ["sample", "rows"], "rows": [["Tell me", 3], [POEM, 4]]},
    }
    assert without_tokens(doc) == {
        "worst": [
            {"sample": "(name 1 withheld)"},
            {"sample_id": "(name 2 withheld)"},
            {"sample": "(name 3 withheld)"},
            {"sample": ""},
        ],
        "first": "(name 1 withheld): position 3",
        "shown": "(name 1 withheld): position 3",
        "cut": "(withheld: it quotes a name that reads as text)",
        "samples": {
            "columns": ["sample", "rows"],
            "rows": [["(name 4 withheld)", 3], ["(name 1 withheld)", 4]],
        },
    }


def test_a_short_name_is_not_looked_for_in_texts():
    """A name of one space is withheld, and the spaces of other texts stay."""
    assert without_tokens({"sample": " ", "title": "a b"}) == {
        "sample": "(name 1 withheld)",
        "title": "a b",
    }


def test_reasons_do_not_quote_what_was_found():
    """Why a sample is damaged is told without the values that were in it."""
    said = (
        "x.jsonl: sample 3: token_ids: got 'the patient', [987654, 1] or {\"a\": 1}, expected ids"
    )
    found = without_tokens({"damaged": {"sample": "3", "reason": said}, "skipped": [said]})
    told = "x.jsonl: sample 3: token_ids: got (withheld), (withheld) or (withheld), expected ids"
    assert found == {"damaged": {"sample": "3", "reason": told}, "skipped": [told]}


def test_a_name_that_was_typed_is_withheld():
    """A sample that was asked for and is in no table is withheld all the same; others are told."""
    options = [["--sample", POEM], ["--sample", "#3"], ["--allow-unmatched"], ["--match", "id"]]
    found = without_tokens({"asked": {"inputs": ["a.jsonl"], "options": options}})
    told = [["--sample", "(name 1 withheld)"], *options[1:]]
    assert found == {"asked": {"inputs": ["a.jsonl"], "options": told}}
