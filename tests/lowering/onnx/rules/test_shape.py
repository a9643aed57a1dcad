"""Moving elements against torch, with sizes that vary, and the nodes that this needs."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fxopt.lowering.onnx.target import OnnxTarget
from tests.lowering.onnx.harness import Case, check, op_types, program_of

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(3, 4, 6, generator=GENERATOR)
Y = torch.randn(3, 4, 6, generator=GENERATOR)
IMAGE = torch.randn(2, 3, 6, 5, generator=GENERATOR)
CUBE = torch.randn(2, 2, 3, 4, 5, generator=GENERATOR)
INTS = torch.arange(72).reshape(3, 4, 6)

CASES = [
    Case("reshape", lambda x: x.reshape(x.shape[0], 2, 12), (X,)),
    Case("reshape-inferred", lambda x: x.reshape(-1, 6), (X,)),
    Case("reshape-joins-batch", lambda x: x.reshape(x.shape[0] * 4, 6), (X,)),
    Case("reshape-splits-batch", lambda x: x.reshape(-1, 6).reshape(x.shape[0], 4, 6), (X,)),
    Case("view-two-sizes", lambda x, y: x.reshape(x.shape[0], y.shape[1], -1), (X, Y)),
    Case("flatten", nn.Flatten(), (X,)),
    Case("flatten-all", lambda x: x.flatten(), (X,)),
    Case("unflatten", nn.Unflatten(2, (2, 3)), (X,)),
    Case("view-of-empty", lambda x: x[:, :0].reshape(x.shape[0], 0, 2, 3), (X,)),
    Case("permute", lambda x: x.permute(2, 0, 1), (X,)),
    Case("transpose", lambda x: x.transpose(0, 2).mT, (X,)),
    Case("movedim", lambda x: x.movedim(0, -1), (X,)),
    Case("unsqueeze", lambda x: x.unsqueeze(0).unsqueeze(-1), (X,)),
    Case("squeeze", lambda x: x.unsqueeze(1).squeeze(), (X,), fixed=True),
    Case("squeeze-dim", lambda x: x.unsqueeze(1).squeeze(1).squeeze(2), (X,)),
    Case("squeeze-dims", lambda x: x[:, :1, :1].squeeze((1, 2)), (X,)),
    Case("expand", lambda x: x[:, :1].expand(-1, 5, -1), (X,)),
    Case("expand-batch", lambda x: x[:1].expand(x.shape[0] + 2, -1, -1), (X,)),
    Case("expand-new-axis", lambda x: x.expand(2, *x.shape), (X,)),
    Case("expand_as", lambda x, y: x[:, :, :1].expand_as(y), (X, Y)),
    Case("broadcast_tensors", lambda x, y: torch.broadcast_tensors(x[:, :1], y), (X, Y)),
    Case("meshgrid-ij", lambda x: torch.meshgrid(x[:, 0, 0], torch.arange(3.0), indexing="ij"), (X,)),
    Case("meshgrid-xy", lambda x: torch.meshgrid(x[:, 0, 0], torch.arange(3.0), indexing="xy"), (X,)),
    Case("repeat", lambda x: x.repeat(2, 1, 3), (X,)),
    Case("repeat-new-axis", lambda x: x.repeat(2, 1, 1, 1), (X,)),
    Case("repeat-size", lambda x: x[:1].repeat(x.shape[0], 1, 1), (X,)),
    Case("tile", lambda x: torch.tile(x, (2,)), (X,)),
    Case("repeat_interleave", lambda x: x.repeat_interleave(2, dim=1), (X,)),
    Case("repeat_interleave-flat", lambda x: x.repeat_interleave(3), (X,)),
    Case("cat", lambda x, y: torch.cat([x, y[:, :2], x], 1), (X, Y)),
    Case("cat-batch", lambda x, y: torch.cat([x, y]), (X, Y)),
    Case("cat-promotes", lambda x, y: torch.cat([x, y], -1), (X, INTS)),
    Case("cat-skips-empty", lambda x: torch.cat([torch.zeros(0), x]), (X,)),
    Case("stack", lambda x, y: torch.stack([x, y], 1), (X, Y)),
    Case("stack-last", lambda x, y: torch.stack([x, y], -1), (X, Y)),
    Case("split", lambda x: x.split(4, dim=2), (X,)),
    Case("split-sizes", lambda x: x.split([1, 2, 3], dim=2)[1], (X,)),
    Case("chunk", lambda x: x.chunk(3, dim=1), (X,)),
    Case("chunk-one", lambda x: x.chunk(1, dim=1), (X,)),
    Case("tensor_split", lambda x: torch.tensor_split(x, 4, dim=2), (X,)),
    Case("unbind", lambda x: x.unbind(1), (X,)),
    Case("slice", lambda x: x[:, 1:3, ::2], (X,)),
    Case("slice-negative", lambda x: x[:, -3:-1], (X,)),
    Case("slice-beyond", lambda x: x[:, 2:100], (X,)),
    Case("slice-by-size", lambda x: x[: x.shape[0] - 1] + x[1:], (X,)),
    Case("slice-half-the-batch", lambda x: x[: x.shape[0] // 2], (torch.cat([X, X]),)),
    Case("narrow", lambda x: x.narrow(1, 1, 2), (X,)),
    Case("select", lambda x: x[:, -1] + x[:, 0], (X,)),
    Case("select-last-of-batch", lambda x: x[-1], (X,)),
    Case("select-by-size", lambda x: x[x.shape[0] - 1], (X,)),
    Case("select_scatter", lambda x, y: torch.select_scatter(x, y[:, 0], 1, -1), (X, Y)),
    Case("slice_scatter", lambda x, y: torch.slice_scatter(x, y[:, :2], 1, 1, 4, 2), (X, Y)),
    Case("flip", lambda x: x.flip(0, 2), (X,)),
    Case("roll", lambda x: x.roll((1, -2), (1, 2)), (X,)),
    Case("roll-batch", lambda x: x.roll(4, 0), (X,)),
    Case("roll-flat", lambda x: x.roll(5), (X,)),
    Case("rot90", lambda x: torch.rot90(x, 1, (1, 2)), (X,)),
    Case("tril", lambda x: x.tril(), (X,)),
    Case("triu", lambda x: x.triu(-1), (X,)),
    Case("tril-bool", lambda x: (x > 0).tril(1), (X,)),
    Case("tril-int8", lambda x: x.to(torch.int8).tril(), (INTS,)),
    Case("atleast", lambda x: torch.atleast_3d(x[:, 0, 0]), (X,)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case):
    check(case)


@pytest.mark.parametrize(
    ("function", "types"),
    [
        (lambda x: x.reshape(x.shape[0], 2, 12), ["Reshape"]),
        (lambda x: x.reshape(-1, 6), ["Reshape"]),
        (lambda x: x.reshape(x.shape[0], 4, 6) * 2, ["Mul"]),
        (lambda x: x.expand(x.shape[0], 4, 6) * 2, ["Mul"]),
        (lambda x: x[:, :, :6].permute(0, 1, 2).contiguous() * 2, ["Mul"]),
        (lambda x: x.permute(1, 2, 0).permute(0, 2, 1), ["Transpose"]),
        (lambda x: x.permute(1, 2, 0).permute(2, 0, 1) * 2, ["Mul"]),
        (lambda x: x * torch.arange(4.0).reshape(4, 1), ["Mul"]),
    ],
)
def test_shapes_are_constants_and_what_does_nothing_is_left_out(function, types):
    case = Case("shape", function, (X,))
    assert op_types(OnnxTarget().emit(program_of(case), optimize=False)) == types


def test_permutations_of_a_permutation_that_is_needed_itself():
    case = Case("shape", lambda x: (x.permute(1, 2, 0), x.permute(1, 2, 0).permute(2, 0, 1) * 2), (X,))
    assert sorted(op_types(check(case))) == ["Mul", "Transpose"]


@pytest.mark.parametrize(("elements", "types"), [(4096, ["Mul"]), (4097, ["Reshape", "Mul"])])
def test_a_small_weight_is_stored_in_the_shape_that_it_is_read_in(elements, types):
    """A larger one might be stored twice."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.randn(elements, generator=GENERATOR))

        def forward(self, x):
            return x * self.scale.reshape(1, -1, 1)

    case = Case("shape", Scaled(), (torch.randn(2, elements, 3, generator=GENERATOR),))
    assert op_types(check(case)) == types


def test_an_empty_weight_may_be_read_in_a_shape_that_varies():
    check(Case("shape", lambda x: (x, torch.zeros(0).reshape(x.shape[0], 0)), (X,)))


def nodes(function: Callable[..., object], *inputs: torch.Tensor) -> list[str]:
    """Types of the ops that a function's file has; it gives what the function gives."""
    return sorted(op_types(check(Case("", function, inputs))))


def test_axes_that_are_added_one_after_the_other_are_added_at_once():
    assert nodes(lambda x: x.unsqueeze(1).unsqueeze(1).unsqueeze(0).neg(), X) == ["Neg", "Unsqueeze"]
    assert nodes(lambda x: x.unsqueeze(0).unsqueeze(2).unsqueeze(4).neg(), X) == ["Neg", "Unsqueeze"]


def test_an_axis_that_is_read_in_between_is_added_there_too():
    assert nodes(lambda x: (x.unsqueeze(1).neg(), x.unsqueeze(1).unsqueeze(3).exp()), X) == [
        "Exp",
        "Neg",
        "Unsqueeze",
        "Unsqueeze",
    ]


def test_a_choice_by_what_is_negated_is_the_other_choice():
    assert nodes(lambda x: torch.where((x > 0).logical_not(), x, x.exp()), X) == ["Exp", "Greater", "Where"]


def test_axes_that_are_added_to_what_is_reshaped_are_part_of_its_shape():
    assert nodes(lambda x: x.reshape(-1, 2, 12).unsqueeze(0).unsqueeze(2).neg(), X) == ["Neg", "Reshape"]
    assert nodes(lambda x: torch.stack([x.reshape(-1, 2, 12), x.reshape(-1, 2, 12).exp()], 1), X) == [
        "Concat",
        "Exp",
        "Reshape",
        "Reshape",
        "Unsqueeze",
    ]


def test_axes_that_are_added_from_the_end_are_added_after_a_reshape():
    assert nodes(lambda x: x.reshape(-1, 2, 12).unsqueeze(-1).neg(), X) == ["Neg", "Reshape"]


def test_axes_that_are_cut_one_after_the_other_are_cut_at_once():
    assert nodes(lambda x: x[:, ::2, 1:5].neg(), X) == ["Neg", "Slice"]
    assert nodes(lambda x: x[:, -3:-1].narrow(2, 1, 3)[:, :, ::2].neg(), X) == ["Neg", "Slice", "Slice"]


def test_an_axis_that_is_cut_twice_is_cut_twice():
    assert nodes(lambda x: x[:, 1:, 1:][:, 1:].neg(), X) == ["Neg", "Slice", "Slice"]


def test_what_is_read_between_two_cuts_is_cut_by_itself():
    assert nodes(lambda x: ((y := x[:, 1:]).neg(), y[:, :, 1:].exp()), X) == ["Exp", "Neg", "Slice", "Slice"]
