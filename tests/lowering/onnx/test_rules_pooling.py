"""Pooling against torch: padding, ceil_mode, what counts in an average, windows of unequal length."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt.errors import LoweringError
from fxopt.frontend import trace
from fxopt.lowering.onnx.target import OnnxTarget
from tests.lowering.onnx.harness import Case, check

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
    Case("channel_shuffle", nn.ChannelShuffle(2), (IMAGE,)),
    Case("lp_pool", nn.LPPool2d(2, 3), (IMAGE.abs(),)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case):
    check(case)


def test_pooling_of_an_image_of_dynamic_size():
    shapes = {"input": {2: "height", 3: "width"}}
    for module in (nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)):
        program = trace(module.eval(), (IMAGE,), dynamic_shapes=shapes)
        check_at_sizes(program, [IMAGE, F.pad(IMAGE, (0, 4, 0, 7))])


def check_at_sizes(program, inputs):
    from tests.lowering.onnx.harness import assert_same, opened

    artifact = opened(OnnxTarget().emit(program, optimize=False))
    for x in inputs:
        assert_same(artifact.run_flat([x])[0], program.run_flat([x])[0])


def test_a_dynamic_size_that_onnx_needs_fixed_is_an_error():
    shapes = {"input": {2: "height"}}
    program = trace(nn.MaxPool2d(3, 2, 1, ceil_mode=True).eval(), (IMAGE,), dynamic_shapes=shapes)
    with pytest.raises(LoweringError, match=r"max_pool2d.*ceil_mode needs fixed spatial sizes"):
        OnnxTarget().emit(program)
