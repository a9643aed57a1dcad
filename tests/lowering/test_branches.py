"""`torch.cond` on every target: a branch that is not taken is not computed in ONNX and TorchScript."""

import pytest
import torch

from fxopt.frontend import trace
from fxopt.lowering import lower
from fxopt.lowering.shared import node_choices
from fxopt.pipeline import PassManager
from fxopt.program import Program
from tests.frontend.test_branches import Gate, inputs


@pytest.fixture(scope="module")
def gate() -> tuple[Gate, Program]:
    torch.manual_seed(0)
    model = Gate().eval()
    program = trace(model, inputs()[0], dynamic_shapes={"x": {0: "n"}})
    return model, PassManager.parse("clean").run(program).program  # O1 takes the sum into a linear layer


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
def test_the_same_function(gate, target: str):
    model, program = gate
    artifact = lower(program, target)
    assert artifact.report.ok
    with torch.no_grad():
        for x in inputs():
            assert torch.allclose(artifact(x), model(x), atol=1e-5)


def test_what_belongs_to_a_side(gate):
    outer, inner, last = sorted(node_choices(gate[1]), key=lambda c: len(c.selections) * 10 + len(c.second))[
        ::-1
    ]
    assert [len(outer.selections), len(outer.first), len(outer.second)] == [2, 3, 3]
    names = {str(n.target) for c in (inner, last) for n in (*c.first, *c.second)}
    assert {"aten.exp.default", "aten.tanh.default", "aten.mul.Tensor"} <= names


def test_torchscript_has_ifs(gate):
    code = lower(gate[1], "torchscript").module.code
    assert code.count("if bool(") == 3
    assert "torch.where" not in code


def test_onnx_has_ifs(gate, tmp_path):
    import onnx

    lower(gate[1], "onnx", path=tmp_path / "gate.onnx")
    graph = onnx.load(tmp_path / "gate.onnx").graph
    kinds = [n.op_type for n in graph.node]
    assert kinds.count("If") == 2
    assert not {"Where", "Gemm", "MatMul", "Sin", "Exp"} & set(kinds)
    bodies = [a.g for n in graph.node if n.op_type == "If" for a in n.attribute]
    assert any(n.op_type == "If" for body in bodies for n in body.node)


def test_a_users_own_where_stays_one():
    class Where(torch.nn.Module):
        def forward(self, x):
            return torch.where(x.sum() > 0, x.sin(), x.cos())

    assert not node_choices(trace(Where().eval(), torch.randn(3)))
