"""Kernels of two values are given a scale with which all of their integers are the simulation's, or left out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxopt.lowering.kernels import plan as planning
from fxopt.lowering.kernels.agreement import agreeing_scale
from fxopt.lowering.kernels.packing import quietly, why_not
from fxopt.lowering.kernels.products import Numbers
from fxopt.ops import quantize
from tests.lowering.kernels.layers import Layers
from tests.lowering.kernels.test_plan import planned, steps
from tests.passes.helpers import rand

pytestmark = pytest.mark.skipif(bool(why_not("conv2d")), reason="needs integer kernels")
Q = torch.ops.quantized
EVERY = torch.arange(256, dtype=torch.uint8)
# Of a ShuffleNet: 33 to 32, so that 16 of the second lies between 16 and 17 of the result.
FIRST, SECOND, OUT = (Numbers(s, 0) for s in (0.06452127546072006, 0.09701064974069595, 0.0940709263086319))


def held(*numbers: Numbers) -> tuple[tuple[Numbers, float], ...]:
    return tuple((n, n.scale) for n in numbers)


def joined(scale: float) -> torch.Tensor:
    with quietly():
        given = [torch._make_per_tensor_quantized_tensor(EVERY, n.scale, 0) for n in (FIRST, SECOND)]
        return Q.cat(given, 0, scale, 0).int_repr()


def test_a_join_at_the_edge_of_a_step_is_given_another_scale() -> None:
    floats = torch.cat([EVERY * torch.tensor(n.scale) for n in (FIRST, SECOND)])
    wanted = quantize(floats, torch.tensor(OUT.scale), torch.tensor(0), 0, 255)
    assert int((joined(OUT.scale) != wanted).sum()) == 2
    scale = agreeing_scale(Q.cat.default, held(FIRST, SECOND), OUT, "cat")
    assert scale is not None
    assert 0 < abs(scale / OUT.scale - 1) < 1e-6
    assert torch.equal(joined(scale).float(), wanted)


@pytest.mark.parametrize("kind", ["add", "mul", "cat", "add_relu", "mul_relu", "cat_relu"])
def test_plain_numbers_keep_their_scale(kind: str) -> None:
    inputs = held(Numbers(0.031, 100), Numbers(0.017, 3))
    assert agreeing_scale(getattr(Q, kind).default, inputs, Numbers(0.0471, 90), kind) == 0.0471


@pytest.mark.parametrize(
    ("kind", "other"), [("add", "mul"), ("add_relu", "add"), ("cat_relu", "cat"), ("mul", "add")]
)
def test_another_function_is_no_such_kernel(kind: str, other: str) -> None:
    inputs = held(Numbers(0.031, 100), Numbers(0.017, 3))
    assert agreeing_scale(getattr(Q, other).default, inputs, Numbers(0.0471, 90), kind) is None


def test_the_scale_that_integers_carry_counts() -> None:
    wrong = ((FIRST, FIRST.scale), (SECOND, SECOND.scale * 1.05))
    assert agreeing_scale(Q.cat.default, wrong, OUT, "cat") is None


def net(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    y = F.conv2d(x, w)
    return F.conv2d(torch.cat([y, y * y], 1), v)


X, WEIGHTS = rand(2, 4, 8, 8), {"w": rand(4, 4, 3, 3, seed=1), "v": rand(4, 8, 3, 3, seed=2)}


def test_what_no_scale_gives_right_is_rounded_in_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps(planned(net, X, **WEIGHTS)).count("quantized.cat") == 1
    monkeypatch.setattr(
        planning, "agreeing_scale", lambda op, inputs, out, kind: None if kind == "cat" else out.scale
    )
    found = steps(planned(net, X, **WEIGHTS))
    at = found.index("cat")
    assert found[at : at + 3] == ["cat", "fxopt.fake_quantize", "quantize_per_tensor"]


def test_a_scale_that_was_given_is_known_where_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def nudged(op, inputs, out, kind):
        seen[kind] = [given / numbers.scale for numbers, given in inputs]
        return out.scale * 2

    monkeypatch.setattr(planning, "agreeing_scale", nudged)

    def sums(x, w, u, v):
        y = F.conv2d(x, w) + F.conv2d(x, u)
        return F.conv2d(torch.cat([F.max_pool2d(y, 2), F.max_pool2d(y, 3, 2, 1)], 1), v)

    planned(sums, X, w=WEIGHTS["w"], u=rand(4, 4, 3, 3, seed=3), v=rand(4, 8, 1, 1))
    assert seen == {"add": [1, 1], "cat": [2, 2]}


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.b(y + y.flip(0))


def test_equal_scales_are_halved_alike() -> None:
    """Half of all sums lie just between two steps where the result's scale is twice the operands'."""
    from tests.lowering.kernels.test_layers import quantized

    program = quantized(Twice(), rand(4, 4, 12, 12))
    scales = [n for n in program.weights if n.endswith("_scale") and program.weights[n].dim() == 0]
    for name in scales[1:]:
        program.weights[name] = torch.tensor(0.1 if name != scales[-1] else 0.2)
    apart = Layers.of(program, rand(4, 4, 12, 12))
    for target in ("eager", "torchscript"):
        found = apart.difference(target)
        assert found.ok, (target, found)
