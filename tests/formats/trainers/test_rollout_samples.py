"""Rollout dumps of slime and miles, against dicts written out as Sample.to_dict makes them."""

import sys
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from routectl.dump import WeightSpan
from routectl.errors import FormatError
from routectl.formats import open_dump
from routectl.model import ModelFacts
from support.building import check_line
from support.shell import document
from support.slime_files import A_IDS, all_layers, save_rollout, short_sample, slime_sample

FACTS = ModelFacts(2, (1,), 4, 2, None)


def read(tmp_path, **more):
    """The one sample of a dump."""
    (sample,) = open_dump(save_rollout(tmp_path / "0.pt", slime_sample(**more)), model=FACTS)
    return sample


@dataclass(frozen=True)
class DiskTensorRef:
    """slime's, field by field (utils/tensor_store.py)."""

    path: str
    shape: tuple[int, ...] = (3, 2, 2)
    dtype: str = "int32"
    nbytes: int = 48
    kind: str | None = None
    validated: bool = False


@pytest.fixture(params=["slime.utils.tensor_store", "vime.data.tensor"])
def spilled(monkeypatch, request):
    """The class under the name that slime or vime pickles it by."""
    module = ModuleType(request.param)
    module.DiskTensorRef = DiskTensorRef
    above = request.param.split(".")
    for name in (above[0], ".".join(above[:2]), module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(DiskTensorRef, "__module__", module.__name__)
    return DiskTensorRef


def segment(start, stop, *versions, branch="b0"):
    """A segment as slime's record_generation_provenance makes it."""
    return {
        "start": start,
        "stop": stop,
        "branch": branch if versions else None,
        "reported_versions": list(versions) or None,
    }


class TestSegments:
    """Segments of a sample that several policies generated: queue_policy_segments."""

    @pytest.mark.parametrize(
        ("segments", "spans"),
        [
            ([segment(0, 2), segment(2, 4, "7")], [("7", 0, 2)]),
            (
                [segment(0, 2), segment(2, 3, "7"), segment(3, 4, "7", "8")],
                [("7", 0, 1), ("8", 1, 2)],
            ),
            ([segment(0, 3, "7"), segment(3, 4, "7", "8", "9")], [("7", 0, 1), ("8+9", 1, 2)]),
            ([segment(2, 3, "7"), segment(3, 4, "7")], [("7", 0, 1)]),
            ([segment(2, 3), segment(3, 4, "8")], [("8", 1, 2)]),
            ([segment(2, 3, "7"), segment(3, 4, "9")], [("7", 0, 1), ("9", 1, 2)]),
            ([], []),
        ],
    )
    def test_spans(self, tmp_path, segments, spans):
        """Each has the versions that the one before had not, over the response's tokens."""
        sample = read(tmp_path, queue_policy_segments=segments, weight_versions=["7", "8"])
        assert [(s.version, s.start, s.end) for s in sample.weight_spans] == spans

    @pytest.mark.parametrize(
        "segments",
        [
            3,
            [3],
            [segment(0, 9, "7")],
            [segment(3, 2, "7")],
            [segment(0, 3, "7"), segment(2, 4, "8")],
            [{"start": 0.0, "stop": 4}],
            [{"start": 0, "stop": 4, "reported_versions": 7}],
        ],
    )
    def test_hostile(self, tmp_path, segments):
        """Segments out of order, beyond the tokens or of other types are refused in one line."""
        with pytest.raises(FormatError, match="queue_policy_segments: got") as caught:
            read(tmp_path, queue_policy_segments=segments)
        assert len(str(caught.value).splitlines()) == 1


class TestHoles:
    """Tokens without any route, which slime replays as expert 0."""

    def check(self, capsys, folder, holes, rows, metadata=None):
        """The finding R209 of a dump with so many holes of so many rows; None without one."""
        ids = np.stack([np.zeros((rows, 2)), np.tile([[1, 3]], (rows, 1))], axis=1).astype(np.int32)
        ids[1::2, 1] = [2, 0]
        ids[rows // 2 : rows // 2 + holes, 1] = 0
        doc = slime_sample(
            tokens=list(range(rows + 1)),
            response_length=2,
            rollout_routed_experts=torch.tensor(ids),
            rollout_log_probs=None,
            loss_mask=None,
        )
        path = folder / "0.pt"
        torch.save({"rollout_id": 0, "samples": [doc]} | (metadata or {}), path)
        found = document(capsys, "check", path, "--model", "2,2,4", code=1)["findings"]
        return next((f for f in found if f["code"] == "R209"), None)

    @pytest.mark.parametrize(
        ("holes", "rows", "detail"),
        [
            (64, 200, "slime tolerates as many"),
            (65, 200, "slime refuses the sample: more than that"),
            (66, 6600, "slime tolerates as many"),
            (67, 6600, "slime refuses the sample: more than that"),
        ],
    )
    def test_bounds(self, capsys, tmp_path, holes, rows, detail):
        """Up to max(64, 1 %) are named with their count, and what slime does with them."""
        found = self.check(capsys, tmp_path, holes, rows)
        assert found["rows"] == 2 * holes
        assert detail in str(found)
        assert found["severity"] == "warning"

    def test_miles_is_another(self, capsys, tmp_path):
        """miles, whose dump has metadata, has a rule of its own."""
        assert self.check(capsys, tmp_path, 5, 200, {"metadata": {}}) is None


class TestFields:
    """What a sample says, and where it is kept."""

    def test_all(self, tmp_path):
        """Routes, tokens, log-probs, mask, version, status, cache and group are all kept."""
        sample = read(tmp_path)
        assert sample.routes.ids_TLK.tolist() == A_IDS
        assert (sample.routes.start, sample.start_inferred) == (0, False)
        assert (sample.prompt_ids.tolist(), sample.response_ids.tolist()) == ([5, 6], [7, 8])
        assert (sample.prompt_length, sample.response_length) == (2, 2)
        assert sample.logprobs.tolist() == [-0.5, -2.0]
        assert sample.loss_mask.tolist() == [False, False, False, True]
        assert sample.weight_spans == (WeightSpan("7", 0, 2),)
        assert (sample.finish_reason, sample.cached_tokens) == ("stop", 1)
        assert (sample.sample_id, sample.group_id) == ("12", "3")

    @pytest.mark.parametrize(
        ("versions", "spans"),
        [
            (["7"], (WeightSpan("7", 0, 2),)),
            (["7", "8", "7"], (WeightSpan("7+8", 0, 2),)),
            ([7, 8], (WeightSpan("7+8", 0, 2),)),
            ([], ()),
            (None, ()),
        ],
    )
    def test_weight_versions(self, tmp_path, versions, spans):
        """One version a generation call: whose tokens were whose is not told, so one span."""
        assert read(tmp_path, weight_versions=versions).weight_spans == spans

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            ("completed", "stop"),
            ("truncated", "length"),
            ("aborted", "abort"),
            ("failed", "failed"),
            ("pending", None),
        ],
    )
    def test_status(self, tmp_path, status, reason):
        """A status is the engine's reason to stop; a pending sample has none."""
        assert read(tmp_path, status=status).finish_reason == reason

    def test_siblings_of_one_rollout(self, tmp_path):
        """Samples cut out of one rollout share its id: their group where there is no other."""
        sample = read(tmp_path, group_index=None, rollout_id=40, index=None)
        assert (sample.group_id, sample.sample_id) == ("40", None)

    def test_other_keys(self, tmp_path):
        """Whatever else a sample carries is let be: numpy numbers, tensors, arrays of objects."""
        sample = read(
            tmp_path,
            reward=np.float64(0.5),
            trace=np.array(["a", None], object),
            values=torch.randn(3),
            words=np.array(["x"]),
            half=torch.randn(2).bfloat16(),
            seen={1, 2},
        )
        assert sample.routes.ids_TLK.tolist() == A_IDS

    def test_without_the_fields_of_today(self, tmp_path):
        """Old dumps lack most fields: tokens, response_length and routes are enough."""
        old = {
            "tokens": [5, 6, 7, 8],
            "response_length": 2,
            "rollout_routed_experts": all_layers(A_IDS),
        }
        (sample,) = open_dump(save_rollout(tmp_path / "0.pt", old), model=FACTS)
        assert sample.routes.ids_TLK.tolist() == A_IDS
        assert (sample.logprobs, sample.loss_mask, sample.sample_id) == (None, None, None)


@pytest.fixture
def others_allow_numpy():
    """Another library has told torch that numpy's own classes are safe, as tensordict does."""
    kinds = [np.dtype, np.ndarray, np._core.multiarray._reconstruct, type(np.dtype("i4"))]
    with torch.serialization.safe_globals(kinds):
        yield
        left = torch.serialization.get_safe_globals()
        assert [kind for kind in kinds if kind not in left] == []


class TestRoutes:
    """The forms that routes have had."""

    @pytest.mark.parametrize(
        "form",
        [
            lambda ids: ids,
            lambda ids: ids.numpy(),
            lambda ids: np.asfortranarray(ids.numpy()),
            lambda ids: ids.numpy().astype(">i4"),
            lambda ids: ids.numpy().astype(np.uint8),
            lambda ids: ids.to(torch.int64),
            lambda ids: ids.tolist(),
            lambda ids: torch.cat([ids, ids])[: len(ids)],
            lambda ids: ids.flatten(1),
        ],
        ids=["torch", "numpy", "fortran", "big", "uint8", "int64", "lists", "view", "relax"],
    )
    def test_forms(self, tmp_path, form, others_allow_numpy):
        """Tensors, arrays of any order and width, lists and Relax's flat rows read the same."""
        sample = read(tmp_path, rollout_routed_experts=form(all_layers(A_IDS)))
        assert sample.routes.ids_TLK.tolist() == A_IDS

    def test_none(self, tmp_path):
        """A sample without routes, an aborted one say, is a sample without routes."""
        path = save_rollout(
            tmp_path / "0.pt", slime_sample(), short_sample() | {"rollout_routed_experts": None}
        )
        assert [sample.routes is None for sample in open_dump(path, model=FACTS)] == [False, True]

    def test_no_rows(self, tmp_path):
        """A tensor without a row is as good as none."""
        bad = slime_sample(rollout_routed_experts=all_layers(A_IDS)[:0])
        dump = open_dump(save_rollout(tmp_path / "0.pt", bad, short_sample()), model=FACTS)
        assert [sample.routes is None for sample in dump] == [True, False]

    @pytest.mark.parametrize("rows", [1, 5])
    def test_other_counts(self, tmp_path, rows):
        """Rows that are not N, N - 1 or N - 2 are refused, that sample alone, with both numbers."""
        ids = all_layers(A_IDS * 2)[:rows]
        bad = slime_sample(rollout_routed_experts=ids)
        dump = open_dump(save_rollout(tmp_path / "0.pt", bad, short_sample()), model=FACTS)
        assert dump[1].routes.rows == 1
        with pytest.raises(FormatError, match=f"sample 0: got {rows} rows, expected 3 = 2 prompt"):
            dump[0]

    def test_spilled(self, tmp_path, spilled):
        """Routes that slime spilled to disk are read from the dump's own folder, wherever it is."""
        folder = tmp_path / "0_r3_spill" / "f00d"
        folder.mkdir(parents=True)
        save_file({"tensor": all_layers(A_IDS).numpy()}, folder / "0_a.safetensors")
        ref = spilled("/elsewhere/0_r3_spill/f00d/0_a.safetensors")
        sample = read(tmp_path, rollout_routed_experts=ref)
        assert sample.routes.ids_TLK.tolist() == A_IDS

    def test_segments(self, tmp_path):
        """Routes as a list of tensors, one a segment as vime appends them, are read end to end."""
        whole = all_layers(A_IDS)
        sample = read(tmp_path, rollout_routed_experts=[whole[:2], whole[2:]])
        assert sample.routes.ids_TLK.tolist() == A_IDS
        with pytest.raises(FormatError, match="got segments of shapes"):
            read(tmp_path, rollout_routed_experts=[whole[:2], whole[2:, :1]])

    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("/x/f00d/1_b.safetensors", "were spilled to .*1_b.safetensors, which is not there"),
            ("/etc/passwd", "which is not there"),
            ("../..", "without a path"),
            ("passwd", "without a path"),
            (7, "without a path"),
        ],
    )
    def test_spilled_elsewhere(self, tmp_path, spilled, path, said):
        """A reference that leads nowhere, or out of the folder, is refused."""
        with pytest.raises(FormatError, match=said) as caught:
            read(tmp_path, rollout_routed_experts=spilled(path))
        check_line(caught.value, tmp_path / "0.pt")
