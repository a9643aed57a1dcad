"""Containers are built as pytree builds them."""

from collections import OrderedDict, defaultdict, deque, namedtuple

import pytest
from torch.utils import _pytree as pytree

from fxopt.lowering.assembly import assembler

Pair = namedtuple("Pair", "first second")
TREES = [
    0,
    (),
    (0,),
    [0, [], (1, 2)],
    {"a": 0, 3: {"b": (1,)}, "it's": {}},
    OrderedDict([("z", 0), ("a", [1])]),
    defaultdict(list, {"k": 0}),
    deque([0, 1], maxlen=4),
    Pair(0, {"x": Pair([1], 2)}),
]


@pytest.mark.parametrize("example", TREES, ids=str)
def test_as_pytree_does(example: object):
    tree = pytree.tree_structure(example)
    flat = [f"value {i}" for i in range(tree.num_leaves)]
    build = assembler(tree, {})
    for _ in range(2):
        built, expected = build(flat), pytree.tree_unflatten(flat, tree)
        assert built == expected
        assert type(built) is type(expected)
        assert pytree.tree_structure(built) == tree


def test_constants_stand_between_the_computed():
    tree = pytree.tree_structure((0, {"k": 1, "n": 2}, 3))
    assert assembler(tree, {0: None, 2: "fixed"})(["a", "b"]) == (None, {"k": "a", "n": "fixed"}, "b")


def test_each_call_has_containers_of_its_own():
    build = assembler(pytree.tree_structure({"a": [0]}), {})
    first, second = build([1]), build([1])
    assert first == second
    assert first is not second
    assert first["a"] is not second["a"]  # type: ignore[index]
