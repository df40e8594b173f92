"""What every answer of the library has: adding up, pickling, a short repr, HTML, a document."""

import json
import pickle
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import routectl
from support.dumps import DumpMeta, make_routes, make_sample
from support.recordings import DEEPSEEK, FIXTURES
from support.tiny_rl import ENGINE, TINY

V0, V1 = TINY / "routes_v0.margins.parquet", TINY / "transformers_v1.fp32.npz"


def part(path, samples=range(12)):
    """Some samples of a dump."""
    return routectl.open_dump(path).select(samples=samples)


ANSWERS = {
    "diff": lambda: routectl.diff(
        part(ENGINE), part(V0), fail_over="mismatch:1%", eps=0.01, detail=True
    ),
    "check": lambda: routectl.check(part(ENGINE), part(V0), fail_on="note"),
    "staleness": lambda: routectl.staleness(part(ENGINE), {"v0": part(V0), "v1": part(V1)}),
    "summary": lambda: routectl.summarize(DEEPSEEK / "samples.jsonl"),
    "checkpoint": lambda: routectl.show(FIXTURES / "checkpoints" / "megatron-0.15.3"),
}


@pytest.fixture(scope="module", params=ANSWERS)
def answer(request):
    """One answer of each kind."""
    return ANSWERS[request.param]()


class _Tags(HTMLParser):
    """The tags of a page, each with its attributes; every one that is opened is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_pickled_answer_is_the_same(answer):
    """Pickled and read again, an answer has its type, its document and its tables."""
    again = pickle.loads(pickle.dumps(answer))
    assert type(again) is type(answer)
    assert again.to_dict() == answer.to_dict()
    assert repr(again) == repr(answer)


def test_a_repr_is_short(answer):
    """At most three lines and 400 characters, no array in them."""
    text = repr(answer)
    assert len(text.splitlines()) <= 3
    assert len(text) < 400
    assert "array(" not in text


def test_html_needs_nothing(answer):
    """A notebook's HTML is small, whole, without script, style sheet or address."""
    page = answer._repr_html_()
    assert len(page) < 64_000
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    assert not {"script", "link", "style", "iframe"} & {tag for tag, _ in tags.seen}
    for _, attributes in tags.seen:
        assert not any(name.startswith("on") or name == "href" for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")


def test_html_shows_the_pictures(answer):
    """A bar has the figure of its layer in a tooltip: that of the document."""
    page = answer._repr_html_()
    doc = answer.to_dict()
    if "verdict" in doc:
        assert re.search(r'font-weight:bold">[A-Z]+', page)
    if isinstance(answer, routectl.DiffResult):
        for entry in doc["layers"]:
            assert f"<title>{entry['layer']}: {entry['mismatch_rate']:.3%}</title>" in page
        assert page.count("data:image/png;base64,") == 1
    if isinstance(answer, routectl.CheckResult):
        assert "R712" in page
    if isinstance(answer, routectl.Staleness):
        rate = doc["by_lag"][0]["mismatch_rate"]
        assert f"<title>lag 1: {rate:.3%}</title>" in page


def test_html_of_many_layers_is_small():
    """94 layers of 128 experts are a picture that is no higher and a page of the same bound."""
    layers = tuple(range(94))
    ids = np.random.default_rng(0).permuted(np.tile(np.arange(128), (300 * 94, 1)), axis=1)
    ids_TLK = ids[:, :8].reshape(300, 94, 8).astype(np.uint8)
    other_TLK = ids_TLK.copy()
    other_TLK[::7, ::3, 0] = ids[:, 9].reshape(300, 94)[::7, ::3]
    dumps = []
    for array in (ids_TLK, other_TLK):
        sample = make_sample(
            routectl.Routes(array, layers, 128), name="s", prompt=[1] * 100, response=[2] * 201
        )
        key = routectl.dump.key_of("s", sample.prompt_ids, sample.response_ids)
        dumps.append(
            routectl.Dump(DumpMeta("m", "npz", layers, 128, 8), [key], [sample].__getitem__)
        )
    for found in (routectl.diff(*dumps, detail=True), routectl.summarize(dumps[0])):
        page = found._repr_html_()
        assert len(page) < 64_000
        assert "height:320px" in page


def test_html_of_a_hostile_name():
    """Names in a dump are text, whatever is in them."""
    name = "<script>alert(1)</script><img src=http://x>"
    meta = DumpMeta(name, "npz", (1, 2, 4), 6, 2)
    sample = make_sample(make_routes([[[0, 1]] * 3] * 3), name=name, prompt=[1, 2], response=[3, 4])
    dump = routectl.Dump(meta, [routectl.dump.key_of(name, None, None)], [sample].__getitem__)
    for found in (routectl.summarize(dump), routectl.check(dump), routectl.diff(dump, dump)):
        page = found._repr_html_()
        tags = _Tags()
        tags.feed(page)
        assert "script" not in {tag for tag, _ in tags.seen}
        assert all(a.get("src", "data:").startswith("data:") for _, a in tags.seen)


def test_answers_of_shards_add_up():
    """Answers of halves add up to that of the whole, and are judged as it is."""
    dump, other = part(ENGINE).held(), part(V0).held()
    halves = [range(6), range(6, 12)]
    asked = {"fail_over": ["mismatch:1%"], "rerun": other}
    whole = routectl.diff(dump, other, **asked)
    parts = [
        routectl.diff(dump.select(samples=h), other.select(samples=h), **asked) for h in halves
    ]
    added = parts[0] + parts[1]
    assert type(added) is routectl.DiffAnswer
    assert added.verdict == whole.verdict
    assert added.to_arrow("layers").equals(whole.to_arrow("layers"))
    noise = [one.to_dict()["noise"][0]["rows"] for one in (*parts, added)]
    assert noise[2] == noise[0] + noise[1]
    checked = [routectl.check(dump.select(samples=h), other, fail_on="note") for h in halves]
    both = checked[0] + checked[1]
    assert type(both) is routectl.CheckAnswer
    assert both.samples == 12
    assert both.to_dict()["verdict"] == {"fail_on": "note", "exit_code": 1}


def test_results_of_the_verbs_alone_add_up_too():
    """An answer and a plain result of the verb add up to an answer; metrics takes either."""
    dump, other = part(ENGINE), part(V0)
    plain = routectl.diff_as(dump, other, routectl.DiffOptions())
    answer = routectl.diff(dump, other)
    assert (answer + plain).rows == (plain + answer).rows == 2 * plain.rows
    assert routectl.metrics(answer) == routectl.metrics(plain)
    assert routectl.metrics(answer.to_dict()) == routectl.metrics(plain)
    assert json.dumps(routectl.diff_document(answer)) == json.dumps(routectl.diff_document(plain))
