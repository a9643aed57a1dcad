"""Which calls become torch's integer kernels, and what stays as it is."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.lowering.eager.flat import flat_function
from fxopt.lowering.integers import with_integer_weights
from fxopt.lowering.kernels.packing import why_not
from fxopt.lowering.kernels.plan import kernel_notes, plan_kernels
from fxopt.lowering.kernels.values import Kernel, KernelPlan
from fxopt.ops import dequantize, fake_quantize, op_key
from fxopt.program import Program
from tests.passes.helpers import program, rand

pytestmark = pytest.mark.skipif(
    any(why_not(kind) for kind in ("linear", "conv2d")), reason="needs integer kernels"
)


def stored(before: Program, *data: torch.Tensor, scheme: str = "int8") -> Program:
    given = [data] if scheme == "int8" else None
    after = fxopt.run_pipeline(
        before, f"insert-fake-quant{{scheme={scheme}}}", calibration=given, target="eager"
    )
    return with_integer_weights(after)


def planned(function, *args: torch.Tensor, scheme: str = "int8", **weights: torch.Tensor) -> KernelPlan:
    return plan_kernels(stored(program(function, *args, **weights), *args, scheme=scheme))


def steps(plan: KernelPlan) -> list[str]:
    """The ops in order: those of kernels with their namespace."""
    names = []
    for step in plan.steps:
        name = op_key(step.op if isinstance(step, Kernel) else step.target).removeprefix("aten.")
        names.append(name.removesuffix(".default").removesuffix(".new").removesuffix(".self"))
    return names


X, W, V = rand(2, 4, 8, 8), rand(4, 4, 3, 3, seed=1), rand(4, 4, 3, 3, seed=2)


def between(activation):
    """Two convolutions with something between them."""
    return planned(lambda x, w, v: F.conv2d(activation(F.conv2d(x, w)), v), X, w=W, v=V)


TWICE = ["quantize_per_tensor", "quantized.conv2d", "quantized.conv2d", "dequantize"]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (lambda y: y, TWICE),
        (F.relu, [TWICE[0], "quantized.conv2d_relu", *TWICE[2:]]),
        (lambda y: y.clamp_min(0), [TWICE[0], "quantized.conv2d_relu", *TWICE[2:]]),
        (lambda y: F.hardtanh(y, 0.0, 50.0), [TWICE[0], "quantized.conv2d_relu", *TWICE[2:]]),
        (F.relu6, [TWICE[0], "quantized.conv2d_relu", *TWICE[2:]]),
        (lambda y: y.clamp(0, 3), [TWICE[0], "quantized.conv2d_relu", *TWICE[2:]]),
        (lambda y: F.max_pool2d(y, 2), [*TWICE[:2], "max_pool2d", *TWICE[2:]]),
        (lambda y: y[:, :, 1:], [*TWICE[:2], "slice.Tensor", *TWICE[2:]]),
        (lambda y: y + y.flip(0), [*TWICE[:2], "dequantize", "flip", TWICE[0], "quantized.add", *TWICE[2:]]),
        (lambda y: (y * y.flip(0)).relu(), [*TWICE[:2], "dequantize", "flip", TWICE[0], "quantized.mul_relu", *TWICE[2:]]),
        (lambda y: torch.cat([y, y], 2), [*TWICE[:2], "quantized.cat", *TWICE[2:]]),
        (lambda y: y.clamp(-1, 1), [*TWICE[:2], "dequantize", "clamp", TWICE[0], *TWICE[2:]]),
        (lambda y: F.avg_pool2d(y, 2), [*TWICE[:2], "dequantize", "avg_pool2d", TWICE[0], *TWICE[2:]]),
        (lambda y: torch.add(y, y.flip(0), alpha=2),
         [*TWICE[:2], "dequantize", "flip", "fxopt.fake_quantize", "add.Tensor", TWICE[0], *TWICE[2:]]),
    ],
    ids=["nothing", "relu", "clamp_min", "wide", "relu6", "clamp", "pool", "slice", "add", "mul", "cat", "low",
         "average", "alpha"],
)  # fmt: skip
def test_between_two_convolutions(activation, expected: list[str]) -> None:
    assert steps(between(activation)) == expected


@pytest.mark.parametrize("activation", [F.relu6, lambda y: y.clamp(0, 6)], ids=["relu6", "clamp"])
@pytest.mark.parametrize(("scale", "clipped"), [(6 / 254, True), (6 / 255, False)])
def test_a_bound_within_the_range_is_clipped(activation, scale: float, clipped: bool) -> None:
    made = stored(program(lambda x, w, v: F.conv2d(activation(F.conv2d(x, w)), v), X, w=W, v=V), X)
    made.weights[inner_scale(made)] = torch.tensor(scale)
    plan = plan_kernels(made)
    assert steps(plan)[1:-2] == ["quantized.conv2d_relu", *["quantized.clamp"] * clipped]
    with torch.no_grad():
        assert torch.allclose(flat_function(made)(X * 9)[0], made(X * 9), atol=1e-5)


def inner_scale(made: Program) -> str:
    """The name of the scale of what the second convolution reads."""
    rounded = [n for n in made.calls() if op_key(n.target) == "fxopt.fake_quantize.default"]
    return str(rounded[1].args[1].target)


def test_weights_that_kernels_read_are_never_floats() -> None:
    plan = between(F.relu)
    assert not any(not isinstance(step, Kernel) for step in plan.steps)
    assert [n.target for n in plan.integer] == [torch.ops.aten.conv2d.default] * 2
    assert kernel_notes(plan) == ("integer kernels: 2 of 2 products",)


@pytest.mark.parametrize(
    ("layer", "x", "kind"),
    [
        (nn.Conv1d(4, 6, 3), rand(2, 4, 9), "conv1d"),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), rand(2, 4, 9, 9), "conv2d"),
        (nn.Conv3d(4, 6, 2, dilation=2), rand(2, 4, 5, 5, 5), "conv3d"),
        (nn.Conv2d(4, 8, 3, groups=2), rand(2, 4, 9, 9), "conv2d"),
    ],
    ids=["conv1d", "conv2d", "conv3d", "groups"],
)
def test_geometry_is_packed(layer: nn.Module, x: torch.Tensor, kind: str) -> None:
    plan = planned(layer, x)
    assert steps(plan) == ["quantize_per_tensor", f"quantized.{kind}", "dequantize"]
    (packed,) = plan.packed()
    assert (packed.kind, packed.groups) == (kind, layer.groups)
    assert packed.geometry == (layer.stride, layer.padding, layer.dilation)
    assert bool(packed.bias) == (layer.bias is not None)


FLOATS = "quantized.linear_with_input_q_dq_qweight_dq_output_fp32"


@pytest.mark.parametrize(
    ("function", "weights"),
    [
        (lambda x, w, b: F.linear(x, w, b), {"w": rand(6, 8, seed=1), "b": rand(6, seed=2)}),
        (lambda x, w: x @ w, {"w": rand(8, 6, seed=1)}),
        (lambda x, w: torch.mm(x, w), {"w": rand(8, 6, seed=1)}),
        (lambda x, w, b: torch.addmm(b, x, w), {"w": rand(8, 6, seed=1), "b": rand(6, seed=2)}),
    ],
    ids=["linear", "matmul", "mm", "addmm"],
)
def test_a_product_that_floats_read_rounds_what_it_reads_itself(function, weights) -> None:
    plan = planned(function, rand(4, 8), **weights)
    assert steps(plan) == [FLOATS]
    assert plan.packed()[0].transposed == (weights["w"].shape == (8, 6))


def test_a_product_by_the_range_at_each_call() -> None:
    plan = planned(lambda x, w: F.linear(x, w), rand(4, 8), w=rand(6, 8, seed=1), scheme="int8-dynamic")
    assert steps(plan) == ["fxopt.choose_qparams", "_operator.getitem", "_operator.getitem", FLOATS]


def test_rows_of_a_table_alone_become_floats() -> None:
    plan = planned(
        lambda i, w: F.embedding(i, w), torch.randint(0, 9, (4,)), w=rand(9, 6), scheme="int8-weights"
    )
    assert steps(plan) == ["embedding", "embedding", "mul.Tensor"]


def test_rows_of_a_table_by_one_scale() -> None:
    weights = {"q": torch.tensor([[1, 2], [3, -4]], dtype=torch.int8), "s": torch.tensor(0.5)}
    made = program(
        lambda i, q, s, z: F.embedding(i, dequantize(q, s, z)),
        torch.tensor([1, 0, 1]),
        **weights,
        z=torch.tensor(0),
    )
    assert steps(plan_kernels(made)) == ["embedding", "mul.Tensor"]
    assert flat_function(made)(torch.tensor([1]))[0].tolist() == [[1.5, -2.0]]


def test_rows_of_a_table_with_zero_points_are_rows_of_floats() -> None:
    weights = {"q": torch.tensor([[1, 2], [3, -4]], dtype=torch.int8), "s": torch.tensor(0.5)}
    made = program(
        lambda i, q, s, z: F.embedding(i, dequantize(q, s, z)),
        torch.tensor([1, 0, 1]),
        **weights,
        z=torch.tensor(1),
    )
    assert steps(plan_kernels(made)) == ["fxopt.dequantize", "embedding"]
    assert flat_function(made)(torch.tensor([1]))[0].tolist() == [[1.0, -2.5]]


MOVES = {
    "reshape": (lambda y: y.reshape(2, 2, -1), (2, 4, 6, 6)),
    "flatten": (lambda y: y.flatten(1), (2, 4, 6, 6)),
    "permute": (lambda y: y.permute(0, 2, 3, 1), (2, 4, 6, 6)),
    "transpose": (lambda y: y.transpose(1, 2), (2, 4, 6)),
    "unsqueeze": (lambda y: y.unsqueeze(1), (2, 4)),
    "squeeze": (lambda y: y.squeeze(1), (2, 1, 4)),
    "slice": (lambda y: y[:, 1::2], (2, 4, 6)),
    "select": (lambda y: y[:, 1], (2, 4, 6)),
    "expand": (lambda y: y.expand(2, 4, 6), (2, 1, 6)),
    "max_pool1d": (lambda y: F.max_pool1d(y, 3, 2, 1), (2, 4, 9)),
    "max_pool2d": (lambda y: F.max_pool2d(y, 3, 2, 1, ceil_mode=True), (2, 4, 8, 8)),
    "max_pool2d of one": (lambda y: F.max_pool2d(y, 2), (4, 8, 8)),
    "max_pool3d": (lambda y: F.max_pool3d(y, 2), (2, 4, 4, 4, 4)),
    "pixel_shuffle": (lambda y: F.pixel_shuffle(y, 2), (2, 8, 3, 3)),
    "channel_shuffle": (lambda y: F.channel_shuffle(y, 2), (2, 4, 3, 3)),
    "upsample_nearest2d": (lambda y: F.interpolate(y, scale_factor=2), (2, 4, 3, 3)),
    "upsample_nearest3d": (lambda y: F.interpolate(y, size=(5, 6, 7)), (2, 4, 3, 3, 3)),
}


@pytest.mark.parametrize("name", MOVES)
def test_integers_are_moved(name: str) -> None:
    move, shape = MOVES[name]

    def net(x, q, s, z, scale, zero, wide):
        y = fake_quantize(move(fake_quantize(x, scale, zero, 0, 255)), scale, zero, 0, 255)
        return fake_quantize(y + y, wide, zero, 0, 255), dequantize(q, s, z)

    numbers = {"scale": torch.tensor(0.03), "zero": torch.tensor(120), "wide": torch.tensor(0.05)}
    weights = {"q": torch.ones(2, 2, dtype=torch.int8), "s": torch.tensor(1.0), "z": torch.tensor(0)}
    made = program(net, rand(*shape), **weights, **numbers)
    plan = plan_kernels(made)
    found = [f for f in steps(plan) if f != "fxopt.dequantize"]
    assert found[0] == "quantize_per_tensor"
    assert found[2:4] == ["quantized.add", "dequantize"]
    x = rand(*shape, seed=1)
    wanted, got = made(x)[0], flat_function(made)(x)[0]
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() < 0.051


def test_integers_are_not_moved_to_another_scale() -> None:
    def net(x, q, s, z, scale, zero, wide):
        y = fake_quantize(F.max_pool2d(fake_quantize(x, scale, zero, 0, 255), 2), wide, zero, 0, 255)
        return fake_quantize(y + y, wide, zero, 0, 255), dequantize(q, s, z)

    numbers = {"scale": torch.tensor(0.03), "zero": torch.tensor(120), "wide": torch.tensor(0.05)}
    weights = {"q": torch.ones(2, 2, dtype=torch.int8), "s": torch.tensor(1.0), "z": torch.tensor(0)}
    plan = plan_kernels(program(net, rand(2, 4, 6, 6), **weights, **numbers))
    found = [f for f in steps(plan) if f != "fxopt.dequantize"]
    assert found[:4] == ["fxopt.fake_quantize", "max_pool2d", "quantize_per_tensor", "quantized.add"]


def test_dead_draws_are_made_and_other_dead_calls_are_not() -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.rand(2)
            return self.layer(x) + torch.rand(4)

    before = fxopt.trace(Draws().eval(), (rand(3, 4),), state=True)
    found = steps(plan_kernels(stored(before, rand(3, 4))))
    assert [f for f in found if "rand" in f] == ["rand", "rand"]


def two_readers(x, w):
    y = F.conv2d(x, w)
    return y.relu(), y


def test_what_others_read_too_is_rounded_first() -> None:
    plan = planned(two_readers, X, w=W)
    assert steps(plan) == ["quantize_per_tensor", "quantized.conv2d", "dequantize", "relu"]


REASONS = {
    "rounded": (lambda x, w: F.linear(x, w), {"w": rand(6, 8, seed=1)}, rand(4, 8), "int8-weights",
                "what it reads is not rounded to 0 to 255"),
    "kernel": (lambda x, w: F.conv_transpose2d(x, w), {"w": W}, X, "int8-weights", "torch has no integer kernel for it"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["rounded", "kernel"])
def test_what_stays_in_float_is_said(name: str) -> None:
    function, weights, x, scheme, why = REASONS[name]
    plan = planned(function, x, scheme=scheme, **weights)
    assert list(plan.floats.values()) == [why]
    assert not plan.integer
    assert kernel_notes(plan)[0] == "integer kernels: 0 of 1 products"
    assert kernel_notes(plan)[1].startswith(f"stays in float, {why}: ")


def test_many_places_are_counted() -> None:
    def places(count: int) -> str:
        net = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(count)])
        return kernel_notes(planned(net, rand(4, 8), scheme="int8-weights"))[1].rpartition(": ")[2]

    assert places(4) == "0.0, 1.0, 2.0, 3.0"
    assert places(5) == "0.0, 1.0, 2.0 and 2 more"


def test_many_groups_can_be_left_out() -> None:
    layer = nn.Conv2d(8, 8, 3, groups=8)
    made = stored(program(layer, rand(2, 8, 6, 6)), rand(2, 8, 6, 6))
    assert len(plan_kernels(made, most_groups=8).integer) == 1
    left = plan_kernels(made, most_groups=7)
    assert list(left.floats.values()) == ["the kernel for more than 7 groups saturates"]
    assert steps(left)[-2:] == ["conv2d", "fxopt.fake_quantize"]


def tied(i, w):
    return F.linear(F.embedding(i, w).tanh(), w)


def test_a_weight_that_is_stored_once_stays_integers_where_rows_are_looked_up() -> None:
    i = torch.randint(0, 9, (4,))
    made = stored(program(tied, i, w=rand(9, 6)), i)
    assert len(plan_kernels(made).integer) == 1
    once = plan_kernels(made, once=True)
    assert list(once.floats.values()) == ["its weight is read elsewhere too, and would be stored twice"]


def test_a_layer_that_is_applied_twice_is_packed_once() -> None:
    x, w = rand(4, 8), rand(8, 8)
    plan = plan_kernels(
        stored(program(lambda x, w: F.linear(F.linear(x, w).tanh(), w), x, w=w), x), once=True
    )
    assert len(plan.integer) == 2
    assert len(plan.packed()) == 1


def test_a_program_without_integers_stays_as_it_is() -> None:
    before = program(lambda x, w: F.linear(x, w), rand(4, 8), w=rand(6, 8))
    plan = plan_kernels(before)
    assert plan.steps == list(before.calls())
    assert kernel_notes(plan) == ()


def test_a_program_with_branches_stays_as_it_is() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: self.a(x), lambda x: self.b(x).tanh(), (x,))

    made = stored(program(Branches(), rand(4, 8)), rand(4, 8))
    plan = plan_kernels(made)
    assert plan.steps == list(made.calls())
    assert set(plan.floats.values()) == {"the program has branches"}
    assert len(plan.floats) == 2


def test_a_machine_whose_kernels_saturate_computes_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxopt.lowering.kernels.plan.why_not", lambda kind, engine: "they saturate")
    plan = between(F.relu)
    assert not plan.integer
    assert list(plan.floats.values()) == ["they saturate"] * 2
