"""FastDeploy's routing store: pickled arrays as paddle.save writes them, layers first, padded."""

import pickle

import numpy as np
import pytest

from routectl.damage import DamagedSampleError
from routectl.errors import RoutectlError
from routectl.formats import open_dump
from support.building import FACTS, check_line, some_ids

ROLLOUT = "math_epoch_15:2:2:1"
DTYPES = [np.uint8, np.uint16, np.uint32]


def stored(ids_TLK, dtype, longest=9):
    """Rows as FastDeploy has them: layers first, -1 wrapped up to the longest sequence."""
    rows, layers, top_k = ids_TLK.shape
    whole = np.full((layers, longest, top_k), np.iinfo(dtype).max, dtype)
    whole[:, :rows] = np.where(ids_TLK < 0, np.iinfo(dtype).max, ids_TLK).transpose(1, 0, 2)
    return whole


def save(path, value):
    """What paddle.save does with a numpy array: a pickle of protocol 4."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=4))
    return path


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_of_all_layers(tmp_path, dtype):
    """Axes are put in order, -1 is a missing row, and the padding behind the last row is cut."""
    ids = some_ids(6, seed=1)
    ids[2] = -1
    ids[4, 1] = -1
    path = save(tmp_path / ROLLOUT / f"{ROLLOUT}.pdtensor", stored(ids, dtype))
    (sample,) = open_dump(path, model=FACTS)
    assert (sample.sample_id, sample.routes.start, sample.num_tokens) == (ROLLOUT, 0, None)
    missing = (ids == -1).all(axis=2)
    np.testing.assert_array_equal(sample.routes.missing_TL, missing)
    np.testing.assert_array_equal(sample.routes.ids_TLK[~missing], ids[~missing])


@pytest.mark.trainers
@pytest.mark.filterwarnings("ignore")
def test_what_paddle_itself_saves(tmp_path):
    """A file of each dtype by the real paddle.save holds the same rows."""
    paddle = pytest.importorskip("paddle", reason="paddlepaddle: tests/trainers/environments.py")
    ids = some_ids(6, seed=1)
    for dtype in DTYPES:
        path = tmp_path / f"{dtype.__name__}.pdtensor"
        paddle.save(stored(ids, dtype), str(path))
        (sample,) = open_dump(path, model=FACTS)
        np.testing.assert_array_equal(sample.routes.ids_TLK, ids)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_folder_of_layers(tmp_path, dtype):
    """A file a layer is one sample, named by the folder; ten layers are in order."""
    ids = some_ids(4, layers=11, seed=2)
    for layer, ids_SK in enumerate(stored(ids, dtype)):
        save(tmp_path / "store" / f"layer_{layer}.pdtensor", ids_SK)
    (sample,) = open_dump(tmp_path / "store", model="11,2,8")
    np.testing.assert_array_equal(sample.routes.ids_TLK, ids)
    assert sample.sample_id == "store"


def test_a_store(tmp_path):
    """A glob over the store's folders is a dump, a sample a request."""
    for name in ("a:0:0:0", "b:0:0:0"):
        path = tmp_path / name / f"{name}.pdtensor"
        save(path, stored(some_ids(5, seed=len(name)), np.uint8))
    dump = open_dump(f"{tmp_path}/*/*.pdtensor", model=FACTS)
    assert [key.sample_id for key in dump.keys] == ["a:0:0:0", "b:0:0:0"]
    assert dump.meta.engine == "fastdeploy"


def test_other_axes_are_damage(tmp_path):
    """An array with rows first is not turned: the form has layers first, and check says so."""
    ids = some_ids(6, seed=3)
    dump = open_dump(save(tmp_path / "x.pdtensor", ids.astype(np.uint8)), model=FACTS)
    with pytest.raises(DamagedSampleError, match=r"which is \[layers, rows, top_k\]"):
        dump[0]


class Foreign:
    """A class that no list names."""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": 1}, "a pickle of dict, expected an array"),
        (np.zeros((2, 3, 2), np.int32), "got int32 (2, 3, 2), expected FastDeploy's unsigned"),
        (np.zeros((3, 2), np.uint8), "got uint8 (3, 2), expected FastDeploy's unsigned [layers"),
        (np.zeros((0, 3, 2), np.uint8), "got uint8 (0, 3, 2), expected FastDeploy's unsigned"),
        (np.array([1, None]), "a numpy array of objects"),
        (Foreign(), "Foreign"),
    ],
)
def test_refused(tmp_path, value, said):
    """Anything but an unsigned array of three axes is refused in one line that names it."""
    path = save(tmp_path / "x.pdtensor", value)
    with pytest.raises(RoutectlError) as caught:
        open_dump(path, model=FACTS)
    assert said in str(caught.value)
    check_line(caught.value, path)


def test_a_layer_that_is_not_there(tmp_path):
    """A folder that lacks a layer's file, or has one of another length, is refused."""
    for layer, ids_SK in enumerate(stored(some_ids(4), np.uint8)):
        save(tmp_path / "s" / f"layer_{layer}.pdtensor", ids_SK)
    save(tmp_path / "s" / "layer_2.pdtensor", np.zeros((4, 2), np.uint8))
    with pytest.raises(RoutectlError, match="layers of 2 shapes or dtypes, expected one"):
        open_dump(tmp_path / "s", model=FACTS)
    (tmp_path / "s" / "layer_1.pdtensor").unlink()
    with pytest.raises(RoutectlError, match=r"layers \[0, 2\], expected all from 0 on"):
        open_dump(tmp_path / "s", model=FACTS)
