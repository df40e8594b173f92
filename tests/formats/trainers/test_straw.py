"""Rollout archives of slime in straw's store, as that store wrote one."""

import hashlib
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from routectl.errors import RoutectlError
from routectl.formats import open_dump
from support.shell import complaint, document, run

FIXTURES = Path(__file__).parent.parent.parent.parent / "fixtures"
THEIRS = FIXTURES / "trainer_files/straw_queue-0.1.6/rollout_0.straw.json"
DUMP = FIXTURES / "recordings/vllm-0.32.0/deepseek_v3.bf16.grpo/samples.jsonl"
CONFIG = FIXTURES / "configs/deepseek_v3.json"
MODEL = ("--model", str(CONFIG))
RECORDED = {"1": 1, "0": 0, "3": 9, "2": 5}  # sample index: of DUMP, in the archive's order


@pytest.fixture
def archive(tmp_path):
    """A copy of the archive: its index, and its one pack."""
    folder = Path(shutil.copytree(THEIRS.parent, tmp_path / "a"))
    return folder / THEIRS.name, next(folder.rglob("*.pack"))


class TestRead:
    """The fixture, whose packs straw-queue 0.1.6 wrote."""

    def test_its_own(self):
        """Samples come in the archive's order with their recording's rows, tokens and log-probs."""
        mine, theirs = open_dump(DUMP), open_dump(THEIRS, model=str(CONFIG))
        assert (theirs.meta.format, theirs.meta.trainer) == ("straw", "slime")
        assert theirs.meta.file_bytes > 30_000  # of the pack, too
        assert [sample.sample_id for sample in theirs] == list(RECORDED)
        for sample in theirs:
            other = mine[RECORDED[sample.sample_id]]
            np.testing.assert_array_equal(sample.routes.ids_TLK, other.routes.ids_TLK)
            np.testing.assert_array_equal(sample.token_ids, other.token_ids)
            np.testing.assert_array_equal(sample.logprobs, other.logprobs)
            spans = [(span.version, span.start, span.end) for span in sample.weight_spans]
            assert spans == [("7", 0, 9), ("8", 9, sample.response_length)]
            assert (sample.finish_reason, sample.cached_tokens) == ("stop", 3)

    def test_commands(self, capsys, tmp_path):
        """show, check, diff and convert take it; there and back nothing is lost."""
        saved = tmp_path / "x.parquet"
        assert document(capsys, "show", THEIRS, *MODEL)["samples"] == 4
        assert run(capsys, "check", THEIRS, *MODEL, "--ignore", "R501").code == 0
        assert run(capsys, "convert", THEIRS, "--save", saved, *MODEL).code == 0
        assert run(capsys, "diff", THEIRS, saved, *MODEL).code == 0
        assert "0 of 880 rows differ" in run(capsys, "diff", DUMP, THEIRS, *MODEL).out


def changed(index, **more):
    """The index with other entries."""
    index.write_text(json.dumps(json.loads(index.read_text()) | more, sort_keys=True))


class TestHostile:
    """What is not whole, or names what is not its own, is refused in one line."""

    @pytest.mark.parametrize("at", [0, 9, 13, 40, 400, 4_000, 20_000, -1, -20, -60, -79, -400])
    def test_flipped(self, capsys, archive, at):
        """No bit of a pack can change unseen: each record, the index and the footer are hashed."""
        index, pack = archive
        data = bytearray(pack.read_bytes())
        data[at] ^= 4
        pack.write_bytes(data)
        told = complaint(capsys, "diff", index, index, *MODEL)
        assert len(told.splitlines()) == 1

    @pytest.mark.parametrize("size", [0, 11, 80, 92, 5_000])
    def test_cut(self, capsys, archive, size):
        """A pack that ends early is refused."""
        index, pack = archive
        pack.write_bytes(pack.read_bytes()[:size])
        assert len(complaint(capsys, "show", index, *MODEL).splitlines()) == 1

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            ({"version": 2}, "this routectl reads version 1"),
            ({"format": "other.straw-debug"}, "slime.straw-debug and vime.straw-debug"),
            ({"format": "vime.straw-debug"}, "expected one record of vime.v1"),
            ({"manifest": None}, "damaged archive of rollouts"),
            ({"manifest": {"manifest": []}}, "damaged archive of rollouts"),
            ({"root": 3}, "expected a folder"),
            ({"root": "/nowhere/at/all"}, "is not there"),
        ],
    )
    def test_index(self, capsys, archive, more, said):
        """An index of another version or kind, or without what it needs, is refused."""
        changed(archive[0], **more)
        told = complaint(capsys, "show", archive[0], *MODEL)
        assert said in told
        assert len(told.splitlines()) == 1

    def test_index_without_a_version(self, capsys, archive):
        """A name that is not there is said, and no exception's."""
        index = json.loads(archive[0].read_text())
        del index["version"]
        archive[0].write_text(json.dumps(index))
        told = complaint(capsys, "show", archive[0], *MODEL)
        assert "no 'version'" in told
        assert "KeyError" not in told

    @pytest.mark.parametrize("path", ["../x.pack", "/etc/passwd", "", 3, "raw/../../x"])
    def test_names(self, capsys, archive, path):
        """A pack is named by a path within the pool."""
        index = archive[0]
        manifest = json.loads(index.read_text())["manifest"]
        manifest["manifest"]["segment"]["path"] = path
        changed(index, manifest=manifest)
        assert "a pack by the name of" in complaint(capsys, "show", index, *MODEL)


def extent(payloads):
    """An extent of straw with these (codec, metadata, payload), and the reference to it."""
    data, entries = b"SLMSEG01" + struct.pack("<I", 1), []
    for number, (codec, metadata, payload) in enumerate(payloads):
        envelope = {
            "checksum": hashlib.sha256(payload).hexdigest(),
            "codec": codec,
            "length": len(payload),
            "metadata": metadata,
            "record_id": str(number),
            "tokens": 0,
            "version": 1,
        }
        entries.append({"envelope": envelope, "offset": len(data)})
        head = json.dumps(envelope).encode()
        data += struct.pack("<IQ", len(head), len(payload)) + head + payload
    index = json.dumps({"records": entries}).encode()
    data += index
    whole = hashlib.sha256(data)
    data += struct.pack("<Q", len(index)) + hashlib.sha256(index).digest() + whole.digest()
    data += b"SLMEND01"
    segment = {"path": "x.pack", "offset": 0, "size": len(data), "checksum": whole.hexdigest()}
    return data, segment


def made(folder, tree, tensor=(b"", {"shape": [0], "dtype": "int32"})):
    """An archive whose only chunk is this tree, well-formed as a pack."""
    manifest = {"dependencies": [], "records": [0], "version": 2}
    chunk = manifest | {"dependencies": [{"local": 1}], "records": [2]}
    contents = [
        ["chunks", ["list", [["rollout-ref", "DiskPayloadRef", 0, ["dict", []]]]]],
        ["entries", ["list", [["dict", [["chunk", 0], ["offset", 0]]]]]],
    ]
    top = manifest | {"dependencies": [{"local": 3}], "records": [4]}
    payload, about = tensor
    records = [
        ("tensor.v1", about, payload),
        ("record-set.v2", {}, json.dumps(manifest).encode()),
        ("slime.v1", {}, json.dumps({"version": 1, "tree": tree}).encode()),
        ("record-set.v2", {}, json.dumps(chunk).encode()),
        ("slime.v1", {}, json.dumps({"version": 1, "tree": ["dict", contents]}).encode()),
        ("record-set.v2", {}, json.dumps(top).encode()),
    ]
    data, segment = extent(records)
    (folder / "pool").mkdir()
    (folder / "pool/x.pack").write_bytes(data)
    index = folder / "x.straw.json"
    doc = {
        "evaluation": False,
        "format": "slime.straw-debug",
        "manifest": {"manifest": {"segment": segment, "ordinal": 5}},
        "root": "/was/here/pool",
        "version": 1,
    }
    index.write_text(json.dumps(doc))
    return index


def sample(**more):
    """A sample's tree, of 4 tokens; ``more`` are nodes in place of some."""
    place = {"dependency": 0, "ordinal": 0}
    nodes = {
        "tokens": ["list", [5, 6, 7, 8]],
        "response_length": 2,
        "rollout_routed_experts": ["tensor", place, [3, 1, 2], "int32", True, None, False],
        **more,
    }
    return ["list", [["sample", ["dict", [[k, v] for k, v in nodes.items()]]]]]


ROWS = np.array([[[0, 1]], [[2, 3]], [[1, 0]]], np.int32)
TENSOR = (ROWS.tobytes(), {"shape": [3, 1, 2], "dtype": "int32"})


def test_made_by_hand(tmp_path):
    """Packs written out by the form's own description are read."""
    dump = open_dump(made(tmp_path, sample(), TENSOR), model="1,2,4")
    assert dump[0].routes.ids_TLK.tolist() == ROWS.tolist()


@pytest.mark.parametrize(
    ("tree", "tensor"),
    [
        (["list", [["object", "os.system"]]], TENSOR),
        (["list", []], TENSOR),
        (["sample"], TENSOR),
        ([], TENSOR),
        (
            sample(tokens=["tensor", {"dependency": -1, "ordinal": 0}, [1], "int32", 0, 0, 0]),
            TENSOR,
        ),
        (sample(tokens=["tensor", {"dependency": 0, "ordinal": 9}, [1], "int32", 0, 0, 0]), TENSOR),
        (sample(tokens=["dict", [[["list", []], 1]]]), TENSOR),
        (sample(tokens=["float", "1e5"]), TENSOR),
        (sample(), (ROWS.tobytes(), {"shape": [3, 2], "dtype": "int32"})),
        (sample(), (ROWS.tobytes(), {"shape": [1 << 50, 2], "dtype": "int32"})),
        (sample(), (ROWS.tobytes(), {"shape": [-3, 1, -2], "dtype": "int32"})),
        (sample(), (ROWS.tobytes(), {"shape": [3, 1, 2], "dtype": "object"})),
        (sample(), (ROWS.tobytes(), {"shape": [3, 1, 2], "dtype": "float32"})),
        (sample(), (ROWS.tobytes(), {})),
    ],
)
def test_values(capsys, tmp_path, tree, tensor):
    """A pack that is whole, and holds what is no collection of samples, is refused in one line."""
    path = made(tmp_path, tree, tensor)
    assert len(complaint(capsys, "show", path, "--model", "1,2,4").splitlines()) == 1
    with pytest.raises(RoutectlError):
        list(open_dump(path, model="1,2,4"))
