"""``convert --train``, ``--dictionary``, ``--codec token`` and ``auto``."""

import base64
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from routectl.codecs.dictionary import TokenDictionary
from routectl.dump import Dump, DumpMeta, Sample, key_of
from routectl.errors import FormatError, MismatchError
from routectl.formats import open_dump
from routectl.formats.native.container import open_native, write_native
from routectl.formats.native.dictionaries import STORED
from routectl.formats.native.encoder import Coding
from routectl.formats.native.learning import learn_tokens
from routectl.routes import Routes
from support.recordings import FIXTURES
from support.shell import DUMPS, complaint, document, run

TINY = FIXTURES / "tiny_rl"
V0, V1 = TINY / "routes_v0.fp32.npz", TINY / "routes_v1.fp32.npz"


def about_of(path):
    """What a native file says of its coding."""
    return json.loads(pq.read_schema(path).metadata[b"routectl"])


def follow(samples=12, rows=900, vocabulary=40, seed=0):
    """Samples whose rows follow their tokens, top-4 of 64 in two layers, as a dump."""
    rng = np.random.default_rng(seed)
    liking = 3 * np.random.default_rng(9).normal(size=(2, vocabulary, 64))
    made = []
    for i in range(samples):
        tokens = rng.integers(0, vocabulary, rows + 1).astype(np.int32)
        scores = liking[:, tokens[:-1]] + rng.gumbel(size=(2, rows, 64))
        ids = np.argsort(-scores, axis=2)[..., :4].swapaxes(0, 1).astype(np.uint8)
        ids = np.ascontiguousarray(ids)
        made.append(Sample(Routes(ids, (1, 2), 64), f"s{i}", "g", tokens[:1], tokens[1:]))
    keys = [key_of(s.sample_id, s.prompt_ids, s.response_ids) for s in made]
    return Dump(DumpMeta("made", "", (1, 2), 64, 4), keys, made.__getitem__)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """The dictionary of tiny_rl at version 0, as a file."""
    path = tmp_path_factory.mktemp("learnt") / "v0.dictionary"
    path.write_bytes(learn_tokens(open_dump(V0)).data)
    return path


def test_train_writes_a_dictionary(tmp_path, capsys, learnt):
    """--train writes what the dump teaches, tells its digest, and prints what was written; twice
    the same bytes; an existing file is refused.
    """
    path = tmp_path / "x.dictionary"
    told = document(capsys, "convert", V0, "--train", path)
    size = path.stat().st_size
    assert (told["format"], told["samples"], told["bytes"]) == ("dictionary", 96, size)
    found = TokenDictionary(path.read_bytes())
    assert path.read_bytes() == learnt.read_bytes()
    assert (found.layers, found.sizes[:2]) == ((0, 1, 2, 3, 4, 5), (32, 4))
    assert "exists" in complaint(capsys, "convert", V0, "--train", path)
    said = run(capsys, "convert", V0, "--train", path, "--force").err
    assert found.digest.hex() in said


def test_a_dictionary_halves_a_later_version(tmp_path, capsys, learnt):
    """With version 0's dictionary the next one's file is under two thirds of that by ``set``; diff
    sees the same rows, and reads it with that dictionary alone.
    """
    path, other = tmp_path / "x.parquet", tmp_path / "set.parquet"
    line = (
        "convert",
        "--jobs",
        1,
        V1,
        "--save",
        path,
        "--codec",
        "token",
        "--dictionary",
        learnt,
        "--verify",
    )
    assert run(capsys, *line).code == 0
    assert run(capsys, "convert", "--jobs", 1, V1, "--save", other, "--codec", "set").code == 0
    assert path.stat().st_size < 0.65 * other.stat().st_size
    digest = TokenDictionary(learnt.read_bytes()).digest.hex()
    assert about_of(path)["dictionary"] == digest
    assert "dictionary" not in about_of(other)
    given = f"{path}::dictionary={learnt}"
    assert document(capsys, "diff", V1, given)["rows_mismatched"] == 0
    assert (
        run(
            capsys, "convert", "--jobs", 1, given, "--save", tmp_path / "p.parquet", "--verify"
        ).code
        == 0
    )
    said = complaint(capsys, "diff", V1, path)
    assert f"layer 0: coded with the dictionary {digest}, and none is given" in said
    assert "hint: FILE::dictionary=DICT names it" in said
    second = tmp_path / "v1.dictionary"
    assert run(capsys, "convert", V1, "--train", second).code == 0
    said = complaint(capsys, "diff", V1, f"{path}::dictionary={second}")
    assert f"expected {digest}" in said
    assert "coded with another dictionary" in said
    said = complaint(capsys, "diff", V1, f"{path}::dictionary={learnt},base={V0}")
    assert "one of them" in said


def test_a_file_may_have_its_own(tmp_path):
    """Rows that follow their tokens are learnt from the dump itself where that pays; the file has
    its dictionary in it and is read without one. Where it does not pay, ``set`` is taken.
    """
    dump, path = follow(), tmp_path / "x.parquet"
    learnt_of = learn_tokens(dump, own=True)
    coding = Coding("token", dictionary=learnt_of, stores=True)
    write_native(dump, dump.meta, path, force=False, coding=coding, verify=True)
    stored = pq.read_metadata(path).metadata[STORED.encode()]
    assert base64.b64decode(stored) == learnt_of.data
    found = open_native(path)
    for mine, other in zip(dump, found, strict=True):
        np.testing.assert_array_equal(np.sort(mine.routes.ids_TLK, 2), other.routes.ids_TLK)
    assert "dictionary" in about_of(path)


@pytest.mark.parametrize(("samples", "codec"), [(25, "token"), (4, "set")])
def test_its_own_is_stored_where_it_pays(tmp_path, capsys, samples, codec):
    """``--codec token`` without a dictionary stores one for many rows, and is ``set`` for few;
    ``auto`` takes the same.
    """
    source, path = tmp_path / "s.parquet", tmp_path / "x.parquet"
    dump = follow(samples)
    write_native(dump, dump.meta, source, force=False)
    said = run(
        capsys, "convert", "--jobs", 1, source, "--save", path, "--codec", "token", "--verify"
    ).err
    assert about_of(path)["codec"] == codec
    assert ("would not pay: codec set" in said) == (codec == "set")
    auto = tmp_path / "auto.parquet"
    said = run(capsys, "convert", "--jobs", 1, source, "--save", auto, "--codec", "auto").err
    tried = "packed, set" + ", token" * (codec == "token")
    assert f"codec {codec} takes the fewest bytes for the first rows, of {tried}\n" in said
    assert auto.read_bytes() == path.read_bytes()


def test_a_dictionary_is_no_dump(tmp_path, capsys):
    """Where a dump is expected, a dictionary is named as what it is, with what takes it."""
    path = tmp_path / "d.dict"
    assert run(capsys, "convert", DUMPS["native"], "--train", path).code == 0
    said = f"{path}: a token dictionary, not a dump: convert --codec token --dictionary takes it"
    assert said in complaint(capsys, "show", path)


def test_auto_takes_the_smallest(tmp_path, capsys, learnt):
    """--codec auto is delta against a base that is near, token with a dictionary, else set."""
    sizes = {}
    for more in ((), ("--dictionary", learnt), ("--base", V0, "--dictionary", learnt)):
        path = tmp_path / f"{len(more)}.parquet"
        assert (
            run(capsys, "convert", "--jobs", 1, V1, "--save", path, "--codec", "auto", *more).code
            == 0
        )
        sizes[about_of(path)["codec"]] = path.stat().st_size
    assert list(sizes) == ["set", "token", "delta"]
    assert sizes["set"] > sizes["token"] > sizes["delta"]


def test_what_cannot_be_is_refused(tmp_path, capsys, learnt):
    """Options that do not go together, a dictionary of another model, a file that is none: exit 2
    in one line, and nothing is written.
    """
    path, other = tmp_path / "x.parquet", tmp_path / "other.parquet"
    dump = follow(1, 5)
    write_native(dump, dump.meta, other, force=False)
    by_token = ("--save", path, "--codec", "token", "--dictionary")
    for line, said in (
        (("convert", V0), "expected --save DST, or --train DICT"),
        (("convert", V0, "--save", path, "--train", path), "in place of it"),
        (("convert", V0, "--train", path, "--codec", "set"), "--codec is of --save"),
        (("convert", V0, "--train", path, "--no-tokens"), "--no-tokens is of --save"),
        (("convert", V0, "--train", "-"), "expected a path"),
        (("convert", V0, "--save", path, "--dictionary", learnt), "--dictionary is of --codec"),
        (("convert", V0, *by_token, learnt, "--no-tokens"), "token is decoded by token ids"),
        (("convert", other, *by_token, learnt), "another model: got E 32, K 4, in"),
        (("convert", V0, *by_token, V0), "no dictionary of routectl"),
        (("convert", V0, *by_token, tmp_path / "none"), "cannot be read"),
    ):
        assert said in complaint(capsys, *line)
    assert list(tmp_path.iterdir()) == [other]


def test_a_stored_dictionary_is_checked(tmp_path):
    """A dictionary in a footer that is damaged, or not the one that the file names, is refused."""
    dump, path = follow(3, 300), tmp_path / "x.parquet"
    coding = Coding("token", dictionary=learn_tokens(dump, own=True), stores=True)
    write_native(dump, dump.meta, path, force=False, coding=coding)
    other = learn_tokens(follow(3, 300, seed=1), own=True)
    table = pq.read_table(path)
    for stored, said in (
        (base64.b64encode(other.data), "not the one that it names"),
        (b"%%%", "its dictionary"),
        (base64.b64encode(coding.dictionary.data[:-3]), "digest"),
    ):
        with pq.ParquetWriter(path, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({STORED: stored.decode()})
        with pytest.raises(FormatError, match=said):
            open_dump(path)


def test_a_dump_is_no_dictionary(tmp_path, learnt):
    """A dump where a dictionary is wanted is refused; a dictionary where none is needed is let be,
    so that a folder may have files of both.
    """
    dump, path = open_dump(V0).select(samples=range(2)), tmp_path / "x.parquet"
    given = TokenDictionary(learnt.read_bytes())
    write_native(dump, dump.meta, path, force=False, coding=Coding("token", dictionary=given))
    with pytest.raises(MismatchError, match="not against a dump"):
        open_dump(path, base=dump)
    assert len(open_dump(path, base=learnt)[0].routes.ids_TLK)
    write_native(dump, dump.meta, tmp_path / "y.parquet", force=False, coding=Coding("set"))
    both = open_dump(tmp_path, base=given)
    assert [s.sample_id for s in both] == [s.sample_id for s in dump] * 2


def test_a_dump_without_tokens_teaches_nothing():
    """There is nothing to learn where no sample has routes and token ids."""
    with pytest.raises(MismatchError, match="to learn from"):
        learn_tokens(open_dump(V0).without_tokens())
