"""Files of expert maps, and maps that are not the model's."""

import json

import numpy as np
import pytest
import torch

from routectl.errors import FormatError, MismatchError, RoutectlError
from routectl.formats.experts.maps import expert_map_of, read_expert_map
from routectl.model import ModelFacts
from support.expert_maps import RECORDED, a_map, saved

MAP = a_map(1, layers=3, experts=8, physical=10)
FACTS = ModelFacts(3, (0, 1, 2), 8, 2, None)


def every_form(folder):
    """The same map in each form that is read."""
    array = np.array(MAP)
    forms = {"sglang.json": {"physical_to_logical_map": MAP}, "bare.json": MAP}
    for name, doc in forms.items():
        (folder / name).write_text(json.dumps(doc), "utf-8")
    np.save(folder / "a.npy", array.astype(np.int64))
    torch.save({"physical_to_logical_map": torch.tensor(MAP)}, folder / "sglang.pt")
    torch.save(torch.tensor(MAP, dtype=torch.int32), folder / "bare.pt")
    last = {"records": [], "last_physical_to_logical_map": torch.tensor(MAP)}
    torch.save(last, folder / "recorder.pt")
    return sorted(folder.iterdir())


def test_every_form_is_the_same_map(tmp_path):
    """JSON, .npy and .pt, bare or by SGLang's name, and a recorder's dump give the same map."""
    files = every_form(tmp_path)
    assert len(files) == 6
    for file in files:
        assert read_expert_map(file).logical_SWP.tolist() == [MAP], file.name


def test_a_map_of_one_layer_is_of_all(tmp_path):
    """Numbers [P] hold for each layer."""
    found = expert_map_of([0, 1, 1], "a")
    assert found.of_layers((4, 7), 9).tolist() == [[[0, 1, 1], [0, 1, 1]]]


def test_dense_layers_are_passed_over():
    """Of a map of all layers those of the MoE layers count; one of MoE layers counts as it is."""
    whole = expert_map_of([[9, 9], [0, 1], [1, 0]], "a")
    assert whole.of_layers((1, 2), 3).tolist() == [[[0, 1], [1, 0]]]
    assert expert_map_of([[0, 1], [1, 0]], "a").of_layers((1, 2), 3).tolist() == [[[0, 1], [1, 0]]]


def test_maps_of_steps(tmp_path):
    """Each map holds from its step to the next; before the first there is none."""
    found = read_expert_map(RECORDED / "maps.json")
    assert found.steps == (0, 8)
    assert [found.place_of(step) for step in (0, 7, 8, 100)] == [0, 0, 1, 1]
    late = expert_map_of(np.zeros((2, 1, 1), int), "a", [3, 5])
    with pytest.raises(MismatchError, match="no map of step 2: the first is of step 3"):
        late.place_of(2)
    assert expert_map_of(np.zeros((4, 2, 3), int), "a").steps == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("doc", "told"),
    [
        ({"logical_count": [[1, 2]]}, "counts of logical experts and no map"),
        ({"other": 1}, "no physical_to_logical_map in it"),
        ([[0, 1], [0]], "rows of several lengths"),
        ([0.5, 1.0], "got float64"),
        ([], "got float64"),
        ([[[[0]]]], "expected whole numbers"),
        ([-1, 0], "got logical expert -1"),
        ([0, 70000], "got logical expert 70000"),
        ("text", "expected whole numbers"),
        ({"maps": [{"step": 1}]}, "maps\\[0\\]: expected"),
        (
            {"maps": [{"step": s, "physical_to_logical_map": [0]} for s in (1, 1)]},
            "step 1 after 1",
        ),
        (
            {
                "maps": [
                    {"step": s, "physical_to_logical_map": m} for s, m in enumerate(([0], [0, 1]))
                ]
            },
            "unlike the first map",
        ),
    ],
)
def test_what_is_no_map_is_refused(tmp_path, doc, told):
    """Other documents are refused, with what was got."""
    path = tmp_path / "map.json"
    path.write_text(json.dumps(doc), "utf-8")
    with pytest.raises(FormatError, match=told) as error:
        read_expert_map(path)
    assert "\n" not in str(error.value)


def test_no_file_and_no_json(tmp_path):
    """A file that is not there, and one of other bytes, are refused in one line."""
    (tmp_path / "a").write_bytes(b"\x00\x01")
    for name, told in (("b", "cannot be read"), ("a", "neither JSON")):
        with pytest.raises(RoutectlError, match=told):
            read_expert_map(tmp_path / name)


@pytest.mark.parametrize(
    ("map_", "told"),
    [
        (MAP[:2], "a map of 2 layers, expected 3"),
        ([[*row, 8] for row in MAP], "logical expert 8, expected 0..7"),
        ([[7 if e == 3 else e for e in row] for row in MAP], "is logical expert 3"),
        ([MAP[0], MAP[1], [7] * 10], "layer 2: no physical expert is logical expert 0"),
    ],
)
def test_a_map_of_another_model_is_refused(tmp_path, map_, told):
    """Other layers, experts that the model has not, and experts without a copy are told."""
    with pytest.raises(MismatchError, match=told):
        read_expert_map(saved(tmp_path / "m.json", map_)).check(FACTS)
