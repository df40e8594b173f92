"""What diff refuses: sides that cannot be laid side by side, and misuse."""

import pytest

from routectl.errors import MismatchError
from routectl.ops.diff.diff import diff
from routectl.ops.summary import summarize
from support.dumps import LAYERS, all_alike, make_dump, make_routes, make_sample


def one(layers=LAYERS, experts=6, row=(0, 1), **about):
    """A dump of one sample of two tokens."""
    routes = make_routes(all_alike(2, row, layers), layers, experts)
    return make_dump([make_sample(routes, "a", [1], [2, 3])], layers, experts, len(row), **about)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"row": (0, 1, 2)}, "top_k is 2 in OLD and 3 in NEW"),
        ({"experts": 8}, "num_experts is 6 in OLD and 8 in NEW"),
        ({"id_space": "physical"}, "id_space is logical in OLD and physical in NEW"),
        ({"layers": (0, 3)}, r"no common layer: OLD has 1..4 \(3\), NEW has 0..3 \(2\)"),
    ],
)
def test_other_models(other, message):
    """Dumps of other shapes are refused with what differs on which side."""
    with pytest.raises(MismatchError, match=message):
        diff(one(path="o.npz"), one(path="n.npz", **other))


def test_layers_that_are_not_there():
    """A wanted layer that is dense, or of one side only, is refused with the layers there are."""
    message = r"layers \[0, 3\] are not MoE layers of both dumps: those are 1..4 \(2\)"
    with pytest.raises(MismatchError, match=message):
        diff(one(), one(layers=(1, 3, 4)), layers=[0, 1, 3])


def test_wanted_layers_are_a_set():
    """Layers named twice or out of order are compared once, ascending."""
    assert diff(one(), one(), layers=[4, 1, 4]).layers == (1, 4)


def test_unknown_words():
    """Tokens and match take the listed words only."""
    with pytest.raises(ValueError, match="tokens 'some' is not known: all, "):
        diff(one(), one(), tokens="some")
    with pytest.raises(ValueError, match="match 'name' is not known: auto"):
        diff(one(), one(), match="name")


def test_unlike_results_do_not_add():
    """Results of other layers or tokens do not add up."""
    result = diff(one(), one())
    for other in (diff(one(), one(), layers=[1]), diff(one(), one(), tokens="prompt")):
        with pytest.raises(ValueError, match="do not add up"):
            _ = result + other
    with pytest.raises(TypeError):
        _ = result.counts + result.samples


def test_routes_of_another_model_than_the_dump():
    """A dump made by hand whose routes are not of its own shape is a ValueError."""
    routes = make_routes(all_alike(2, (0, 7)), LAYERS, 8)
    wrong = make_dump([make_sample(routes, "a", [1], [2, 3])])
    with pytest.raises(ValueError, match="routes of another model than their dump's"):
        diff(one(), wrong)
    with pytest.raises(ValueError, match="another model"):
        summarize(wrong)
