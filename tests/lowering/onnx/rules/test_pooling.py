"""Pooling against torch: padding, ceil_mode, what counts in an average, windows of unequal length."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.lowering.onnx.harness import Case, check, check_sizes

GENERATOR = torch.Generator().manual_seed(0)
LINE = torch.randn(2, 3, 13, generator=GENERATOR)
IMAGE = torch.randn(2, 4, 10, 9, generator=GENERATOR)
CUBE = torch.randn(2, 2, 6, 5, 7, generator=GENERATOR)

CASES = [
    Case("max1d", nn.MaxPool1d(3, 2, 1), (LINE,), ops=("MaxPool",)),
    Case("max2d", nn.MaxPool2d(2), (IMAGE,)),
    Case("max2d-dilated", nn.MaxPool2d(3, 1, 1, dilation=2), (IMAGE,)),
    Case("max2d-ceil", nn.MaxPool2d(3, 2, 1, ceil_mode=True), (IMAGE,)),
    Case("max2d-ceil-drops-a-window", nn.MaxPool2d(2, 3, 1, ceil_mode=True), (IMAGE,)),
    Case("max2d-unbatched", nn.MaxPool2d(2), (IMAGE[0],), fixed=True),
    Case("max2d-indices", nn.MaxPool2d(3, 2, 1, return_indices=True), (IMAGE,)),
    Case("max2d-indices-unbatched", nn.MaxPool2d(3, 2, 1, return_indices=True), (IMAGE[0],), fixed=True),
    Case("average2d-divisor-ceil", nn.AvgPool2d(3, 2, 1, ceil_mode=True, divisor_override=5), (IMAGE,)),
    Case("max2d-half", nn.MaxPool2d(2).half(), (IMAGE.half(),)),
    Case("max3d", nn.MaxPool3d((2, 3, 2), 2), (CUBE,)),
    Case("average1d", nn.AvgPool1d(3, 2, 1), (LINE,)),
    Case("average2d", nn.AvgPool2d(3, 2, 1), (IMAGE,), ops=("AveragePool",)),
    Case("average2d-without-padding", nn.AvgPool2d(3, 2, 1, count_include_pad=False), (IMAGE,)),
    Case("average2d-ceil", nn.AvgPool2d(3, 2, 1, ceil_mode=True), (IMAGE,)),
    Case(
        "average2d-ceil-uncounted", nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (IMAGE,)
    ),
    Case("average2d-ceil-drops-a-window", nn.AvgPool2d(2, 3, 1, ceil_mode=True), (IMAGE,)),
    Case("average2d-divisor", nn.AvgPool2d(3, 2, 1, divisor_override=5), (IMAGE,)),
    Case("average3d", nn.AvgPool3d(2, padding=1), (CUBE,)),
    Case("adaptive-average-1", nn.AdaptiveAvgPool2d(1), (IMAGE,), ops=("GlobalAveragePool",)),
    Case("adaptive-average-divides", nn.AdaptiveAvgPool2d((5, 3)), (IMAGE,), ops=("AveragePool",)),
    Case("adaptive-average-unequal", nn.AdaptiveAvgPool2d((4, 7)), (IMAGE,)),
    Case("adaptive-average-keeps", nn.AdaptiveAvgPool2d((None, 4)), (IMAGE,)),
    Case("adaptive-average1d", nn.AdaptiveAvgPool1d(5), (LINE,)),
    Case("adaptive-average3d", nn.AdaptiveAvgPool3d((2, 3, 4)), (CUBE,)),
    Case("adaptive-max-1", nn.AdaptiveMaxPool2d(1), (IMAGE,), ops=("GlobalMaxPool",)),
    Case("adaptive-max-divides", nn.AdaptiveMaxPool2d((5, 3)), (IMAGE,)),
    Case("adaptive-max-unequal", nn.AdaptiveMaxPool2d((4, 7)), (IMAGE,)),
    Case("pixel_shuffle", nn.PixelShuffle(2), (IMAGE,)),
    Case("pixel_unshuffle", nn.PixelUnshuffle(2), (IMAGE[..., :8].contiguous(),)),
    Case("pixel_unshuffle-alone", nn.PixelUnshuffle(2), (IMAGE[0, :, :, :8].contiguous(),), fixed=True),
    Case("channel_shuffle", nn.ChannelShuffle(2), (IMAGE,)),
    Case("lp_pool", nn.LPPool2d(2, 3), (IMAGE.abs(),)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case):
    check(case)


LARGER = F.pad(IMAGE, (0, 4, 0, 7), mode="circular")
SMALLER = IMAGE[:1, :, :5, :4].contiguous()
DYNAMIC = {
    "max": nn.MaxPool2d(3, 2, 1),
    "average": nn.AvgPool2d(2),
    "adaptive-1": nn.AdaptiveAvgPool2d(1),
    "max-ceil": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "max-ceil-dilated": nn.MaxPool2d(2, 2, 1, 2, ceil_mode=True),
    "max-ceil-indices": nn.MaxPool2d(3, 2, 1, ceil_mode=True, return_indices=True),
    "average-ceil": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "average-ceil-uncounted": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "average-ceil-divisor": nn.AvgPool2d(3, 2, 1, ceil_mode=True, divisor_override=5),
    "lp-ceil": nn.LPPool2d(2, 3, 2, ceil_mode=True),
    "adaptive-average": nn.AdaptiveAvgPool2d((4, 3)),
    "adaptive-average-keeps": nn.AdaptiveAvgPool2d((None, 3)),
    "adaptive-average-half": lambda x: nn.AdaptiveAvgPool2d((4, 3))(x.half()),
    "adaptive-max": nn.AdaptiveMaxPool2d((4, 3)),
    "adaptive-max-indices": nn.AdaptiveMaxPool2d((4, 3), return_indices=True),
    "area": lambda x: F.interpolate(x, size=(3, 3), mode="area"),
    "of-integers": lambda x: F.max_pool2d((x * 50).long(), 3, 2, 1, ceil_mode=True),
    "average-of-integers": lambda x: F.avg_pool2d((x * 50).long(), 3, 2, 1),
    "line": lambda x: F.avg_pool1d(x[:, :, 0], 3, 2, ceil_mode=True),
    "cube": lambda x: F.adaptive_avg_pool3d(x[:, None], (2, 3, 2)),
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_an_image_of_dynamic_size(name):
    check_sizes(DYNAMIC[name], IMAGE, {0: "n", 2: "height", 3: "width"}, LARGER, SMALLER)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integers(dtype):
    x = (IMAGE * 50).abs().to(dtype)
    check(Case("max", lambda x: F.max_pool2d(x, 3, 2, 1, 2, ceil_mode=True), (x,)))
    if dtype is torch.int64:
        for options in ({}, {"count_include_pad": False}, {"divisor_override": -7}):
            check(
                Case(
                    "avg",
                    functools.partial(F.avg_pool2d, kernel_size=3, stride=2, padding=1, **options),
                    (x - 60,),
                )
            )
        check(Case("at", nn.MaxPool2d(3, 2, 1, return_indices=True), (x - 60,)))
