"""merge-parallel-convs: the heads of a detector are one convolution."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxopt.passes.merge.merge_parallel_convs import MergeParallelConvs
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

MERGE = MergeParallelConvs()
X = rand(2, 3, 6, 5)
V, W = rand(4, 3, 3, 2, seed=1), rand(2, 3, 3, 2, seed=2)
MERGED = ["conv2d", "split_with_sizes"]


class Heads(nn.Module):
    """Two convolutions of one image."""

    def __init__(self, first: dict[str, object], second: dict[str, object] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, **first), nn.Conv2d(3, 2, **(first if second is None else second))  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.a(x).relu(), self.b(x)


GEOMETRIES = {
    "plain": {"kernel_size": 3},
    "padded": {"kernel_size": (3, 2), "padding": (1, 0)},
    "padded by name": {"kernel_size": 3, "padding": "same"},
    "strided": {"kernel_size": (1, 2), "stride": (2, 1)},
    "dilated": {"kernel_size": (2, 1), "dilation": 2},
}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_before_and_after(geometry: dict[str, object], dynamic: bool):
    class Merged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Conv2d(3, 6, **geometry)  # type: ignore[arg-type]

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            first, second = self.c(x).split_with_sizes([4, 2], 1)
            return first.relu(), second

    model = Heads(geometry)
    after = applied(MERGE, program(model, X, dynamic=dynamic)).program
    assert structure(after) == structure(program(Merged(), X, dynamic=dynamic))
    assert torch.equal(after.weights["a_b.weight"], torch.cat([model.a.weight, model.b.weight]))
    for got, wanted in zip(after(X), model(X), strict=True):
        torch.testing.assert_close(got, wanted)


def test_one_has_no_bias():
    after = applied(MERGE, program(Heads({"kernel_size": 3}, {"kernel_size": 3, "bias": False}), X)).program
    assert calls(after)[:2] == MERGED
    [bias] = [w for w in after.weights.values() if w.dim() == 1]
    assert bias[4:].tolist() == [0, 0]


def test_without_a_batch():
    model = Heads({"kernel_size": 3})
    after = applied(MERGE, program(model, X[0])).program
    assert calls(after)[:2] == MERGED
    torch.testing.assert_close(after(X[0])[1], model(X[0])[1])


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank: int):
    conv = (F.conv1d, F.conv3d)[rank // 2]
    v, w = (rand(c, 3, *[2] * rank, seed=c) for c in (4, 2))
    before = program(lambda x, v, w: (conv(x, v), conv(x, w)), rand(2, 3, *[4] * rank), v=v, w=w)
    assert calls(applied(MERGE, before).program)[:2] == [f"conv{rank}d", "split_with_sizes"]


OTHERS: dict[str, dict[str, object]] = {
    "another kernel": {"kernel_size": (3, 1)},
    "another stride": {"kernel_size": 3, "stride": 2},
    "another padding": {"kernel_size": 3, "padding": 1},
    "another dilation": {"kernel_size": 3, "dilation": 2},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_geometries_that_differ(other: dict[str, object]):
    assert unchanged(MERGE, program(Heads({"kernel_size": 3}, other), X)) == []


def test_kernels_of_one_element_stay():
    assert unchanged(MERGE, program(Heads({"kernel_size": 1}), X)) == []


def test_groups_stay():
    def function(x, v, w):
        return F.conv2d(x, v, groups=3), F.conv2d(x, w, groups=3)

    assert unchanged(MERGE, program(function, X, v=rand(3, 1, 2, 2), w=rand(6, 1, 2, 2))) == []


def test_convolutions_of_two_images_stay():
    def function(x, y, v, w):
        return F.conv2d(x, v), F.conv2d(y, w)

    assert unchanged(MERGE, program(function, X, X + 1, v=V, w=W)) == []


def test_large_ones_stay():
    before = program(lambda x, v, w: (F.conv2d(x, v), F.conv2d(x, w)), X, v=V, w=W)
    assert calls(applied(MergeParallelConvs(max_elements=108), before).program)[:2] == MERGED
    [why] = unchanged(MergeParallelConvs(max_elements=107), before)
    assert why == "the weights have 108 elements, more than 107: the windows do not show"


def test_small_ones_beside_large_ones_are_merged():
    def function(x, t, u, v, w):
        return F.conv2d(x, t), F.conv2d(x, u), F.conv2d(x, v), F.conv2d(x, w)

    before = program(function, X, t=rand(9, 3, 3, 3), u=rand(9, 3, 3, 3), v=V, w=W)
    after = applied(MergeParallelConvs(max_elements=108), before).program
    assert sorted(calls(after)[:4]) == ["conv2d", "conv2d", *MERGED]


def test_96_channels_of_64_are_small_512_of_256_large():
    assert 9 * 64 * 96 <= MERGE.max_elements < 9 * 256 * 512


def test_a_weight_that_is_read_elsewhere_stays():
    def function(x, u, v, w):
        return F.conv2d(x, u), F.conv2d(x, v), F.conv2d(x, w), v.sum()

    result = applied(MERGE, program(function, X, u=rand(2, 3, 3, 2), v=V, w=W))
    assert calls(result.program).count("conv2d") == 2
    assert [r.reason for r in result.passes[0].refusals] == ["a weight has another user, for which it stays"]


def test_drawn_programs():
    check_pass(MERGE, examples=15, targets=())
