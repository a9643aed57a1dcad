"""fuse-pad-conv: zeros around an image are the convolution's own padding, if they are on both sides."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.fuse.fuse_pad_conv import FusePadConv
from fxopt.testing import ProgramBuilder, check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

FUSE = FusePadConv()
Fn = Callable[..., torch.Tensor]
IMAGE, W = rand(2, 4, 6, 7), rand(3, 4, 3, 3)

PADS: dict[str, tuple[Fn, Fn]] = {
    "all sides": (
        lambda x, w: F.conv2d(F.pad(x, (1, 1, 2, 2)), w),
        lambda x, w: F.conv2d(x, w, padding=(2, 1)),
    ),
    "the last axis": (
        lambda x, w: F.conv2d(F.pad(x, (1, 1)), w),
        lambda x, w: F.conv2d(x, w, padding=(0, 1)),
    ),
    "no channels": (
        lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1, 0, 0)), w),
        lambda x, w: F.conv2d(x, w, padding=1),
    ),
    "more than there was": (
        lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1)), w, padding=(1, 2), stride=2),
        lambda x, w: F.conv2d(x, w, padding=(2, 3), stride=2),
    ),
}


@pytest.mark.parametrize("name", PADS)
def test_before_and_after(name: str):
    before, expected = (program(f, IMAGE, w=W, dynamic=True) for f in PADS[name])
    assert structure(applied(FUSE, before).program) == structure(expected)


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank: int):
    conv = {1: F.conv1d, 3: F.conv3d}[rank]
    x, w = rand(2, 4, *[4] * rank), rand(3, 4, *[3] * rank)
    before = program(lambda x, w: conv(F.pad(x, (1, 1) * rank), w), x, w=w)
    assert structure(applied(FUSE, before).program) == structure(
        program(lambda x, w: conv(x, w, padding=1), x, w=w)
    )


def test_the_older_op():
    before = program(lambda x, w: F.conv2d(torch.ops.aten.constant_pad_nd(x, [1, 1, 1, 1], 0), w), IMAGE, w=W)
    expected = program(lambda x, w: F.conv2d(x, w, padding=1), IMAGE, w=W)
    assert structure(applied(FUSE, before).program) == structure(expected)


def test_a_padded_image_with_another_user():
    """The convolution does without it, the other user keeps it."""

    def function(x, w):
        padded = F.pad(x, (1, 1, 1, 1))
        return padded, F.conv2d(padded, w)

    assert applied(FUSE, program(function, IMAGE, w=W)).passes[0].rewrites == 1


REFUSED: dict[str, tuple[Fn, str]] = {
    "ones": (lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1), value=1.0), w), "it pads with 1.0"),
    "the image itself": (
        lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), w),
        "it pads by mode reflect",
    ),
    "one side": (
        lambda x, w: F.conv2d(F.pad(x, (0, 1, 1, 1)), w),
        "an axis is padded by 0 before and 1 after",
    ),
    "a cut": (
        lambda x, w: F.conv2d(F.pad(x, (-1, -1)), w),
        "an axis is cut, or padded by a size that varies",
    ),
    "channels": (
        lambda x, w: F.conv2d(F.pad(x[:, :2], (1, 1, 1, 1, 1, 1)), w),
        "channels or the batch are padded",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_convolution_does_not_pad(name: str):
    function, why = REFUSED[name]
    assert unchanged(FUSE, program(function, IMAGE, w=W)) == [why]


def test_a_padding_of_a_size_that_varies_stays():
    before = program(
        lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1)), w, padding=(x.shape[0], 0)), IMAGE, w=W, dynamic=True
    )
    assert unchanged(FUSE, before) == ["its own padding varies"]


def test_a_padding_given_once_for_all_axes():
    b = ProgramBuilder()
    x = b.input((2, 3, 5, 5))
    padded = b.call("aten.pad", x, [1, 1, 2, 2])
    before = b.finish(b.call("aten.conv2d", padded, b.weight((2, 3, 3, 3)), None, [1], [1]))
    [conv] = applied(FUSE, before).program.calls()
    assert conv.args[4] == [3, 2]


def test_one_that_is_refused_does_not_hide_another():
    def function(x, w):
        return F.conv2d(F.pad(x, (0, 1, 1, 1)), w), F.conv2d(F.pad(x, (1, 1, 1, 1)), w)

    assert calls(applied(FUSE, program(function, IMAGE, w=W)).program) == ["pad", "conv2d", "conv2d"]


def test_a_convolution_without_a_pad_before_it():
    assert unchanged(FUSE, program(lambda x, w: F.conv2d(x.relu(), w), IMAGE, w=W)) == []


def test_drawn_programs():
    check_pass(FUSE, examples=25, targets=())
