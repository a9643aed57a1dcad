"""Weights as matrices: tiles at the edges, neighbours, weights that several products read."""

import pytest
import torch
import torch.nn.functional as F

from fxopt.analysis.channels import Coupling
from fxopt.errors import InputError
from fxopt.passes.prune import Prune, plan_pruning
from fxopt.passes.prune._elements import Grid, grids_of
from fxopt.pipeline import PassManager
from tests.passes.helpers import program, rand


def grid(*shape: int) -> Grid:
    return Grid("w", (0, 1), shape[1], shape)


def test_a_matrix_has_a_row_for_each_output_channel() -> None:
    w = rand(3, 5, 2)
    turned = Grid("w", (1, 2, 0), 3, (5, 2, 3))
    matrix = turned.matrix(w)
    assert matrix.shape == (5, 6)
    assert torch.equal(matrix[4], w[:, 4].t().flatten()) and torch.equal(turned.back(matrix), w)


def test_tiles_at_the_edges_are_means_of_what_they_hold() -> None:
    w = torch.arange(15.0, dtype=torch.float64).reshape(3, 5)
    means = grid(3, 5).tiles(w, (2, 3))
    expected = [[w[:2, :3].mean(), w[:2, 3:].mean()], [w[2:, :3].mean(), w[2:, 3:].mean()]]
    torch.testing.assert_close(means, torch.tensor([[float(v) for v in row] for row in expected]).double())
    chosen = torch.tensor([[True, False], [False, True]])
    spread = grid(3, 5).spread(chosen, (2, 3))
    assert spread.tolist() == [[True] * 3 + [False] * 2] * 2 + [[False] * 3 + [True] * 2]


def test_of_equal_neighbours_the_first_go() -> None:
    gone = grid(1, 4).pattern(torch.ones(1, 4), 1, 4)
    assert gone.tolist() == [[True, True, True, False]]
    assert grid(2, 20).pattern(torch.ones(2, 20), 3, 20).sum() == 34
    assert grid(2, 20).pattern(torch.ones(2, 20), 3, 20)[:, :17].all()


@pytest.mark.parametrize(("pattern", "zeros"), [("1:4", 36), ("3:4", 12), ("2:8", 36)])
def test_what_a_pattern_takes_is_counted(pattern: str, zeros: int) -> None:
    before = program(lambda x, w: F.linear(x, w), rand(2, 8), w=rand(6, 8))
    plan = plan_pruning(before, granularity="block", pattern=pattern)
    assert (plan.layers[0].zeros, plan.after.params) == (zeros, 48 - zeros)
    after = PassManager.of([Prune(granularity="block", pattern=pattern)]).run(before).program
    assert int((after.weights["w"] == 0).sum()) == zeros


@pytest.mark.parametrize(
    ("function", "shape", "dims", "channels"),
    [
        (F.conv_transpose2d, (3, 4, 2, 2), (1, 2, 3, 0), 3),
        (F.conv_transpose2d, (1, 4, 2, 2), (1, 0, 2, 3), 1),
        (lambda x, weight: F.conv2d(x, weight, groups=3), (6, 1, 2, 2), (0, 1, 2, 3), 1),
        (F.conv2d, (4, 3, 2, 2), (0, 2, 3, 1), 3),
        (lambda x, weight: x @ weight, (5, 4), (1, 0), 5),
    ],
)  # fmt: skip
def test_the_matrix_of_each_product(
    function, shape: tuple[int, ...], dims: tuple[int, ...], channels: int
) -> None:
    x = rand(2, 1 if shape[0] == 1 else 3, 5, 5)
    before = program(function, x, weight=rand(*shape))
    (found,) = grids_of(Coupling.compute(before).demand.constants)
    assert (found.dims, found.channels, found.shape) == (dims, channels, tuple(shape[d] for d in dims))


def test_a_row_that_a_pattern_does_not_divide_is_left_out() -> None:
    before = program(lambda x, w, v: F.linear(F.linear(x, w), v), rand(2, 8), w=rand(6, 8), v=rand(3, 6))
    plan = plan_pruning(before, granularity="block", pattern="2:4")
    assert [(x.name, x.groups, x.width) for x in plan.layers] == [("w", 48, 1)]
    assert [(x.weight, x.reason) for x in plan.left_out] == [("v", "6 input channels are no multiple of 4")]


def test_one_element_stays() -> None:
    before = program(F.linear, rand(2, 4), weight=rand(3, 4))
    assert plan_pruning(before, granularity="weight", ratio=1.0).layers[0].zeros == 11


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_a_budget_of_a_program_of_one_parameter(granularity: str) -> None:
    before = program(lambda x, w: x * w, rand(2, 4), w=rand(1))
    with pytest.raises(InputError, match=r"params=0\.5 can't be met: the least possible is 1 "):
        plan_pruning(before, granularity=granularity, params=0.5)


def test_a_weight_that_two_products_read_is_one() -> None:
    before = program(lambda x, w: F.linear(F.linear(x, w).relu(), w), rand(2, 4), w=rand(4, 4))
    plan = plan_pruning(before, granularity="weight", ratio=0.5)
    assert [(layer.name, layer.zeros) for layer in plan.layers] == [("w", 8)]
    assert plan.after.params == 8


def test_a_budget_of_elements_is_met_by_the_least_ratio() -> None:
    before = program(lambda x, w: F.linear(x, w), rand(2, 8), w=rand(8, 8))
    for share in (0.5, 0.25):
        plan = plan_pruning(before, granularity="weight", params=share)
        assert plan.after.params == 64 * share
        (layer,) = plan.layers
        assert (layer.zeros, layer.gone, layer.removed) == (64 * (1 - share), 64 * (1 - share), ())


def test_a_layer_without_zeros_has_none_gone() -> None:
    before = program(lambda x, w: F.linear(x, w), rand(2, 8), w=rand(8, 8))
    (layer,) = plan_pruning(before, granularity="weight", ratio=0.0).layers
    assert (layer.gone, layer.zeros) == (0, 0)


@pytest.mark.parametrize("tile", [(2,), (2, 2, 2), (0, 2), (2, -1)])
def test_a_tile_is_rows_and_columns(tile: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="expected rows and columns"):
        Prune(granularity="block", tile=tile)
