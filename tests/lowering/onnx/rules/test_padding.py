"""Padding against torch: modes, dtypes, what takes away, amounts computed from sizes."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.lowering.onnx.harness import Case, check, check_sizes, op_types

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(3, 4, 6, generator=GENERATOR)
IMAGE = torch.randn(2, 4, 10, 9, generator=GENERATOR)
CUBE = torch.randn(2, 2, 3, 4, 5, generator=GENERATOR)
INTS = torch.randint(-9, 9, (3, 4, 6), generator=GENERATOR)

CASES = [
    Case("pad", lambda x: F.pad(x, (1, 2, 0, 1), value=0.5), (X,)),
    Case("pad-crops", lambda x: F.pad(x, (-1, 2)), (X,)),
    Case("pad-bool", lambda x: F.pad(x > 0, (1, 1), value=True), (X,)),
    Case("pad-int16", lambda x: F.pad(x.to(torch.int16), (1, 1), value=3), (INTS,)),
    Case("reflect", nn.ReflectionPad2d((1, 2, 3, 1)), (IMAGE,)),
    Case("replicate", nn.ReplicationPad2d((1, 2, 0, 1)), (IMAGE,)),
    Case("replicate3d", nn.ReplicationPad3d(1), (CUBE,)),
    Case("circular", nn.CircularPad2d((1, 2, 2, 1)), (IMAGE,)),
    Case("reflect-and-crop", lambda x: F.pad(x, (-1, 2, 1, -2), mode="reflect"), (IMAGE,)),
    Case("circular-and-crop", lambda x: F.pad(x, (-1, 2, 1, -2), mode="circular"), (IMAGE,)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case):
    check(case)


def test_circular_padding_before_pad_could_wrap():
    check(Case("circular", nn.CircularPad2d((1, 2, 2, 1)), (IMAGE,)), opset=18)


def to_multiples(mode: str, x: torch.Tensor, value: float | None = None) -> torch.Tensor:
    """Each side to the next multiple of 4, and one row in front."""
    return F.pad(x, (0, -x.shape[3] % 4, 1, -x.shape[2] % 4), mode, value)


COMPUTED = {
    "constant": lambda x: to_multiples("constant", x),
    "value": lambda x: to_multiples("constant", x, 2.5),
    "bool": lambda x: to_multiples("constant", x > 0, True),
    "reflect": lambda x: to_multiples("reflect", x),
    "replicate": lambda x: to_multiples("replicate", x),
    "circular": lambda x: to_multiples("circular", x),
    "to-a-size": lambda x: F.pad(x, (0, 8 - x.shape[3], 1, 9 - x.shape[2])),
    "to-a-size-replicated": lambda x: F.pad(x, (0, 8 - x.shape[3], 1, 9 - x.shape[2]), "replicate"),
    "halves": lambda x: F.pad(x, ((12 - x.shape[3]) // 2, 12 - x.shape[3] - (12 - x.shape[3]) // 2)),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_by_computed_sizes(name):
    others = [IMAGE[:1, :, :h, :w].contiguous() for h, w in ((5, 7), (8, 4), (9, 8))]
    check_sizes(COMPUTED[name], IMAGE, {0: "n", 2: "height", 3: "width"}, *others)


KERNEL = torch.randn(3, 4, 3, 3, generator=GENERATOR)
GROUPED = torch.randn(4, 1, 3, 3, generator=GENERATOR)
TURNED = torch.randn(4, 3, 3, 3, generator=GENERATOR)

INTO_CONVOLUTIONS: dict[str, tuple[Callable[[torch.Tensor], object], list[str]]] = {
    "uneven": (lambda x: F.conv2d(F.pad(x, (0, 1, 2, 3)), KERNEL, stride=2), ["Conv"]),
    "added": (lambda x: F.conv2d(F.pad(x, (0, 1, 2, 3)), KERNEL, padding=(1, 0), dilation=2), ["Conv"]),
    "of one axis": (lambda x: F.conv2d(F.pad(x, (0, 1)), KERNEL), ["Conv"]),
    "groups": (lambda x: F.conv2d(F.pad(x, (0, 1, 0, 1)), GROUPED, groups=4), ["Conv"]),
    "another user": (lambda x: (y := F.pad(x, (0, 1)), F.conv2d(y, KERNEL)), ["Conv", "Pad"]),
    "cut on a side": (lambda x: F.conv2d(F.pad(x, (-1, 1, 0, 2)), KERNEL), ["Conv", "Slice"]),
    "ones": (lambda x: F.conv2d(F.pad(x, (0, 1), value=1.0), KERNEL), ["Conv", "Pad"]),
    "reflected": (lambda x: F.conv2d(F.pad(x, (0, 1, 0, 1), mode="reflect"), KERNEL), ["Conv", "Pad"]),
    "channels": (lambda x: F.conv2d(F.pad(x[:, :3], (0, 1, 0, 0, 1, 0)), KERNEL), ["Conv", "Pad", "Slice"]),
    "the batch": (lambda x: F.conv2d(F.pad(x, (0, 1, 0, 0, 0, 0, 0, 1)), KERNEL), ["Conv", "Pad"]),
    "a transposed convolution": (
        lambda x: F.conv_transpose2d(F.pad(x, (0, 1)), TURNED), ["ConvTranspose", "Pad"],
    ),
    "without a batch": (
        lambda x: F.conv2d(F.pad(x[0], (0, 1)), KERNEL), ["Conv", "Gather", "Pad", "Squeeze", "Unsqueeze"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INTO_CONVOLUTIONS)
def test_zeros_are_padded_by_the_convolution(name: str):
    function, types = INTO_CONVOLUTIONS[name]
    assert sorted(op_types(check(Case(name, function, (IMAGE,))))) == types
