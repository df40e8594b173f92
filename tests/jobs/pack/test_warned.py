"""What pack warns of, and packs all the same: long samples, rows that no router gives."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from routectl.formats.native.container import write_native
from routectl.jobs.pack.warned import Odd, OddRows, told_odd
from routectl.kernels.odd_rows import count_odd
from support.dumps import make_dump, make_sample
from support.packs import routes_like
from support.shell import document, run

LAYERS = (1, 2, 3, 5)
LENS = (40, 33, 18, 23, 9)
MORE = "; routectl check DUMP tells more"


@pytest.fixture
def write(tmp_path):
    """What writes a dump of these lengths; ``change`` alters the routes of each sample."""

    def written(change=lambda i, routes: routes):
        rng, samples = random.Random(5), []
        for i, tokens in enumerate(LENS):
            routes = change(i, routes_like(rng, tokens - 1, LAYERS, (4, 32, None)))
            name = None if i == 4 else f"7/{i}"
            samples.append(make_sample(routes, name, [1] * (tokens - 2), [2, 2]))
        dump = make_dump(samples, LAYERS, 32, 4)
        write_native(dump, dump.meta, tmp_path / "d.parquet", force=True)
        return tmp_path / "d.parquet"

    return written


def warned(capsys, dump, *options):
    """The warnings of pack, which must also be those of its manifest and its text."""
    folder = dump.parent / "r"
    args = ("pack", dump, "--save", folder, "--force", *options)
    found = document(capsys, *args)["warnings"]
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["warnings"] == found
    text = run(capsys, *args).out.splitlines()
    assert [line[10:] for line in text if line.startswith("warning ")] == found
    assert run(capsys, "verify", folder, "--against", dump).code == 0
    return found


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("", []),
        ("--max-tokens-per-gpu 40", []),
        (
            "--max-tokens-per-gpu 39",
            [
                "1 of 5 samples is longer than the 39 tokens of a micro-batch "
                "(max-tokens-per-gpu), and alone in one: the first is 7/0, of 40 tokens"
            ],
        ),
        (
            "--max-tokens-per-gpu 11 --cp 2 --balance karmarkar-karp",
            [
                "3 of 5 samples are longer than the 22 tokens of a micro-batch "
                "(max-tokens-per-gpu x cp), and alone in one: the first is 7/0, of 40 tokens"
            ],
        ),
        ("--max-tokens-per-gpu 39 --framework xtuner", []),  # which is fed N - 1
        ("--layout micro-batch-size=1", []),
    ],
)
def test_samples_beyond_the_budget(capsys, write, options, told):
    """Samples of more tokens than a micro-batch may have are counted, the first by its key."""
    assert warned(capsys, write(), *options.split()) == told


def doubled(i, routes):
    """Sample 2 has two such rows in layer 3 and one in layer 5, the last sample one in layer 1."""
    ids = routes.ids_TLK.copy()
    for sample, position, column in ((2, 7, 2), (2, 4, 2), (2, 2, 3), (4, 3, 0)):
        if i == sample:
            ids[position, column, 3] = ids[position, column, 0]
    return replace(routes, ids_TLK=ids)


@pytest.mark.parametrize(
    ("options", "rows", "first"),
    [
        ("", 4, "7/2, position 2, layer 5"),
        ("--pp 2 --tp 2 --jobs 2 --layout micro-batch-size=2", 4, "7/2, position 2, layer 5"),
        ("--pp 2 --rank pp=0 --layout decoder-layers=8", 3, "7/2, position 4, layer 3"),
    ],
)
def test_rows_that_name_an_expert_twice(capsys, write, options, rows, first):
    """They are counted once, whichever ranks hold them, in the layers that are packed."""
    found = warned(capsys, write(doubled), *options.split())
    assert found == [
        f"{rows} rows of 2 samples name an expert twice, so that a router is given fewer than "
        f"top_k: the first is of sample {first}{MORE}"
    ]


def test_a_sample_without_an_id(capsys, write):
    """It is called by its place."""
    found = warned(capsys, write(lambda i, routes: doubled(i, routes) if i == 4 else routes))
    assert found == [
        "1 row of 1 sample names an expert twice, so that a router is given fewer than top_k: the "
        f"first is of sample #4, position 3, layer 1{MORE}"
    ]


def test_rows_that_are_missing_name_nothing(capsys, write):
    """Zeros of a row that is not there are no expert."""

    def holed(i, routes):
        ids, missing = routes.ids_TLK.copy(), np.zeros(routes.ids_TLK.shape[:2], np.bool_)
        ids[2:4], missing[2:4] = 0, True
        return replace(routes, ids_TLK=ids, missing_TL=missing)

    assert warned(capsys, write(holed), "--allow-missing") == []


def filled(i, routes):
    """Sample 1 has 0, 1, 2, 3 in two tokens, one row of layer 5 aside; 3 one row in all layers."""
    ids = routes.ids_TLK.copy()
    if i == 1:
        ids[6:8] = range(4)
        ids[7, 3] = (9, 0, 5, 20)
    if i == 3:
        ids[11] = (30, 2, 17, 4)
    return replace(routes, ids_TLK=ids)


@pytest.mark.parametrize("options", ["", "--pp 2 --tp 2 --layout micro-batch-size=2"])
def test_filler(capsys, write, options):
    """Rows that are 0, 1, 2, ... or one in every layer, which check calls R206 and R208, are
    counted once, whichever ranks hold them, and the first is named.
    """
    dump = write(filled)
    assert warned(capsys, dump, *options.split()) == [
        "7 rows of 1 sample name experts 0, 1, 2, ..., which are filler and no routes: the first "
        f"is of sample 7/1, position 6, layer 1{MORE}",
        "4 rows of 1 sample name the same experts in every layer, which are filler and no routes: "
        f"the first is of sample 7/3, position 11, layer 1{MORE}",
    ]
    found = {f["code"]: f["rows"] for f in document(capsys, "check", dump, code=1)["findings"]}
    assert (found["R206"], found["R208"]) == (7, 4)


def test_filler_that_is_masked(capsys, write):
    """Rows that are missing by the dump itself are no filler, whatever they hold."""

    def masked(i, routes):
        missing = np.zeros(routes.ids_TLK.shape[:2], np.bool_)
        missing[6:8] = i == 1
        missing[11:12] = i == 3
        return replace(filled(i, routes), missing_TL=missing)

    assert warned(capsys, write(masked), "--allow-missing") == []


@pytest.mark.parametrize(("experts", "lines"), [(4, 0), (256, 2)])
def test_filler_by_chance(experts, lines):
    """One such row, or token, of some may be a route where K of E are few; of many it is filler."""
    meta = make_dump([], LAYERS, experts, 2).meta
    one = OddRows(0, 1, 1), OddRows(3, 1, 2)
    found = {(0, 0): Odd((None, *one), 4, 2)}
    assert len([*told_odd(found, str, meta)]) == lines


@pytest.mark.parametrize(("experts", "dtype"), [(6, np.uint8), (300, np.uint16)])
def test_rows_are_counted_one_by_one(experts, dtype):
    """The loop counts what a set of each row counts."""
    rng = np.random.default_rng(experts)
    ids = rng.integers(0, experts, (50, 3, 3)).astype(dtype)
    if experts > 6:
        ids[20:, 1, 2] = ids[20:, 1, 0]
    missing = rng.random((50, 3)) < 0.3
    ids[5, 0], ids[6] = range(3), (5, 1, 3)
    missing[5:7] = False
    rows = {(t, n): ids[t, n].tolist() for t, n in np.argwhere(~missing).tolist()}
    twice = [at for at, row in rows.items() if len({*row}) < 3]
    ordered = [at for at, row in rows.items() if row == [0, 1, 2]]
    odd = {*twice, *ordered}
    alike = [
        (t, 0)
        for t in range(50)
        if all((t, n) in rows and (t, n) not in odd for n in range(3))
        and (ids[t] == ids[t, 0]).all()
    ]
    counted = [
        (len(at) * of, *(at or [(0, 0)])[0])
        for at, of in zip((twice, ordered, alike), (1, 1, 3), strict=True)
    ]
    assert count_odd(ids, experts, missing) == tuple(counted)
    assert count_odd(ids[:0], experts) == ((0, 0, 0),) * 3
