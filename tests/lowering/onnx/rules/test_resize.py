"""Upsampling, grid sampling and sliding windows against torch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.lowering.onnx.harness import Case, check, check_sizes

GENERATOR = torch.Generator().manual_seed(0)
LINE = torch.randn(2, 3, 7, generator=GENERATOR)
IMAGE = torch.randn(2, 3, 6, 5, generator=GENERATOR)
CUBE = torch.randn(2, 2, 3, 4, 5, generator=GENERATOR)
GRID = torch.rand(2, 4, 3, 2, generator=GENERATOR) * 2.4 - 1.2


def scaled(**how) -> nn.Module:
    return nn.Upsample(**how)


CASES = [
    Case("nearest-factor", scaled(scale_factor=2), (IMAGE,), ops=("Resize",)),
    Case("nearest-size", scaled(size=(9, 11)), (IMAGE,)),
    Case("nearest-odd-factor", scaled(scale_factor=1.7), (IMAGE,)),
    Case("nearest-down", scaled(size=(4, 3)), (IMAGE,)),
    Case("nearest1d", scaled(scale_factor=3), (LINE,)),
    Case("nearest3d", scaled(scale_factor=2), (CUBE,)),
    Case("nearest-exact", scaled(size=(9, 4), mode="nearest-exact"), (IMAGE,)),
    Case("nearest-factor-0.7", scaled(scale_factor=0.7), (torch.randn(2, 3, 10, 10, generator=GENERATOR),)),
    Case("linear1d", scaled(scale_factor=2, mode="linear"), (LINE,)),
    Case("bilinear", scaled(scale_factor=2, mode="bilinear"), (IMAGE,)),
    Case("bilinear-size", scaled(size=(4, 9), mode="bilinear"), (IMAGE,)),
    Case("bilinear-odd-factor", scaled(scale_factor=1.3, mode="bilinear"), (IMAGE,)),
    Case("bilinear-to-1", scaled(size=(1, 1), mode="bilinear"), (IMAGE,)),
    Case("bilinear-corners", scaled(scale_factor=2, mode="bilinear", align_corners=True), (IMAGE,)),
    Case(
        "bilinear-antialias",
        lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", antialias=True),
        (IMAGE,),
    ),
    Case(
        "bicubic-antialias", lambda x: F.interpolate(x, size=(9, 4), mode="bicubic", antialias=True), (IMAGE,)
    ),
    Case("bicubic", scaled(scale_factor=2, mode="bicubic"), (IMAGE,)),
    Case("bicubic-corners", scaled(size=(9, 7), mode="bicubic", align_corners=True), (IMAGE,)),
    Case("trilinear", scaled(scale_factor=2, mode="trilinear"), (CUBE,)),
    Case(
        "size-of-another", lambda x, y: F.interpolate(x, size=y.shape[2:]), (IMAGE, torch.zeros(2, 1, 12, 8))
    ),
    Case("unfold-image", nn.Unfold((3, 2), dilation=1, padding=1, stride=2), (IMAGE,)),
    Case("unfold-image-alone", nn.Unfold(3, padding=1), (IMAGE[0],), fixed=True),
    Case("unfold-axis", lambda x: x.unfold(2, 3, 2), (LINE,)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case):
    check(case)


@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize(
    ("mode", "padding"),
    [("bilinear", "zeros"), ("bilinear", "border"), ("nearest", "reflection"), ("bicubic", "zeros")],
)
def test_grid_sample(opset, mode, padding):
    def sample(x, grid):
        return F.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=False)

    check(Case("grid_sample", sample, (IMAGE, GRID)), opset=opset)


def enlarged(x):
    return F.interpolate(x, scale_factor=1.5, mode="bicubic", recompute_scale_factor=True)


def folded(x):
    return F.fold(F.unfold(x, 3, padding=1, stride=2), x.shape[2:], 3, padding=1, stride=2)


@pytest.mark.filterwarnings("ignore:the model goes another way")  # with a single window
@pytest.mark.parametrize(
    "function",
    [
        nn.Unfold((3, 2), dilation=2, padding=1, stride=2),
        lambda x: x.unfold(2, 3, 2).unfold(3, 2, 1),
        folded,
        enlarged,
    ],
)
def test_an_image_of_dynamic_size(function):
    others = [torch.randn(1, 4, *size, generator=GENERATOR) for size in ((5, 5), (12, 9), (7, 6))]
    check_sizes(function, torch.randn(2, 4, 8, 7, generator=GENERATOR), {0: "n", 2: "h", 3: "w"}, *others)
