import operator
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.fx import Node

from fxopt.dialect import ATEN, Dialect, Violation, check_program, violations
from fxopt.errors import PassError
from fxopt.frontend import trace
from fxopt.program import Origin, Program
from tests.frontend.good_models import noise

aten = torch.ops.aten


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return torch.softmax(self.linear(x) + 1, -1), x.shape[0]


@pytest.fixture
def program() -> Program:
    return trace(Model().eval(), (noise(2, 3),), dynamic_shapes={"x": {0: "n"}})


def node(program: Program, name: str) -> Node:
    return next(n for n in program.graph.nodes if n.name == name)


def insert(program: Program, target: Callable[..., object], *args: object, **kwargs: object) -> Node:
    """A call before the softmax, with a value and an origin."""
    with program.graph.inserting_before(node(program, "softmax")):
        made = program.graph.call_function(target, args, kwargs)
    made.meta = {"val": node(program, "add").meta["val"], "origins": (Origin("m", "net.py", 3),)}
    return made


def test_a_traced_program_is_well_formed(program: Program):
    assert not list(violations(program, values=True))
    check_program(program)


def uses_later(program: Program) -> None:
    node(program, "add").append(node(program, "linear"))


def loses_value(program: Program) -> None:
    del node(program, "add").meta["val"]


def loses_origin(program: Program) -> None:
    node(program, "add").meta["origins"] = ()


def loses_weight(program: Program) -> None:
    del program.weights["linear.bias"]


def other_weight(program: Program) -> None:
    program.weights["linear.bias"] = torch.zeros(4)


def same_name(program: Program) -> None:
    node(program, "softmax").name = "add"


def other_spelling(program: Program) -> None:
    insert(program, aten.view.default, node(program, "add"), [-1, 3])


def writes(program: Program) -> None:
    insert(program, aten.relu_.default, node(program, "add"))


def defaults_missing(program: Program) -> None:
    insert(program, aten.softmax.int, node(program, "add"), 1)


def negative_dim(program: Program) -> None:
    insert(program, aten.softmax.int, node(program, "add"), -1, None)


def other_keyword(program: Program) -> None:
    insert(program, aten.add.Tensor, node(program, "add"), 1)


def too_many_arguments(program: Program) -> None:
    insert(program, aten.relu.default, node(program, "add"), 3)


def python_function(program: Program) -> None:
    insert(program, operator.matmul, node(program, "add"), node(program, "add"))


def calls_module(program: Program) -> None:
    with program.graph.inserting_before(node(program, "softmax")):
        made = program.graph.create_node("call_module", "linear", (node(program, "add"),))
    made.meta = {"val": None}


def other_input(program: Program) -> None:
    node(program, "x").meta["val"] = node(program, "x").meta["val"].double()


def input_missing(program: Program) -> None:
    with program.graph.inserting_before(node(program, "x")):
        program.graph.placeholder("y").meta["val"] = node(program, "x").meta["val"]


def output_missing(program: Program) -> None:
    output = program.graph.output_node()
    output.args = (output.args[0][:1],)


def other_output(program: Program) -> None:
    output = program.graph.output_node()
    output.args = ((node(program, "linear").args[2], output.args[0][1]),)


def literal_output(program: Program) -> None:
    output = program.graph.output_node()
    output.args = ((3, output.args[0][1]),)


BROKEN = {
    uses_later: "it uses linear before it is made",
    loses_value: "add: it has no value",
    loses_origin: "add: it has no origin",
    loses_weight: "its weight 'linear.bias' is not in the weight table",
    other_weight: "its weight torch.float32 (4,)",
    same_name: "another node has the same name",
    other_spelling: "aten.view.default is not the canonical spelling",
    writes: "aten.relu_.default writes in place",
    defaults_missing: "its arguments are not canonical",
    negative_dim: "its arguments are not canonical",
    other_keyword: "its arguments are not canonical",
    too_many_arguments: "its arguments do not fit the op: ",
    python_function: "_operator.matmul is no op of the dialect aten",
    calls_module: "a call_module node is not allowed",
    other_input: "the signature says x: f32[n, 3]",
    input_missing: "2 placeholders for 1 tensor inputs",
    output_missing: "1 results for 2 outputs of the signature",
    other_output: "the output output_0: f32[n, 3] is FakeTensor",
    literal_output: "output_0 is 3, not a node",
}


@pytest.mark.parametrize("breaking", BROKEN, ids=lambda f: f.__name__)
def test_what_is_broken_is_named(program: Program, breaking: Callable[[Program], None]):
    breaking(program)
    assert any(BROKEN[breaking] in str(v) for v in violations(program)), list(map(str, violations(program)))
    with pytest.raises(PassError, match="pass 'my-pass' left the program ill-formed: "):
        check_program(program, after="my-pass")


def test_a_stale_value_is_found_where_asked(program: Program):
    add = node(program, "add")
    add.meta["val"] = add.meta["val"].double()
    found = [str(v) for v in violations(program, values=True)]
    assert not list(violations(program))
    assert any("add: its value is stale" in text for text in found)


def test_arguments_that_no_shape_function_takes(program: Program):
    insert(program, aten.mm.default, node(program, "linear").args[1], node(program, "linear").args[2])
    assert any("its shape can't be inferred" in str(v) for v in violations(program, values=True))


def test_the_place_is_named(program: Program):
    loses_value(program)
    [found] = violations(program)
    assert isinstance(found, Violation)
    assert str(found).startswith("add: it has no value (meta['val']) (test_dialect.py:")


def test_many_violations_are_counted(program: Program):
    for name in ("add", "softmax", "linear"):
        node(program, name).meta["origins"] = ()
    loses_weight(program)
    with pytest.raises(PassError, match=r"the program is ill-formed: .*; .*; .* \(and 1 more\)"):
        check_program(program)


def test_a_dialect_is_data(program: Program):
    strict = Dialect("strict", ATEN.refused | {"aten.softmax.int"}, ATEN.functions)
    assert [v.node for v in violations(program, strict)] == ["softmax"]
    assert [v.node for v in violations(program, Dialect("sizeless", ATEN.refused, frozenset()))] == []


def test_data_dependent_values_are_not_called_stale():
    class Select(nn.Module):
        def forward(self, x):
            return x[x > 0] * 2

    program = trace(Select().eval(), (noise(2, 3),))
    assert not list(violations(program, values=True))
