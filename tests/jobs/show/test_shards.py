"""show in shards: by parts that merge, and by worker processes."""

import pickle
from itertools import pairwise

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import routectl
from routectl.dump import Dump, WeightSpan
from routectl.errors import FormatError, RoutectlError
from routectl.formats.native import row_groups
from routectl.formats.native.container import write_native
from routectl.jobs.reading import Reading
from routectl.jobs.shards import run as runner
from routectl.jobs.shards.work import Shard, cut_runs
from routectl.jobs.show.work import CountedDump, ShowWork, show_work
from routectl.ops.check.alone.alone import measure_lift
from routectl.ops.summary import summarize, summarize_part
from routectl.reports.show.document import summary_document
from support.cuts import added_in_some_tree
from support.dumps import LAYERS, from_plain, make_dump, plain_routes
from support.recordings import FIXTURES
from support.shell import complaint, run
from support.tiny_rl import ENGINE, TINY

SMALL = TINY / "routes_v0.margins.parquet"
PLAIN = {"prompt": [1, 2], "response": [3, 4, 5], "cached": 1}


@st.composite
def dumps(draw):
    """A dump of some samples, one of which may be refused, with versions and reasons of many."""
    count = draw(st.integers(0, 9))
    spans = st.lists(st.sampled_from("cab"), max_size=2)
    samples = [
        from_plain(
            {**draw(plain_routes(LAYERS, 5)), **PLAIN, "prompt_length": 2},
            f"s{n}",
            weight_spans=tuple(WeightSpan(v, i, i + 1) for i, v in enumerate(draw(spans))),
            finish_reason=draw(st.sampled_from([None, "stop", "length"])),
        )
        for n in range(count)
    ]
    bad = draw(st.sets(st.integers(0, 8), max_size=3)) if count > 3 else ()
    dump = make_dump(samples)

    def load(index):
        if index in bad:
            raise FormatError(f"sample {index}: damaged")
        return samples[index]

    return Dump(dump.meta, dump.keys, load)


def json_of(summary, lift):
    """The document, as bytes."""
    return msgspec.json.encode(summary_document(summary, lift=lift, detail=True))


@settings(max_examples=30, derandomize=True, deadline=None)
@given(dumps(), st.lists(st.integers(0, 9), max_size=4), st.data())
def test_any_cut_order_and_tree_is_the_whole(dump, cuts, data):
    """Parts of a dump, cut anywhere, added in any order and tree, are its document to the byte."""
    lift = measure_lift(dump)
    bounds = [0, *sorted({c for c in cuts if 0 < c < len(dump)}), len(dump)]
    parts = [CountedDump(summarize_part(dump, range(a, b))) for a, b in pairwise(bounds)]
    parts.append(CountedDump(summarize_part(dump, range(0)), lift))
    order = data.draw(st.permutations(parts))
    try:
        whole = json_of(summarize(dump), lift)
    except FormatError as error:
        with pytest.raises(FormatError, match=str(error)):
            added_in_some_tree(order, data).result()
        return
    assert json_of(*added_in_some_tree(order, data).result()) == whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two native files of many row groups, and one of no samples."""
    place, dump = tmp_path_factory.mktemp("folder"), routectl.open_dump(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_groups, "_GROUP_ROWS", 8)
        for name, samples in (("a", range(20)), ("b", ()), ("c", range(20, 41))):
            chosen = list(dump.select(samples=samples))
            write_native(chosen, dump.meta, place / f"{name}.parquet", force=False)
    return place


@pytest.fixture(scope="module")
def whole(folder):
    """What show says of that folder at once."""
    dump = routectl.open_dump(folder)
    return json_of(summarize(dump), measure_lift(dump))


@settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_any_number_of_shards_is_the_whole(folder, whole, monkeypatch, count, most, data):
    """Shards of parts hold each sample once, begin where row groups do, and add up to show's."""
    monkeypatch.setattr(cut_runs, "__defaults__", (1,))
    dump, told = routectl.open_dump(folder), str(folder)
    works = [show_work(told, Reading(), dump, (n, count)) for n in range(1, count + 1)]
    shards = [(work, shard) for work in works for shard in work.cut(most)]
    assert all(len(work.cut(most)) <= max(most, 1) for work in works)
    held = sorted(i for _, shard in shards for i in shard.of.samples)
    assert held == list(range(len(dump)))
    assert {s.of.samples.start for _, s in shards if s.samples} <= {*dump.starts.tolist()}
    parts = [work.partial(shard) for work, shard in data.draw(st.permutations(shards))]
    assert json_of(*added_in_some_tree(parts, data).result()) == whole


def test_batches_begin_where_row_groups_do(folder):
    """A folder's batches are those of its files; a text dump has its samples one by one."""
    starts = routectl.open_dump(folder).starts.tolist()
    assert starts[0] == 0
    assert 20 in starts
    assert 2 < len(starts) < 41
    assert all(routectl.open_dump(folder).batch(start) is not None for start in starts)
    assert routectl.open_dump(ENGINE).starts is None


@pytest.mark.parametrize("path", [SMALL, ENGINE, FIXTURES / "golden" / "deepseek_v3.parquet"])
def test_parts_of_a_show_merge(capsys, tmp_path, path):
    """Three parts, merged in another order, answer byte for byte as show does, in every form."""
    names = [tmp_path / f"part{n}" for n in (1, 2, 3)]
    for n, name in enumerate(names, 1):
        told = run(capsys, "show", path, "--shard", f"{n}/3", "--partial", name)
        assert (told.code, told.out) == (0, "")
        assert name.stat().st_size < 1 << 20
    for voice in (("--json",), ("--summary",), ()):
        whole = run(capsys, "show", path, *voice)
        merged = run(capsys, "merge", *names[::-1], *voice)
        assert (merged.out, merged.code) == (whole.out, whole.code) != ("", 0)
    for suffix in (".json", ".html"):
        one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
        run(capsys, "show", path, "-o", one)
        run(capsys, "merge", *names, "-o", two)
        assert one.read_bytes() == two.read_bytes()


def test_a_part_alone_is_told(capsys):
    """--shard without --partial, and ``shard`` in Python, tell what that part holds."""
    parts = [routectl.summarize(SMALL, shard=f"{n}/3") for n in (1, 2, 3)]
    whole = routectl.summarize(SMALL)
    assert sum(part.samples for part in parts) == whole.samples
    assert sum(part.positions for part in parts) == whole.positions
    assert [part.lift for part in parts] == [whole.lift, None, None]
    assert f"{parts[1].samples} samples" in run(capsys, "show", SMALL, "--shard", "2/3").out


def test_what_has_no_parts_is_refused(capsys, tmp_path):
    """Parts of a checkpoint, and of a dump whose model nothing tells, are one line, exit 2."""
    checkpoint = FIXTURES / "checkpoints" / "megatron-0.15.3"
    assert "is shown whole" in complaint(capsys, "show", checkpoint, "--shard", "1/2")
    with pytest.raises(RoutectlError, match="is shown whole"):
        routectl.show(checkpoint, shard="1/2")
    told = complaint(capsys, "show", SMALL, "--partial", tmp_path / "p", "-o", "x.json")
    assert "--partial is written in place of a report" in told
    (tmp_path / "p").touch()
    assert "already exists" in complaint(capsys, "show", SMALL, "--partial", tmp_path / "p")


def test_work_goes_to_other_processes():
    """Work that was pickled opens the dump anew, and its shards come to the same document."""
    work = show_work(str(SMALL), Reading(), routectl.open_dump(SMALL))
    again, shards = pickle.loads(pickle.dumps((work, work.cut(2))))
    assert isinstance(again, ShowWork)
    assert isinstance(shards[0], Shard)
    found = again.partial(shards[1]) + again.partial(shards[0])
    dump = routectl.open_dump(SMALL)
    assert json_of(*found.result()) == json_of(summarize(dump), measure_lift(dump))


@pytest.mark.slow
def test_two_processes_print_what_one_prints(capsys, monkeypatch, folder):
    """With --jobs 2 the document is that of --jobs 1, byte for byte."""
    one = run(capsys, "show", folder, "--jobs", "1", "--json")
    monkeypatch.setattr(runner, "_SURE_BYTES", 0)
    monkeypatch.setattr(cut_runs, "__defaults__", (1,))
    two = run(capsys, "show", folder, "--jobs", "2", "--json")
    assert (one.code, one.out) == (two.code, two.out)
