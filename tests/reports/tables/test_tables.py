"""Results as Arrow tables: figures by hand, dtypes, units, and who reads them."""

import pyarrow as pa
import pytest

import routectl
from routectl.errors import RoutectlError
from routectl.reports.tables.tables import arrow_table, frames_of
from support.dumps import DumpMeta, make_routes, make_sample
from support.tiny_rl import COMPARISONS, ENGINE, TINY, TRUTH

V0, V1, V2 = (
    TINY / name
    for name in ("routes_v0.margins.parquet", "transformers_v1.fp32.npz", "routes_v2.fp32.npz")
)
ROW = [[0, 1], [2, 3], [4, 5]]


@pytest.fixture(scope="module")
def dumps():
    """The engine's dump and three versions, 24 samples each."""
    return [
        routectl.open_dump(path).select(samples=range(24)).held() for path in (ENGINE, V0, V1, V2)
    ]


@pytest.fixture(scope="module")
def results(dumps):
    """One result of each kind."""
    engine, *versions = dumps
    return {
        "diff": routectl.diff(engine, versions[0]),
        "check": routectl.check(engine, versions[0]),
        "staleness": routectl.staleness(
            engine, dict(zip(("v0", "v1", "v2"), versions, strict=True))
        ),
        "summary": routectl.summarize(engine),
    }


@pytest.fixture(scope="module")
def mismatch(dumps):
    """The verb's own counts of the first two dumps."""
    return routectl.diff_as(dumps[0], dumps[1], routectl.DiffOptions())


def test_tables_are_what_they_say(results):
    """Each table has its columns in order with dtype and unit, also where it has no row."""
    for result in results.values():
        for frame in frames_of(result):
            table = result.to_arrow(frame.name)
            assert table.column_names == [c.name for c in frame.columns]
            assert len(set(table.column_names)) == len(table.column_names)
            for field, column in zip(table.schema, frame.columns, strict=True):
                assert str(field.type).replace("element: ", "").replace("item: ", "") == {
                    "float64": "double"
                }.get(column.dtype, column.dtype)
                assert field.metadata[b"unit"].decode() == column.unit
                assert field.metadata[b"about"].decode() == column.about
            table.validate(full=True)


def test_unknown_tables_answer_with_those_known(results):
    """Another name is refused with the list; what is no result is a TypeError."""
    with pytest.raises(RoutectlError, match="'rows' is not known: layers, samples, positions"):
        results["diff"].to_arrow("rows")
    with pytest.raises(RoutectlError, match="known: findings, places, layers"):
        results["check"].to_arrow("samples")
    with pytest.raises(TypeError, match="got int"):
        arrow_table(3, "layers")


def test_layers_are_those_recorded():
    """The layers of a diff are what the run's own program counted."""
    for name, (old, new) in COMPARISONS.items():
        paths = {"engine": ENGINE, "v0": TINY / "routes_v0.fp32.npz", "v1": V1, "v2": V2}
        table = routectl.diff(paths[old], paths[new]).to_arrow("layers")
        truth = TRUTH[name]
        assert table["rows_mismatched"].to_pylist() == truth["per_layer_mismatched"]
        assert sum(table["rows"].to_pylist()) == truth["rows"]


def test_tables_of_two_samples_by_hand():
    """Rows, rates, positions and examples of a dump that is short enough to count."""
    meta = DumpMeta("two", "npz", (1, 2, 4), 6, 2)

    def dump(*ids):
        samples = [
            make_sample(make_routes(rows), name=f"s{i}", prompt=[i, 2], response=[3, 4])
            for i, rows in enumerate(ids)
        ]
        keys = [routectl.dump.key_of(s.sample_id, s.prompt_ids, s.response_ids) for s in samples]
        return routectl.Dump(meta, keys, samples.__getitem__)

    other = [[0, 1], [3, 2], [4, 1]]  # layer 2 in another order, layer 4 another expert
    found = routectl.diff(dump([ROW] * 3, [ROW] * 3), dump([ROW] * 3, [ROW, other, ROW]))
    layers = found.to_arrow("layers").to_pydict()
    assert layers["layer"] == [1, 2, 4]
    assert layers["rows"] == [6, 6, 6]
    assert layers["rows_mismatched"] == [0, 0, 1]
    assert layers["mismatch_rate"] == [0, 0, 1 / 6]
    assert layers["overlap_rate"] == [1, 1, 11 / 12]
    assert layers["order_mismatches"] == [0, 1, 0]
    assert layers["near_rate"] == [None] * 3
    samples = found.to_arrow("samples").to_pydict()
    assert (samples["sample"], samples["rows"]) == (["s0", "s1"], [9, 9])
    assert samples["tokens_mismatched"] == [0, 1]
    positions = found.to_arrow("positions").to_pydict()
    assert (positions["start"], positions["stop"]) == ([0, 1, 2], [1, 2, 4])
    assert positions["rows_mismatched"] == [0, 1, 0]
    (example,) = found.to_arrow("examples").to_pylist()
    assert (example["sample"], example["position"], example["layer"]) == ("s1", 1, 4)
    assert (example["old"], example["new"]) == ([4, 5], [1, 4])
    experts = routectl.summarize(dump([ROW] * 3, [ROW, other, ROW])).to_arrow("experts").to_pylist()
    assert {(e["layer"], e["expert"]): e["rows"] for e in experts if e["rows"]} == {
        (1, 0): 6, (1, 1): 6, (2, 2): 6, (2, 3): 6, (4, 4): 6, (4, 5): 5, (4, 1): 1,
    }  # fmt: skip


def test_a_name_that_is_no_utf8(tmp_path):
    """Half of a surrogate pair in a name is its escape, since Arrow's text is UTF-8."""
    meta = DumpMeta("odd", "npz", (1, 2, 4), 6, 2)
    sample = make_sample(make_routes([ROW]), name="a\udc80b", prompt=[1], response=[2])
    dump = routectl.Dump(meta, [routectl.dump.key_of("a\udc80b", None, None)], [sample].__getitem__)
    found = routectl.diff(dump, dump).to_arrow("samples")
    assert found["sample"].to_pylist() == ["a\\udc80b"]


def test_findings_and_places(results, mismatch):
    """A check's findings are those of the result; places name their code."""
    table = results["check"].to_arrow("findings")
    assert table["code"].to_pylist() == [f.code for f in results["check"].findings] == ["R712"]
    assert table["severity"].to_pylist() == ["note"]
    layers = results["check"].to_arrow("layers")
    assert sum(layers["rows_mismatched"].to_pylist()) == mismatch.rows_mismatched


def test_comparisons(results, mismatch):
    """A staleness has each comparison with its interval, as recorded, and each by layer."""
    rows = {
        (c["kind"], c["old"], c["new"]): c
        for c in results["staleness"].to_arrow("comparisons").to_pylist()
    }
    own = rows["mismatch", "dump", "own version"]
    assert (own["rows_mismatched"], own["rows"]) == (mismatch.rows_mismatched, mismatch.rows)
    assert own["lag"] == 0
    assert own["low"] < own["mismatch_rate"] < own["high"]
    assert rows["staleness", "v0", "v2"]["lag"] == 2
    layers = results["staleness"].to_arrow("layers")
    total = pa.TableGroupBy(layers, ["kind", "old", "new"]).aggregate([("rows_mismatched", "sum")])
    for one in total.to_pylist():
        assert (
            one["rows_mismatched_sum"]
            == rows[one["kind"], one["old"], one["new"]]["rows_mismatched"]
        )


class TestReaders:
    """pandas, Polars and DuckDB read the tables, each where it is installed."""

    def test_pandas(self, results, mismatch):
        """A DataFrame sorts layers by their mismatch."""
        pytest.importorskip("pandas")
        frame = results["diff"].to_arrow("layers").to_pandas()
        worst = frame.sort_values("rows_mismatched", ascending=False).iloc[0]
        assert worst["rows_mismatched"] == mismatch.counts.swaps_LS[:, 1:].sum(axis=1).max()

    def test_polars(self, results, mismatch):
        """A Polars frame filters samples."""
        polars = pytest.importorskip("polars")
        frame = polars.from_arrow(results["diff"].to_arrow("samples"))
        assert (
            frame.filter(polars.col("rows_mismatched") > 0).height
            == mismatch.sequences.rates.above_zero
        )

    def test_duckdb(self, results, mismatch):
        """SQL adds rows up over a table."""
        duckdb = pytest.importorskip("duckdb")
        samples = results["diff"].to_arrow("samples")
        with duckdb.connect() as connection:
            connection.register("samples", samples)
            line = "select sum(rows_mismatched), count(*) from samples"
            assert connection.execute(line).fetchall() == [(mismatch.rows_mismatched, 24)]
