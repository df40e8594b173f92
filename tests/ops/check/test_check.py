"""check on one dump: its kernel against plain loops, faults in recordings, results that add up.

Shape suffixes: T tokens, L MoE layers, K top_k, E experts.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routectl.dump import Dump
from routectl.formats import open_dump
from routectl.formats.native.container import write_native
from routectl.formats.native.encoder import Coding
from routectl.kernels.check import ARANGE, DUPLICATE, add_scores, hash_sets, scan_sample
from routectl.ops.check.book.findings import FINDINGS, kind_of, known_codes
from routectl.ops.check.book.kind import SEVERITIES
from routectl.ops.check.book.ledger import Ledger
from routectl.ops.check.book.results import Book, CheckFinding, Place
from routectl.ops.check.check import CheckOptions, check
from support.checks import codes, loaded, only, two_of
from support.dumps import LAYERS, all_alike, make_dump, make_routes, make_sample, part_of
from support.faults import BASES, FAULTS, spoilt
from support.recordings import FIXTURES

ALONE = [fault for fault in FAULTS if not fault.against]
SYMPTOMS = {
    "R207": {"R207", "R713"},
    "R002": {"R402"},
    "R601": {"R713"},
    "R103": {"R713"},
    "R402": {"R701"},
}


@settings(max_examples=30)
@given(st.integers(0, 6), st.integers(1, 3), st.integers(1, 5), st.booleans(), st.integers(0, 999))
def test_scan_is_the_plain_loop(tokens, layers, top_k, zero_twice, seed):
    """Flags, load, uniform tokens and constant layers are what loops over the rows say."""
    rng = np.random.default_rng(seed)
    experts = int(rng.integers(top_k, top_k + 4))
    ids = rng.integers(0, experts, (tokens, layers, top_k)).astype(np.uint8)
    ids[rng.random((tokens, layers)) < 0.3] = np.arange(top_k)
    missing = rng.random((tokens, layers)) < 0.3
    found = scan_sample(ids, experts, missing, zero_twice=zero_twice)
    load = np.zeros((layers, experts), int)
    for t in range(tokens):
        assert found.uniform_T[t] == all((ids[t, i] == ids[t, 0]).all() for i in range(layers))
        for i in range(layers):
            row = ids[t, i].tolist()
            distinct = {e for e in row if not (zero_twice and e == 0)}
            size = len(row) - (max(row.count(0), 0) if zero_twice else 0)
            flags = DUPLICATE * (len(distinct) < size)
            flags |= ARANGE * (top_k > 1 and row == list(range(top_k)))
            assert found.flags_TL[t, i] == (0 if missing[t, i] else flags)
            for expert in row if not missing[t, i] else ():
                load[i, expert] += 1
    assert (found.load_LE == load).all()
    for i in range(layers):
        rows = {tuple(row) for row in ids[~missing[:, i], i].tolist()}
        assert found.varies_L[i] == (len(rows) > 1)
    same = found.hash_T[:, None] == found.hash_T[None, :]
    assert (same == (ids[:, None] == ids[None, :]).all(axis=(2, 3))).all()


def test_hash_of_a_set_ignores_order():
    """Rows with the same experts in another order have one number; other sets have others."""
    ids = np.array([[[0, 1, 2], [2, 0, 1]], [[0, 1, 3], [3, 2, 1]]], np.uint16)
    hashes = hash_sets(ids, 300)
    assert hashes[0, 0] == hashes[0, 1]
    assert len(set(hashes.ravel().tolist())) == 3


def test_scores_add_up_over_some_layers():
    """A token's score is the sum of its experts' entries, of the layers that were asked for."""
    ids = np.array([[[0, 1], [1, 2]], [[2, 1], [0, 2]]], np.uint8)
    table = np.array([[1, 10, 100], [1000, 2000, 4000]], np.float32)
    assert add_scores(ids, table, np.array([0, 1])).tolist() == [6011, 5110]
    mask = np.array([[True, False], [False, False]])
    assert add_scores(ids, table, np.array([0]), mask).tolist() == [0, 110]


def test_table_of_findings():
    """Codes are unique and ascending, sentences end, issues have a number, options are there."""
    known = set(re.findall(r"--[a-z][a-z-]+", (FIXTURES.parent / "docs/cli.md").read_text()))
    assert list(known_codes()) == sorted({kind.code for kind in FINDINGS})
    for kind in FINDINGS:
        assert kind.severity in SEVERITIES
        assert kind.cause.endswith(".")
        assert kind.action.endswith(".")
        assert all(len(issue.split("#")) == 2 for issue in kind.upstream)
        options = re.findall(r"--[a-z][a-z-]+", f"{kind.title} {kind.cause} {kind.action}")
        assert set(options) <= known, kind.code
    with pytest.raises(KeyError):
        kind_of("R000")


def test_every_finding_is_made_somewhere():
    """Each code of the table is in the code that makes findings, and the other way round."""
    import re

    home = Path(check.__code__.co_filename).parent
    files = [p for p in home.rglob("*.py") if p.name != "findings.py"]
    made = {c for p in files for c in re.findall(r'"(R\d{3})"', p.read_text("utf-8"))}
    assert made == set(known_codes())


CLEAN = [
    *sorted(FIXTURES.glob("recordings/*/*/samples.jsonl*")),
    *sorted(FIXTURES.glob("hf/*.npz")),
    *sorted(FIXTURES.glob("tiny_rl/*.fp32.npz")),
    FIXTURES / "tiny_rl" / "routes_v0.margins.parquet",
    FIXTURES / "tiny_rl" / "vllm.bf16" / "samples.jsonl",
    FIXTURES / "golden" / "deepseek_v3.parquet",
]


@pytest.mark.slow
@pytest.mark.parametrize("path", CLEAN, ids=lambda p: "/".join(p.parts[-2:]))
def test_clean_recordings(path):
    """A clean recording has no error and no warning by its rows; alone/ looks at its tokens."""
    found = check(open_dump(path), options=CheckOptions(by_tokens=False))
    assert codes(found, "warning") == set()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ALONE, ids=lambda f: f.name)
def test_fault_at_five_percent(fault):
    """Every fault is named at 5 % of the rows in two recordings, and no other error is."""
    for base in two_of(fault, ALONE):
        tokens = CheckOptions(by_tokens=base in BASES[2:])  # they take a second a dump
        found = check(spoilt(fault, base, loaded(base.dump), 0.05), options=tokens)
        others = {fault.code, "R601", *SYMPTOMS.get(fault.code, ())}
        assert fault.code in codes(found), base.name
        assert codes(found, "error") <= others, base.name


@pytest.mark.parametrize("fault", [f for f in ALONE if f.structural], ids=lambda f: f.name)
def test_structural_fault_at_a_single_place(fault):
    """A structural fault of one token, or of one sample, is named in the larger recordings."""
    for base in BASES[1:]:
        if fault.bases and base.name not in fault.bases:
            continue
        large = fault.name == "axes transposed" and base.name != "tiny_rl vllm"
        if not large:  # a short sample does not show which axis is which
            bad = spoilt(fault, base, loaded(base.dump), 0)
            assert fault.code in codes(check(bad, options=CheckOptions(by_tokens=False)))


def test_gap_is_told_from_cached_tokens():
    """A gap as long as the cached prefix is said to be that."""
    sample = make_sample(
        make_routes(
            [[[t % 3, 3 + t % 2] for _ in LAYERS] for t in range(6)],
            missing=[(t, i) for t in range(2) for i in range(3)],
        ),
        "a",
        [1, 2, 3],
        [4, 5, 6, 7],
        cached_tokens=2,
    )
    found = only(check(make_dump([sample])), "R201")
    assert (found.detail, found.rows, found.samples) == ("exactly the cached tokens", 6, 1)
    assert found.places == (Place("a", 0),)


def test_top_1_models_are_left_alone():
    """With K = 1 expert 0 is an expert, and no row is 0, 1, 2, ... or twice anything."""
    ids = [[[0], [t % 3], [2]] for t in range(12)]
    sample = make_sample(make_routes(ids), "a", [1] * 6, [2] * 7)
    assert codes(check(make_dump([sample], top_k=1)), "warning") == set()


def test_zero_experts_and_hash_layers_are_legal():
    """Where the model has them, 0 may repeat, and a layer that selects by table be unwritten."""
    ids = [[[0, 0] if t == 1 else [t % 4, 4], [0, 0], [t % 2, 5]] for t in range(10)]
    gone = [(t, 1) for t in range(10)]
    sample = make_sample(make_routes(ids, missing=gone), "a", list(range(5)), list(range(6)))
    dump = make_dump([sample])
    assert {"R102", "R301"} <= codes(check(dump))
    legal = CheckOptions(zero_experts=2, hash_layers=(LAYERS[1],))
    assert codes(check(dump, options=legal)) == set()


def test_bytes_read_as_ids_are_recognised():
    """Rows of one id and three zeros are int32 that was read as bytes."""
    ids = [[[1 + t % 5, 0, 0, 0] for _ in LAYERS] for t in range(9)]
    sample = make_sample(make_routes(ids), "a", list(range(5)), list(range(5)))
    assert only(check(make_dump([sample], top_k=4)), "R102").detail == "int32 read as bytes"


def test_filler_is_counted_by_rank():
    """With ep, filler adds K ids a row to the rank of expert 0."""
    ids = [[[t % 6, (t + 1) % 6] for _ in LAYERS] for t in range(12)]
    routes = make_routes(ids, missing=[(t, i) for t in range(6) for i in range(3)])
    dump = make_dump([make_sample(routes, "a", [1] * 6, [2] * 7)])
    found = only(check(dump, options=CheckOptions(ep=2)), "R602")
    assert found.rows == 18
    assert found.detail.startswith("busiest of 2 ranks, worst layer: 1.500 x mean with the filler")
    assert "R602" not in codes(check(dump))


def test_mixed_types_are_noted():
    """Files of a run in several integer types are a note, with the types."""
    dump = make_dump([make_sample(make_routes(all_alike(1)), "a", [1], [2])])
    mixed = Dump(replace(dump.meta, wire_dtype="int32+uint8"), dump.keys, dump.__getitem__)
    assert only(check(mixed), "R008").detail == "int32+uint8"
    assert codes(check(dump)) == set()


@pytest.mark.parametrize("codec", ["packed", "set", "context"])
def test_routes_that_decode_to_others_are_an_error(tmp_path, codec):
    """A coded file whose cells are of other routes than its digests is named, sample by sample."""
    source = open_dump(FIXTURES / "recordings/vllm-0.32.0/qwen3_moe.bf16.chunked/samples.jsonl")
    path = tmp_path / "x.parquet"
    write_native(source, source.meta, path, force=False, coding=Coding(codec))
    options = CheckOptions(by_tokens=False)  # digests are of rows alone
    assert "R010" not in codes(check(open_dump(path), options=options))
    table = pq.read_table(path)
    digests = table.column("routes_digest").to_pylist()
    digests[3] = digests[4]
    at = table.schema.get_field_index("routes_digest")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(digests)), path)
    found = only(check(open_dump(path), options=options), "R010")
    assert (found.samples, found.rows, found.places[0].sample) == (
        1,
        source[3].routes.rows,
        source[3].sample_id,
    )
    part = open_dump(path).select(layers=[0, 2])
    assert "R010" not in codes(check(part, options=options))


def test_results_of_shards_add_up():
    """The findings of two halves, added, are those of the whole where samples stand alone."""
    base = BASES[0]
    fault = next(f for f in FAULTS if f.code == "R301")
    bad = spoilt(fault, base, loaded(base.dump), 0.5)
    whole = check(bad)
    parts = check(part_of(bad, range(20))) + check(part_of(bad, range(20, len(bad))))
    assert (parts.samples, parts.tokens, parts.rows) == (whole.samples, whole.tokens, whole.rows)
    one, other = only(parts, "R301"), only(whole, "R301")
    assert (one.rows, one.samples, one.layers) == (other.rows, other.samples, other.layers)
    assert one.places == other.places


def findings(book, indices):
    """What a book of several samples comes to."""
    ledger = Ledger()
    ledger.take(book, indices)
    return ledger.findings()


def test_findings_of_one_kind_add_up():
    """Parts of one code with equal facts are one finding, each sample counted once."""
    book = Book()
    for sample, lag in (("a", 7), ("a", 7), ("b", 7), ("c", 20)):
        book.add("R701", Place(sample), rows=2, detail=f"by {lag}", facts={"lag": lag})
    indices = {"a": 0, "b": 1, "c": 2, "d": 3}
    assert [(f.samples, f.rows, f.detail, f.facts) for f in findings(book, indices)] == [
        (2, 6, "by 7", (("lag", 7),)),
        (1, 2, "by 20", (("lag", 20),)),
    ]
    for lag in range(21, 26):
        book.add("R701", Place("d"), rows=1, detail=f"by {lag}", facts={"lag": lag})
    (one,) = findings(book, indices)
    assert (one.samples, one.rows, one.detail) == (4, 13, "lag 7 to 25")
    assert one.facts == (("least_lag", 7), ("greatest_lag", 25))


def test_findings_of_other_facts_do_not_add_up():
    """Adding findings of two codes is a mistake of the program."""
    with pytest.raises(ValueError, match="not one finding"):
        _ = CheckFinding("R001", "a", 0, 0, (), ()) + CheckFinding("R002", "a", 0, 0, (), ())


def test_selecting_findings():
    """Codes are kept and dropped by their beginnings."""
    bad = spoilt(ALONE[0], BASES[0], loaded(BASES[0].dump), 0.1)
    found = check(bad)
    assert codes(found) == {"R002", "R402"}
    assert codes(found.selected(["R4"], [])) == {"R402"}
    assert codes(found.selected([], ["R402"])) == {"R002"}
    assert codes(found.selected(["R"], ["R0", "R4"])) == set()


def test_empty_and_tiny_dumps():
    """A dump without samples, and one of a single row, have nothing wrong."""
    assert check(make_dump([])).findings == ()
    one = make_sample(make_routes(all_alike(1)), "a", [1], [2])
    assert codes(check(make_dump([one])), "warning") == set()


def test_rows_alike_by_chance_are_no_runs():
    """Four layers of one of two experts: 120 tokens have equal neighbours and blocks by chance."""
    drawn = np.random.default_rng(5).integers(0, 2, (6, 120, 4, 1))
    samples = [
        make_sample(
            make_routes(ids.tolist(), range(4), 2), f"s{i}", list(range(60)), list(range(61))
        )
        for i, ids in enumerate(drawn)
    ]
    assert not {"R401", "R402"} & set(codes(check(make_dump(samples, range(4), 2, 1))))
