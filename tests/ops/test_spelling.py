"""Each spelling is the same function as what it stands for, and what it emits is spelt canonically itself."""

import pytest
import torch
from torch import nn

from fxopt.dialect import ATEN, violations
from fxopt.frontend import trace
from fxopt.ops import op_key
from fxopt.ops.spelling import SPELLINGS, STANDING
from fxopt.program import Program
from tests.frontend.good_models import noise

aten = torch.ops.aten
x, m, v = noise(2, 3, 4), noise(3, 4), noise(3)
whole = torch.arange(12).reshape(3, 4)
image = noise(2, 3, 5, 5)
signal, kernel, even = noise(2, 3, 9), noise(4, 3, 3), noise(4, 3, 4)

CALLS: dict[str, list[tuple[object, ...]]] = {
    "aten.batch_norm.default": [
        (x, v, v, None, None, True, 0.1, 1e-5, False),
        (m, noise(4), None, None, None, True, 0.1, 1e-3, True),
        (image, None, None, None, None, True, 0.1, 1e-5, False),
        (image, v, v, v, v.abs(), False, 0.1, 1e-5, False),
    ],
    "aten.rrelu.default": [(x, 0.1, 0.3), (x,)],
    "aten.dropout.default": [(x, 0.5, False), (x, 0.0, True)],
    "aten.feature_dropout.default": [(x, 0.5, False), (x, 0.0, True)],
    "aten.alpha_dropout.default": [(x, 0.5, False), (x, 0.0, True)],
    "aten.feature_alpha_dropout.default": [(x, 0.5, False), (x, 0.0, True)],
    "aten.squeeze.default": [(x,), (x[:, :1],), (x[:1, :, :1],)],
    "aten.view.default": [(x, [6, -1]), (x, [2, 12])],
    "aten._unsafe_view.default": [(x, [6, 4])],
    "aten._reshape_alias.default": [(x, [6, 4], [4, 1])],
    "aten.view_as.default": [(x, noise(6, 4))],
    "aten.reshape_as.default": [(x, noise(6, 4))],
    "aten.expand_as.default": [(v[:, None], m)],
    "aten.copy.default": [(m, noise(4)), (m, whole), (whole, m), (m, m + 1)],
    "aten.fill.Tensor": [(m, torch.tensor(2.5)), (whole, torch.tensor(2.5)), (m, torch.tensor(3))],
    "aten.fill.Scalar": [(m, 2.5), (whole, 2), (m, float("-inf"))],
    "aten.zero.default": [(m,), (whole,)],
    "aten.contiguous.default": [(m.t(),)],
    "aten.clone.default": [(m,)],
    "aten.alias.default": [(m,)],
    "aten.detach.default": [(m,)],
    "aten.detach_copy.default": [(m,)],
    "aten.lift_fresh.default": [(m,)],
    "aten.lift_fresh_copy.default": [(m,)],
    "aten.positive.default": [(m,)],
    "aten.to.dtype": [(m, torch.float64), (m, torch.float32), (m, torch.int64), (whole, torch.bool)],
    "aten.to.dtype_layout": [(m,)],
    "aten.to.device": [(m, "cpu", torch.float64), (m, "cpu", torch.float32)],
    "aten.to.other": [(m, whole), (m, x)],
    "aten._to_copy.default": [(m,)],
    "aten.type_as.default": [(m, whole), (m, x)],
    "aten.transpose.int": [(x, 0, 2), (x, -1, 1), (torch.tensor(1.0), 0, -1)],
    "aten.swapaxes.default": [(x, 0, 2)],
    "aten.swapdims.default": [(x, 0, -2)],
    "aten.t.default": [(m,), (v,), (torch.tensor(1.0),)],
    "aten.mT.default": [(x,)],
    "aten.adjoint.default": [(x,)],
    "aten.numpy_T.default": [(m,), (v,)],
    "aten.movedim.int": [(x, 0, 2), (x, -1, 0)],
    "aten.movedim.intlist": [(x, [0, 1], [2, 0]), (x, [-1], [0])],
    "aten.moveaxis.int": [(x, 0, 2)],
    "aten.moveaxis.intlist": [(x, [0, 2], [1, 0])],
    "aten.rsub.Tensor": [(m, m + 1)],
    "aten.rsub.Scalar": [(m, 1), (m, 2.5), (m, 2.5, 3), (whole, 2), (whole, 2.5)],
    "aten.add.Scalar": [(m, 1.5), (m, 2, 3), (whole, 2.5)],
    "aten.sub.Scalar": [(m, 1.5), (m, 2, 3)],
    "aten.mul.Scalar": [(m, 1.5), (whole, 2), (whole, 2.5)],
    "aten.div.Scalar": [(m, 1.5), (whole, 2)],
    "aten.true_divide.Tensor": [(m, m + 9)],
    "aten.multiply.Tensor": [(m, m + 9)],
    "aten.subtract.Tensor": [(m, m + 9)],
    "aten.__and__.Tensor": [(whole, whole + 1)],
    "aten.__or__.Tensor": [(whole, whole + 1)],
    "aten.__xor__.Tensor": [(whole, whole + 1)],
    "aten.__and__.Scalar": [(whole, 3)],
    "aten.__or__.Scalar": [(whole, 3)],
    "aten.__xor__.Scalar": [(whole, 3)],
    "aten._softmax.default": [(m, 1, False)],
    "aten._log_softmax.default": [(m, -1, False)],
    "aten.conv1d.padding": [
        (signal, kernel, v.new_ones(4), [1], "same"),
        (signal, even, None, [1], "same"),
        (signal, even, None, [2], "valid"),
    ],
    "aten.conv2d.padding": [
        (image, noise(2, 3, 4, 3), None, [1, 1], "same", [2, 1]),
        (image, noise(3, 1, 2, 2), None, [1, 1], "same", [1, 1], 3),
    ],
    "aten.conv3d.padding": [(noise(1, 2, 4, 4, 4), noise(2, 2, 2, 3, 2), None, [1, 1, 1], "same")],
}  # fmt: skip
UNWRITTEN: dict[str, tuple[object, ...]] = {
    "aten.empty.memory_format": ([2, 3],),
    "aten.empty_like.default": (m,),
    "aten.empty_strided.default": ([2, 3], [3, 1]),
    "aten.empty_permuted.default": ([2, 3], [1, 0]),
    "aten.new_empty.default": (m, [2, 3]),
    "aten.new_empty_strided.default": (m, [2, 3], [1, 2]),
}
KEYWORDS: dict[str, dict[str, object]] = {
    "aten.to.dtype_layout": {"dtype": torch.float64, "layout": torch.strided},
    "aten._to_copy.default": {"dtype": torch.float64},
}


class Call(nn.Module):
    """One op on tensors among its arguments."""

    def __init__(
        self, op: torch._ops.OpOverload, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        super().__init__()
        self.op, self.kwargs = op, kwargs
        self.literals = [None if isinstance(a, torch.Tensor) else (a,) for a in args]

    def forward(self, *tensors):
        rest = iter(tensors)
        return self.op(*(next(rest) if a is None else a[0] for a in self.literals), **self.kwargs)


def overload(name: str) -> torch._ops.OpOverload:
    _, packet, kind = name.split(".")
    return getattr(getattr(aten, packet), kind)


def spelt(name: str, args: tuple[object, ...], *, dynamic: bool = False) -> Program:
    tensors = tuple(a for a in args if isinstance(a, torch.Tensor))
    model = Call(overload(name), args, KEYWORDS.get(name, {})).eval()
    return trace(model, tensors, dynamic_shapes=({0: "n"},) if dynamic else None)


@pytest.mark.parametrize(("name", "args"), [(n, a) for n, calls in CALLS.items() for a in calls])
def test_the_same_function_in_canonical_spelling(name: str, args: tuple[object, ...]):
    program = spelt(name, args)
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    got, expected = program(*tensors), overload(name)(*args, **KEYWORDS.get(name, {}))
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    assert name in STANDING or name not in {op_key(n.target) for n in program.calls()}
    assert not list(map(str, violations(program, values=True)))


def test_every_spelling_is_tried():
    # Made by tracing TorchScript only.
    untraceable = {"aten.to.prim_Device", "aten.to.prim_dtype", "aten.to.prim_other"}
    assert set(CALLS) | set(UNWRITTEN) == set(SPELLINGS) - untraceable


class Covered(Call):
    """An op's result, none of whose elements is read."""

    def forward(self, *tensors):
        memory = super().forward(*tensors)
        return torch.where(torch.zeros(memory.shape, dtype=torch.bool), memory, 1.0)


@pytest.mark.parametrize("name", list(UNWRITTEN))
def test_memory_that_nothing_wrote_is_zeros(name: str):
    tensors = tuple(a for a in UNWRITTEN[name] if isinstance(a, torch.Tensor))
    program = trace(Covered(overload(name), UNWRITTEN[name], {}).eval(), tensors)
    ops = [op_key(n.target) for n in program.calls()]
    assert ops == ["aten.zeros.default", "aten.zeros.default", "aten.where.ScalarOther"]


def test_squeezing_leaves_an_axis_that_is_dynamic():
    with pytest.warns(UserWarning, match="treats n = 1 apart"):
        program = spelt("aten.squeeze.default", (noise(4, 1, 3),), dynamic=True)
    assert [n.args[1] for n in program.calls()] == [[1]]


def test_what_stands_is_spelt_and_legal():
    assert set(SPELLINGS) >= STANDING
    assert not ATEN.refused & STANDING
    assert ATEN.refused | STANDING == set(SPELLINGS)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("aten.view.default", (x, [-1])),
        ("aten.batch_norm.default", (x, None, None, None, None, True, 0.1, 1e-5, False)),
        ("aten.fill.Scalar", (m, 2.0)),
    ],
)
def test_with_a_dynamic_size(name: str, args: tuple[object, ...]):
    program = spelt(name, args, dynamic=True)
    larger = torch.cat([args[0]] * 3) * torch.arange(1.0, 1 + 3 * len(args[0])).reshape(
        -1, *[1] * (args[0].dim() - 1)
    )
    torch.testing.assert_close(program(larger), overload(name)(larger, *args[1:]), rtol=1e-5, atol=1e-5)


def test_a_cast_to_the_same_dtype_is_nothing():
    assert [len(list(spelt("aten.to.dtype", (m, d)).calls())) for d in (torch.float32, torch.float64)] == [
        0,
        1,
    ]


def test_half_softmax_in_single_precision():
    model = Call(aten.softmax.int, (m.half(), 1, torch.float32), {}).eval()
    program = trace(model, (m.half(),))
    assert program(m.half()).dtype == torch.float32
