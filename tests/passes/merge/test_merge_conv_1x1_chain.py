"""merge-conv-1x1-chain: a convolution of single elements goes into its neighbour, unless that costs more."""

import pytest
import torch
from torch import nn

from fxopt.passes.merge.merge_conv_1x1_chain import MergeConv1x1Chain
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

MERGE = MergeConv1x1Chain()
X = rand(2, 3, 6, 5)
GEOMETRIES = {
    "plain": {"kernel_size": 3},
    "padded": {"kernel_size": (3, 2), "padding": (1, 0)},
    "strided": {"kernel_size": (1, 2), "stride": (2, 1)},
    "dilated": {"kernel_size": 2, "dilation": 2},
    "of one element": {"kernel_size": 1},
    "of one element, strided": {"kernel_size": 1, "stride": 2},
}


def pair(first: dict[str, object], second: dict[str, object], *widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    a, b, c = widths or (3, 8, 4)
    return nn.Sequential(nn.Conv2d(a, b, **first), nn.Conv2d(b, c, **second))  # type: ignore[arg-type]


POINT: dict[str, object] = {"kernel_size": 1}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_a_point_after(geometry: dict[str, object], dynamic: bool):
    model = pair(geometry, POINT)
    after = applied(MERGE, program(model, X, dynamic=dynamic)).program
    assert structure(after) == structure(program(nn.Conv2d(3, 4, **geometry), X, dynamic=dynamic))  # type: ignore[arg-type]
    torch.testing.assert_close(after(X), model(X))


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_a_point_before(geometry: dict[str, object]):
    model = pair({**POINT, "bias": "padding" not in geometry}, geometry)
    after = applied(MERGE, program(model, X)).program
    assert structure(after) == structure(program(nn.Conv2d(3, 4, **geometry), X))  # type: ignore[arg-type]
    torch.testing.assert_close(after(X), model(X))


def test_no_bias_is_none():
    model = pair({"kernel_size": 3, "bias": False}, {**POINT, "bias": False})
    after = applied(MERGE, program(model, X)).program
    assert structure(after) == structure(program(nn.Conv2d(3, 4, 3, bias=False), X))


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank: int):
    conv = (nn.Conv1d, nn.Conv3d)[rank // 2]
    before = program(nn.Sequential(conv(3, 8, 2), conv(8, 4, 1)), rand(2, 3, *[4] * rank))
    assert calls(applied(MERGE, before).program) == [f"conv{rank}d"]


def test_a_bias_before_a_border():
    before = program(pair(POINT, {"kernel_size": 3, "padding": 1}), X)
    [why] = unchanged(MERGE, before)
    assert why == "the second convolution pads: its border would not see the first one's bias"


def test_a_bottleneck_stays():
    [why] = unchanged(MERGE, program(pair({"kernel_size": 3}, POINT, 3, 2, 8), X))
    assert why == "one product of 216 multiplications at each place costs more than two of 70"


def test_as_many_multiplications_are_no_more():
    """4 to 2 to 4: 16 and 8 + 8."""
    assert calls(applied(MERGE, program(pair(POINT, POINT, 4, 2, 4), rand(2, 4, 3, 3))).program) == ["conv2d"]


STAYS = {
    "no point": ({"kernel_size": 3}, {"kernel_size": 2}),
    "a strided point after": ({"kernel_size": 3}, {"kernel_size": 1, "stride": 2}),
    "a padded point after": ({"kernel_size": 3}, {"kernel_size": 1, "padding": 1}),
    "a strided point before": ({"kernel_size": 1, "stride": 2}, {"kernel_size": 2}),
    "a padded point before": ({"kernel_size": 1, "padding": 1}, {"kernel_size": 2}),
    "groups before": ({"kernel_size": 3, "groups": 2}, POINT),
    "groups after": ({"kernel_size": 3}, {"kernel_size": 1, "groups": 2}),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_stays(name: str):
    assert unchanged(MERGE, program(pair(*STAYS[name], 4, 8, 4), rand(2, 4, 6, 5))) == []


def test_a_nonlinearity_between():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    assert unchanged(MERGE, program(model, X)) == []


def test_a_linear_layer_after():
    assert unchanged(MERGE, program(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(3, 4)), X)) == []


@pytest.mark.parametrize(
    "model",
    [nn.Sequential(nn.Linear(5, 6), nn.Conv1d(6, 6, 1)), nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2))],
    ids=["before", "two"],
)
def test_linear_layers_stay(model: nn.Module):
    assert unchanged(MERGE, program(model, rand(2, 6, 5))) == []


def test_one_channel():
    model = pair({"kernel_size": 3}, POINT, 1, 1, 1)
    assert calls(applied(MERGE, program(model, X[:, :1])).program) == ["conv2d"]


def test_drawn_programs():
    check_pass(MERGE, examples=20, targets=(), min_fired=0.02)
