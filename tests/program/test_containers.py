import collections
import json
from typing import NamedTuple

import pytest
import torch
from torch.utils import _pytree as pytree

from fxopt.errors import ArtifactError, InputError
from fxopt.program.containers import field_names, match_tree, short_text, tree_text
from fxopt.program.trees import tree_from_json, tree_to_json


class Pair(NamedTuple):
    first: object
    second: object


class Triple(NamedTuple):
    first: object
    second: object
    third: object


class Bag:
    """A registered class with keys."""

    def __init__(self, **items: object) -> None:
        self.items = items


class Heap:
    """A registered class without."""

    def __init__(self, *items: object) -> None:
        self.items = items


pytree.register_pytree_node(
    Bag,
    lambda b: (list(b.items.values()), list(b.items)),
    lambda values, keys: Bag(**dict(zip(keys, values, strict=True))),
    serialized_type_name="fxopt_tests.Bag",
)
pytree.register_pytree_node(
    Heap,
    lambda h: (list(h.items), None),
    lambda values, _: Heap(*values),
    serialized_type_name="fxopt_tests.Heap",
)


def tree(value: object) -> pytree.TreeSpec:
    return pytree.tree_structure(value)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"b": 1, "a": 2}, ["b", "a"]),
        (collections.OrderedDict(z=1), ["z"]),
        (Pair(1, 2), ["first", "second"]),
        (Bag(x=1, y=2), ["x", "y"]),
        (torch.return_types.max((1, 2)), None),
        ((1, 2), None),
        ([1], None),
        (Heap(1, 2), None),
    ],
)
def test_names_of_what_a_container_holds(value: object, names: list[str] | None):
    assert field_names(tree(value)) == names


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        (0, 7),
        ((0, 0), (1, 2)),
        ((0, 0), [1, 2]),
        ([0, 0], (1, 2)),
        ({"a": 0, "b": 0}, {"b": 2, "a": 1}),
        ({"a": 0, "b": 0}, collections.OrderedDict(b=2, a=1)),
        ({"first": 0, "second": 0}, Pair(1, 2)),
        (Pair(0, 0), Pair(1, 2)),
        (Pair(0, 0), {"second": 2, "first": 1}),
        (Bag(x=0, y=0), Bag(x=1, y=2)),
        ({"x": 0, "y": 0}, Bag(x=1, y=2)),
        (Heap(0, 0), Heap(1, 2)),
        ([0, 0], Heap(1, 2)),
        ({"a": (0, {"b": 0})}, {"a": [1, {"b": 2}]}),
    ],
)
def test_what_fits(expected: object, given: object):
    assert match_tree(tree(expected), given, "x") in ([7], [1, 2])


@pytest.mark.parametrize(
    ("expected", "given", "says"),
    [
        ((0, 0), 5, "input x must be a tuple of 2, got 5"),
        ((0, 0), None, "input x must be a tuple of 2, got None"),
        ((0, 0), (1,), "input x must be a tuple of 2: got 1"),
        ((0, 0), {"a": 1, "b": 2, "c": 3}, "input x must be a tuple of 2: got 3"),
        ({"a": 0, "b": 0}, {"a": 1}, "input x must be a dict of 'a', 'b': 'b' is missing"),
        ({"a": 0}, {"a": 1, "c": 1}, "input x must be a dict of 'a': 'c' is unknown"),
        ({"a": 0}, torch.ones(2, 3), "input x must be a dict of 'a', got a tensor of shape (2, 3)"),
        (Pair(0, 0), (1, 2), "input x must be a namedtuple of 'first', 'second': 'first' is missing"),
        ({"a": (0, (0,))}, {"a": (1, 2)}, "input x['a'][1] must be a tuple of 1, got 2"),
    ],
)
def test_what_does_not_fit(expected: object, given: object, says: str):
    with pytest.raises(InputError) as caught:
        match_tree(tree(expected), given, "x")
    assert str(caught.value) == says


def test_texts():
    assert tree_text(tree({"a": 0, "b": 0})) == "a dict of 'a', 'b'"
    assert tree_text(tree([0, 0, 0])) == "a list of 3"
    assert short_text(torch.ones(2)) == "a tensor of shape (2,)"
    assert short_text("x" * 99) == "'" + "x" * 56 + "..."
    assert "\n" not in short_text([torch.ones(9, 9)])


@pytest.mark.parametrize("value", [(1, [2, {"a": 3}]), {"a": None, 1: ()}, [], {}, ((),), None, 5])
def test_trees_survive_json(value: object):
    assert tree_from_json(tree_to_json(tree(value))) == tree(value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Pair(1, Bag(x=2)), {"first": 1, "second": {"x": 2}}),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (Heap(1, 2), [1, 2]),
    ],
)
def test_a_class_comes_back_where_it_is_known_else_plain(value: object, plain: object):
    written = json.loads(json.dumps(tree_to_json(tree(value))))
    assert tree_from_json(written) == tree(value)
    elsewhere = json.loads(json.dumps(written).replace("test_containers", "gone").replace("Ordered", "Gone"))
    assert tree_from_json(elsewhere) == tree(plain)


@pytest.mark.parametrize(
    "described",
    [
        {"namedtuple": "tests.program.test_containers.Triple"},
        {"namedtuple": "tests.program.test_containers.Bag"},
        {"namedtuple": "os.system"},
        {"namedtuple": "nosuch.Pair"},
        {"class": "tests.program.test_containers.Bag", "context": ["first"]},
        {"class": "tests.program.test_containers.Bag", "context": 3},
        {"class": "tests.program.test_containers.Pair", "context": None},
        {"class": "subprocess.Popen", "context": ["first", "second"]},
    ],
)
def test_a_class_that_does_not_make_the_container_is_not_used(described: dict[str, object]):
    written = ["dict", ["first", "second"], [None, None], described]
    assert tree_from_json(written) == tree({"first": 0, "second": 0})


@pytest.mark.parametrize("described", [None, "Pair", {}, {"class": 3}, {"namedtuple": None}])
def test_a_malformed_class_is_an_error(described: object):
    with pytest.raises(ArtifactError, match="malformed"):
        tree_from_json(["dict", ["first", "second"], [None, None], described])


def test_arguments_of_the_models_class_fit_a_signature_of_dicts():
    loaded = tree((({"first": 0, "second": 0},), {}))
    assert match_tree(loaded.child(0).child(0), Pair(1, 2), "pair") == [1, 2]
