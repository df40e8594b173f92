"""A selection on the page of a diff: what it shows is what a diff of those rows tells."""

import numpy as np
import pytest

from routectl.formats import open_dump
from routectl.jobs.diff.request import DiffRequest, answer_diff
from routectl.reports.text.wording import amount, percent
from support.pages import NEW, OLD, line_of, said, select, tips_of

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def selected():
    """The document of a part of the rows of the same two dumps."""
    found = {}

    def of(**selection):
        key = tuple(sorted(selection.items()))
        if key not in found:
            found[key] = answer_diff(DiffRequest(old=str(OLD), new=str(NEW), **selection))
        return found[key]

    return of


SELECTIONS = {
    "response": {"tokens": "response"},
    "prompt": {"tokens": "prompt"},
    "layers": {"layers": "2-3"},
    "layer of prompt": {"tokens": "prompt", "layers": "4"},
    "sample": {"sample": ("3/7",)},
    "response of a sample": {"sample": ("3/7",), "tokens": "response", "layers": "1-4"},
}


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
def test_a_selection_is_what_a_diff_of_it_tells(opened, folder, doc, selected, selection):
    """Swaps, overlap, margins and loads of a selection are those of a diff of the same rows."""
    told = selected(**selection)
    with opened(folder / "diff.html") as page:
        select(page, doc, **selection)
        assert said(page) == line_of(told)
        for n, rows in enumerate(told["swaps"]):
            assert any(t.startswith(f"{amount(rows)} row") for t in tips_of(page, "#swaps")), n
        assert f"Overlap {percent(told['overlap_rate'])};" in page.inner_text("#layer-bars")
        margins = told["margins"]
        kinds = ("ties", "tie"), ("near_ties", "near-tie"), ("clear_flips", "clear flip")
        for key, name in kinds:
            assert f"{amount(margins[key])} {name}s" in page.inner_text("#margins .note")
        bins = [t.split("\n")[1].split()[0].replace(",", "") for t in tips_of(page, "#margins")]
        expected = [b["rows_mismatched"] for b in margins["new"]]
        assert [int(n) for n in bins if int(n)] == [n for n in expected if n]
        assert page.locator("#margins svg").count() == 1  # OLD has no margins
        whole = page.inner_text("#whole")
        assert whole.startswith("Of the whole run, not of the selection above (")
        page.click("[name=reset]")
        assert page.inner_text("#whole") == ""


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
def test_loads_and_samples_follow_a_selection(opened, folder, doc, selection):
    """Loads are those of the selected rows of both dumps; listed samples add up to them."""
    old, new = (open_dump(str(path)) for path in (OLD, NEW))
    pairs = [(a, next(b for b in new if b.sample_id == a.sample_id)) for a in old]
    lo, hi = (int(n) for n in (selection.get("layers", "0-5").split("-") * 2)[:2])
    loads = np.zeros((2, hi + 1 - lo, old.meta.num_experts), int)
    names = []
    for pair in pairs:
        if selection.get("sample", (pair[0].sample_id,))[0] != pair[0].sample_id:
            continue
        length = pair[0].routes.ids_TLK.shape[0]
        prompt = {"all": slice(0, length), "prompt": slice(0, pair[0].prompt_length)}
        part = prompt.get(selection.get("tokens", "all"), slice(pair[0].prompt_length, length))
        names.append(pair[0].sample_id)
        for side, sample in enumerate(pair):
            for index in range(lo, hi + 1):
                ids = sample.routes.ids_TLK[part, index].ravel()
                loads[side, index - lo] += np.bincount(ids, minlength=loads.shape[2])
    with opened(folder / "diff.html") as page:
        select(page, doc, **selection)
        canvas = page.locator("#load canvas")
        for side in range(2):
            for row in range(hi + 1 - lo):
                canvas.nth(side).press("ArrowDown")  # the first sets the cursor on the first cell
                load = loads[side, row]
                assert page.inner_text("#status") == (
                    f"layer {lo + row}, expert 0: {percent(load[0] / load.sum())} of the layer, "
                    f"{amount(load[0])} times"
                )
        listed = page.locator("#samples tbody tr").all_inner_texts()
        rows = [line.split("\t") for line in listed]
        counts = [int(line[4].replace(",", "")) for line in rows if line[0] in names]
        assert (
            line_of({"rows": 1, "rows_mismatched": sum(counts)}).split(" of ")[0]
            == (said(page).split(" of ")[0])
        )


def test_what_a_selection_does_not_reach_says_so(opened, folder):
    """How many layers of a token differ is not told for some layers of all samples: it says so."""
    with opened(folder / "diff.html") as page:
        assert "Not told" not in page.inner_text("#panels")
        page.fill("[name=from]", "2")
        page.dispatch_event("[name=from]", "change")
        assert "Not told for this selection" in page.inner_text("#depth")
        assert page.inner_text("#panels").count("Not told") == 1
        assert {
            row.split("\t")[2] for row in page.locator("#samples tbody tr").all_inner_texts()
        } == {"-"}
