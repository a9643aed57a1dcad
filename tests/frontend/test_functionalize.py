import pytest
import torch
import torch.nn.functional as F

from fxopt.errors import TraceError
from fxopt.frontend import trace
from fxopt.frontend.functionalize import Refused, functional_twin, functionalize
from fxopt.ops import is_mutating
from tests.frontend.good_models import Function, Function2, noise

aten = torch.ops.aten


def captured(function, *args: torch.Tensor) -> torch.export.ExportedProgram:
    model = (Function if len(args) == 1 else Function2)(function).eval()
    with torch.no_grad():
        return torch.export.export(model, args, strict=False)


def walk_only(x):
    y = x * 2
    z = y + 1
    z.relu_()
    z.add_(x).mul_(2)
    return z, y


def promoting(x):
    y = x.half() * 2
    y.add_(x)
    return y


def written_after_its_last_view(x):
    y = x * 2
    rows = y.view(-1) + 1
    y.add_(1)
    return rows, y


def view_written_and_read_no_more(x):
    y = x * 2
    y.view(-1).add_(1).mul_(2)
    return x


def norm_then_write(x):
    y = F.batch_norm(x, torch.zeros(3), torch.ones(3))
    y.add_(1)
    return y, x


def einsum_of_two_then_write(x):
    y = torch.einsum("ij,kj->ik", x, x)
    y.mul_(2)
    return y, x


@pytest.mark.parametrize(
    "function",
    [
        einsum_of_two_then_write,
        walk_only,
        promoting,
        written_after_its_last_view,
        view_written_and_read_no_more,
        norm_then_write,
    ],
)
def test_the_walk_is_the_same_function(function):
    exported = captured(function, noise(2, 3))
    graph = functionalize(exported.graph)
    assert not any(is_mutating(n.target) for n in graph.nodes)
    assert any(is_mutating(n.target) for n in exported.graph.nodes), "the export is left as it was"
    program = trace(Function(function).eval(), (noise(2, 3),))
    got, expected = program(noise(2, 3)), function(noise(2, 3))
    for a, b in zip(
        torch.utils._pytree.tree_leaves(got), torch.utils._pytree.tree_leaves(expected), strict=True
    ):
        assert torch.equal(a, b)


def read_through_another_view(x):
    y = x * 2
    z = y.t()
    y.add_(1)
    return z


def write_through_a_view(x):
    y = x * 2
    y[0].add_(1)
    return y


def write_through_dropout(x):
    y = x * 2
    z = F.dropout(y, 0.5, training=False)
    z.add_(1)
    return y


def write_through_einsum(x):
    y = x * 2
    z = torch.einsum("ij->ji", y)
    z.add_(1)
    return y


def write_to_input(x):
    x[0].add_(1)
    return x


def out_of_place_form_missing(x):
    y = torch.empty(2, 3)
    torch.mul(x, 2, out=y)
    return y


def with_a_region(x):
    with torch.autocast("cpu", torch.bfloat16):
        return x @ x.t()


@pytest.mark.parametrize(
    ("function", "why", "hidden"),
    [
        (read_through_another_view, "shares the memory and is read later", False),
        (write_through_a_view, "shares the memory and is read later", False),
        (write_through_dropout, "shares the memory and is read later", False),
        (write_through_einsum, "shares the memory and is read later", True),
        (write_to_input, "it writes to an input or weight", False),
        (out_of_place_form_missing, "writes to an argument other than its first", False),
        (with_a_region, "opens a region of its own", False),
    ],
)
def test_the_walk_refuses_what_it_cannot_show(function, why: str, hidden: bool):
    with pytest.raises(Refused, match=why) as caught:
        functionalize(captured(function, noise(2, 3)).graph)
    assert caught.value.hidden is hidden


@pytest.mark.parametrize(
    "function",
    [
        read_through_another_view,
        write_through_a_view,
        write_through_dropout,
        out_of_place_form_missing,
        with_a_region,
    ],
)
def test_what_it_refuses_is_decomposed_to_the_same_function(function):
    program = trace(Function(function).eval(), (noise(2, 3),))
    torch.testing.assert_close(program(noise(2, 3)), function(noise(2, 3)), rtol=0, atol=0)


def test_an_alias_that_no_schema_declares_is_refused_with_its_line():
    with pytest.raises(TraceError, match=r"writes in place at .*test_functionalize.py:\d+ \(z.add_\(1\)\)"):
        trace(Function(write_through_einsum).eval(), (noise(2, 3),))


@pytest.mark.parametrize(
    ("op", "twin"),
    [
        (aten.relu_.default, aten.relu.default),
        (aten.add_.Tensor, aten.add.Tensor),
        (aten.add.out, None),
        (aten.__iand__.Tensor, None),
        (aten.relu.default, None),
        (aten.squeeze_.dim, aten.squeeze.dim),
    ],
)
def test_twins_by_name(op: torch._ops.OpOverload, twin: torch._ops.OpOverload | None):
    assert functional_twin(op) is twin


def test_broadcasting_out_of_place_is_refused():
    graph = captured(lambda x, y: (x * 1).add_(y), noise(2, 3), noise(3)).graph
    node = next(n for n in graph.nodes if n.target is aten.add_.Tensor)
    wide = noise(4, 2, 3)
    mode = node.args[0].meta["val"].fake_mode
    node.args[1].meta["val"] = mode.from_tensor(wide)
    with pytest.raises(Refused, match="broadcasts differently"):
        functionalize(graph)


def test_views_of_one_dynamic_size_share_no_memory():
    def function(x):
        first, second = (x * 1).view(x.shape[0], 3), (x * 2).view(x.shape[0], 3)
        first.add_(1)
        return first + second

    with torch.no_grad():
        shapes = ({0: torch.export.Dim.AUTO},)
        exported = torch.export.export(
            Function(function).eval(), (noise(2, 3),), dynamic_shapes=shapes, strict=False
        )
    functional = functionalize(exported.graph)
    assert not any(is_mutating(n.target) for n in functional.nodes if n.op == "call_function")
