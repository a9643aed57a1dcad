"""simplify-slices-and-concats: cuts and joins that undo one another, and those that do not."""

from collections.abc import Callable

import pytest
import torch

from fxopt.passes.simplify.simplify_slices_and_concats import SimplifySlicesAndConcats
from fxopt.pipeline import PassManager
from fxopt.testing import ProgramBuilder, check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

SIMPLIFY = SimplifySlicesAndConcats()
Fn = Callable[..., object]
X, Y = rand(2, 8, 6), rand(2, 3, 6, seed=1)
cat, cut = torch.cat, torch.ops.aten.slice.Tensor

SAME: dict[str, tuple[Fn, Fn]] = {
    "all pieces": (lambda x, y: cat(x.split(4, 1), 1).relu(), lambda x, y: x.relu()),
    "pieces of sizes": (lambda x, y: cat(x.split([1, 2, 5], 1), 1).relu(), lambda x, y: x.relu()),
    "chunks": (lambda x, y: cat(x.chunk(3, 1), 1).relu(), lambda x, y: x.relu()),
    "slices": (lambda x, y: cat([cut(x, 1, 0, 3), cut(x, 1, 3, 8)], 1).relu(), lambda x, y: x.relu()),
    "some pieces": (
        lambda x, y: cat([*x.split([1, 2, 5], 1)[1:], y], 1),
        lambda x, y: cat([cut(x, 1, 1, 8), y], 1),
    ),
    "two runs of pieces": (
        lambda x, y: cat([cut(x, 1, 4, 5), cut(x, 1, 5, 6), cut(x, 1, 0, 1), cut(x, 1, 1, 3)], 1),
        lambda x, y: cat([cut(x, 1, 4, 6), cut(x, 1, 0, 3)], 1),
    ),
    "a join in a join": (lambda x, y: cat([cat([x, y], 1), x], 1), lambda x, y: cat([x, y, x], 1)),
    "joins in a join, in order": (
        lambda x, y: cat([y, cat([x, cat([y, x], 1)], 1), cat([y, y], 1)], 1),
        lambda x, y: cat([y, x, y, x, y, y], 1),
    ),
    "a slice of a slice": (lambda x, y: cut(cut(x, 1, 2, 8), 1, 1, 4), lambda x, y: cut(x, 1, 3, 6)),
    "a slice from the end": (lambda x, y: cut(cut(x, 1, 2), 1, -3, -1), lambda x, y: cut(x, 1, 5, 7)),
    "a slice from no start": (
        lambda x, y: cut(cut(x, 1, None, 6), 1, 1, 3),
        lambda x, y: cut(x, 1, 1, 3),
    ),
    "a slice of three": (lambda x, y: cut(cut(cut(x, 1, 1), 1, 1), 1, 1), lambda x, y: cut(x, 1, 3, 8)),
    "a slice of a piece": (lambda x, y: cut(x.split(4, 1)[1], 1, 1, 3), lambda x, y: cut(x, 1, 5, 7)),
    "an operand": (lambda x, y: cut(cat([x, y], 1), 1, 8, 11).relu(), lambda x, y: y.relu()),
    "part of an operand": (lambda x, y: cut(cat([x, y], 1), 1, 9, 10), lambda x, y: cut(y, 1, 1, 2)),
    "the end of the first": (lambda x, y: cut(cat([x, y], 1), 1, 6, 8), lambda x, y: cut(x, 1, 6, 8)),
    "pieces of a join": (
        lambda x, y: [p.relu() for p in cat([x, y], 1).split([8, 3], 1)],
        lambda x, y: [x.relu(), y.relu()],
    ),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_before_and_after(name: str, dynamic: bool):
    before, expected = (program(f, X, Y, dynamic=dynamic) for f in SAME[name])
    assert _moves(applied(SIMPLIFY, before).program) == _moves(expected)


def _moves(program: object) -> list[str]:
    """The structure, the end of a slice as it is."""
    return [line.replace("9223372036854775807", "8") for line in structure(program)]  # type: ignore[arg-type]


STAYS: dict[str, Fn] = {
    "pieces out of order": lambda x, y: cat(x.split(4, 1)[::-1], 1),
    "pieces along another dimension": lambda x, y: cat(x.split(4, 1), 0),
    "pieces of two tensors": lambda x, y: cat([cut(x, 1, 0, 2), cut(y, 1, 2, 3)], 1),
    "a piece left out": lambda x, y: cat([cut(x, 1, 0, 2), cut(x, 1, 3, 8)], 1),
    "a piece twice": lambda x, y: cat([cut(x, 1, 0, 2), cut(x, 1, 0, 2)], 1),
    "joins along two dimensions": lambda x, y: cat([cat([x, x], 2), cat([x, x], 2)], 1),
    "a slice over two operands": lambda x, y: cut(cat([x, y], 1), 1, 7, 9),
    "a slice of a join along another": lambda x, y: cut(cat([x, y], 1), 2, 0, 3),
    "a slice with steps": lambda x, y: torch.ops.aten.slice.Tensor(cut(x, 1, 2, 8), 1, 0, 6, 2),
    "a slice of a slice along another": lambda x, y: cut(cut(x, 1, 2, 8), 2, 1, 4),
    "a slice of a join with a list of nothing": lambda x, y: cut(cat([x, x.new_zeros(0), y], 1), 1, 9, 10),
    "nothing of a join": lambda x, y: cut(cat([x, y], 1), 1, 8, 8),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_stays(name: str):
    assert unchanged(SIMPLIFY, program(STAYS[name], X, Y)) == []


def test_an_inner_join_with_another_user():
    def function(x, y):
        inner = cat([x, y], 1)
        return inner, cat([inner, x], 1)

    assert unchanged(SIMPLIFY, program(function, X, Y)) == []


def test_sizes_that_vary():
    x = rand(4, 3)
    before = program(lambda x: cat([cut(x, 0, 0, 2), cut(x, 0, 2, 3)]), x, dynamic=False)
    assert calls(applied(SIMPLIFY, before).program) == ["slice"]
    b = ProgramBuilder()
    x = b.input((b.batch, 3))
    joined = b.call("aten.cat", [x, x], 0)
    assert unchanged(SIMPLIFY, b.finish(b.call("aten.slice.Tensor", joined, 0, 0, 1))) == []


def test_a_join_that_promotes():
    before = program(lambda x, y: cut(cat([x, y], 1), 1, 0, 8), X.half(), Y)
    assert unchanged(SIMPLIFY, before) == []
    before = program(lambda x, y: cat([cat([x, x], 1), y], 1), X.half(), Y)
    assert unchanged(SIMPLIFY, before) == []


@pytest.mark.parametrize("dims", [(1, 1), (1, 2)])
def test_two_selections_by_constant_places(dims: tuple[int, int]):
    i, j = torch.tensor([3, 1, 1]), torch.tensor([2, 0])
    before = program(lambda x, i, j: x.index_select(dims[0], i).index_select(dims[1], j), X, i=i, j=j)
    after = PassManager.of([SIMPLIFY]).run(before).program
    assert calls(after) == ["index_select"] * (1 if dims == (1, 1) else 2)
    assert torch.equal(after(X), before(X))


def test_places_that_are_inputs():
    i = torch.tensor([0, 1])
    assert (
        unchanged(SIMPLIFY, program(lambda x, i, j: x.index_select(1, i).index_select(1, j), X, i, j=i)) == []
    )


def test_drawn_programs():
    check_pass(SIMPLIFY, examples=25, targets=())
