"""Names to overloads, as tracing would have chosen them."""

import pytest
import torch
import torch.nn.functional as F
from torch.fx import Graph, Node

from fxopt.errors import FxoptError
from fxopt.ops import UnknownOpError, resolve_op

aten = torch.ops.aten
X, MASK = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)


def node(value: object) -> Node:
    made = Graph().placeholder("x")
    made.meta["val"] = value
    return made


@pytest.mark.parametrize(
    ("name", "overload"),
    [
        ("aten.relu", "default"),
        ("aten.add", "Tensor"),
        ("aten.add.Scalar", "Scalar"),
        ("aten.where", "default"),
        ("aten.where.default", "default"),
        ("aten.softmax", "int"),
        ("aten.relu_", "default"),
        ("aten.upsample_nearest2d", "vec"),
        ("aten.arange", "default"),
    ],
)
def test_without_arguments(name: str, overload: str) -> None:
    assert resolve_op(name)._overloadname == overload


def test_overloads_and_packets() -> None:
    assert resolve_op(aten.add.Scalar) is aten.add.Scalar
    assert resolve_op(aten.relu) is aten.relu.default
    assert resolve_op(aten.sum, (X, 1)) is aten.sum.dim_IntList


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "overload"),
    [
        ("add", (X, X), {}, "Tensor"),
        ("add", (X, 1), {}, "Tensor"),
        ("mul", (X, 2.5), {}, "Tensor"),
        ("div", (X, 2), {"rounding_mode": "floor"}, "Tensor_mode"),
        ("div", (X, X), {}, "Tensor"),
        ("floor_divide", (X, 2), {}, "default"),
        ("pow", (X, 2), {}, "Tensor_Scalar"),
        ("pow", (2, X), {}, "Scalar"),
        ("pow", (X, X), {}, "Tensor_Tensor"),
        ("gt", (X, 0), {}, "Scalar"),
        ("eq", (X, X), {}, "Tensor"),
        ("where", (MASK, X, 0.0), {}, "ScalarOther"),
        ("where", (MASK, X, X), {}, "self"),
        ("where", (MASK,), {}, "default"),
        ("masked_fill", (X, MASK, -1), {}, "Scalar"),
        ("masked_fill", (X, MASK, X.sum()), {}, "Tensor"),
        ("clamp", (X,), {"min": 0.0}, "default"),
        ("clamp", (X, None, X), {}, "Tensor"),
        ("lerp", (X, X, 0.5), {}, "Scalar"),
        ("sum", (X,), {}, "default"),
        ("sum", (X, 1), {}, "dim_IntList"),
        ("sum", (X, [0, 1], True), {}, "dim_IntList"),
        ("mean", (X, (0,)), {}, "dim"),
        ("max", (X,), {}, "default"),
        ("max", (X, 0), {}, "dim"),
        ("max", (X, X), {}, "other"),
        ("softmax", (X, -1), {}, "int"),
        ("squeeze", (X, 1), {}, "dim"),
        ("squeeze", (X, [0, 1]), {}, "dims"),
        ("any", (X, 0), {}, "dim"),
        ("prod", (X, 0), {}, "dim_int"),
        ("split", (X, 2), {}, "Tensor"),
        ("transpose", (X, 0, 1), {}, "int"),
        ("slice", (X, 0, 1), {}, "Tensor"),
        ("index", (X, [None, torch.tensor([0])]), {}, "Tensor"),
        ("to", (X, torch.float64), {}, "dtype"),
        ("to", (X, X), {}, "other"),
        ("view", (X, [6]), {}, "default"),
        ("view", (X, torch.int32), {}, "dtype"),
        ("arange", (3,), {}, "default"),
        ("arange", (0, 3), {"dtype": torch.float64}, "start"),
        ("arange", (0, 3, 2), {}, "start_step"),
        ("conv2d", (torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2), None, 1, "same"), {}, "padding"),
        ("upsample_nearest2d", (torch.ones(1, 1, 3, 3), [6, 6], None), {}, "vec"),
        ("bitwise_and", (MASK, True), {}, "Scalar"),
        ("std", (X, [0]), {"correction": 1}, "correction"),
        ("std", (X, False), {}, "default"),
    ],
)
def test_by_arguments(name: str, args: tuple, kwargs: dict, overload: str) -> None:
    assert resolve_op(f"aten.{name}", args, kwargs)._overloadname == overload


@pytest.mark.parametrize(
    ("name", "args", "overload"),
    [
        ("add", (node(X), node(X)), "Tensor"),
        ("add", (node(X), node(3)), "Tensor"),
        ("pow", (node(X), node(3)), "Tensor_Scalar"),
        ("sum", (node(X), node([0])), "dim_IntList"),
        ("relu", (Graph().placeholder("unknown"),), "default"),
        ("cat", ([node(X), node(X)], 1), "default"),
        ("reshape", (node(X), [node(2), -1]), "default"),
        ("sym_size", (node(X), 0), "int"),
    ],
)
def test_by_nodes(name: str, args: tuple, overload: str) -> None:
    assert resolve_op(f"aten.{name}", args)._overloadname == overload


class Everyday(torch.nn.Module):
    """Calls whose overload torch chooses."""

    def forward(self, x: torch.Tensor, m: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            x > 0, x == 1, x**2, 2**x, x // 2, x % 2, x + 1, 1 - x, x / 2, x * x, torch.fmod(x, 2),
            torch.where(m, x, 0.0), torch.where(m, 0.0, x), x.masked_fill(m, -1.0), x.clamp(min=0.0),
            x.clamp(max=x), torch.lerp(x, x, 0.5), x.sum(), x.sum(-1), x.mean((0, 1)), x.amax(-1), x.argmax(),
            x.max(-1).values, x.maximum(x), x.softmax(-1), x.std(-1), m.any(), m.all(-1), m & True, ~m,
            x.squeeze(), x.squeeze(0), x.transpose(0, 1), x.flatten(), x.unflatten(0, (2, 1)), x[:, 1:], x[0],
            x.norm(), x.cumsum(0), x.split(1)[0], x.split([1, 2], 1)[1], x.unbind()[0], x.new_zeros(3),
            torch.full_like(x, 2), x.sort().values, F.interpolate(x[None, None], scale_factor=2),
        )  # fmt: skip


def test_as_export_chooses() -> None:
    with torch.no_grad():
        exported = torch.export.export(Everyday(), (torch.rand(2, 3), MASK), strict=False)
    for call in exported.graph.nodes:
        if isinstance(call.target, torch._ops.OpOverload):
            packet = call.target.overloadpacket
            assert resolve_op(packet, call.args, call.kwargs) is call.target, call.format_node()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aten.rellu", r"unknown op 'aten.rellu'; did you mean 'aten.relu' or"),
        ("aten.add.Tenser", r"unknown overload 'aten.add.Tenser'; did you mean 'aten.add.Tensor'"),
        ("relu", r"expected an op name such as 'aten.relu' or 'aten.add.Tensor', got 'relu'"),
        ("aten.", r"expected an op name"),
        ("aten.name", r"unknown op 'aten.name'"),
        ("nowhere.thing", r"unknown op 'nowhere.thing'"),
        (torch.relu, r"expected an op such as"),
    ],
)
def test_unknown_names(name: object, message: str) -> None:
    with pytest.raises(UnknownOpError, match=message) as error:
        resolve_op(name)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, FxoptError)


def test_arguments_that_no_overload_takes() -> None:
    with pytest.raises(UnknownOpError, match=r"no overload of aten.relu takes \(1, tensor\[2, 3\], i"):
        resolve_op("aten.relu", (1, X), {"inplace": True})
    with pytest.raises(UnknownOpError, match="there are: softmax"):
        resolve_op("aten.softmax", (X,))


def test_a_users_op() -> None:
    with torch.library._scoped_library("fxopt_test", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        assert resolve_op("fxopt_test.twice") is torch.ops.fxopt_test.twice.default
        with pytest.raises(UnknownOpError, match=r"did you mean 'fxopt_test.twice'"):
            resolve_op("fxopt_test.twise")
