"""What TensorRT's parser asks of a file: each rule breaks on a file that is wrong in its way alone."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import fxopt
from fxopt.errors import LoweringError
from fxopt.lowering import lower
from fxopt.lowering.onnx.tensorrt import RULES, broken_rules
from tests.passes.helpers import program, rand


def model(
    *,
    zero: object = np.int8(0),
    scale: object = np.float32(0.1),
    op: str = "Relu",
    domain: str = "",
    opset: int = 20,
    between: str = "",
    weight: object = np.ones((1, 2), np.int8),
) -> onnx.ModelProto:
    """Input, Q, DQ, a call, an addition of a stored weight."""
    stored = {"z": zero, "s": scale, "w": weight, "ws": np.ones(2, np.float32)}
    integers = ["q"] if not between else ["p"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="Q", axis=1),
        *([helper.make_node(between, ["q"], ["p"], name="B")] if between else []),
        helper.make_node("DequantizeLinear", [*integers, "s", "z"], ["d"], name="DQ", axis=1),
        helper.make_node(op, ["d"], ["r"], domain=domain),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["v"], name="weight", axis=1),
        helper.make_node("Add", ["r", "v"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 2]) for n in ("x", "y")]
    initializers = [numpy_helper.from_array(np.asarray(a), n) for n, a in stored.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def test_a_file_that_it_takes() -> None:
    assert broken_rules(model()) == []


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"op": "DFT"}, "an op that its parser does not take: DFT"),
        ({"domain": "com.microsoft"}, "an op that its parser does not take: Relu"),
        ({"opset": 8}, "an opset beyond 9 to 24: 8"),
        ({"opset": 25}, "an opset beyond 9 to 24: 25"),
        ({"zero": np.int8(1)}, "a zero point that is not 0: Q, DQ"),
        ({"zero": np.uint8(0)}, "integers that are not int8, such as those of a bias: Q, DQ"),
        (
            {"weight": np.ones((1, 2), np.int32)},
            "integers that are not int8, such as those of a bias: weight",
        ),
        (
            {"scale": np.ones(2, np.float32), "zero": np.zeros(2, np.int8)},
            "an activation of several scales: Q, DQ",
        ),
        ({"between": "Relu"}, "integers that are not made floats again at once: Q"),
    ],
)
def test_a_file_that_it_does_not_take(wrong: dict[str, object], line: str) -> None:
    (found,) = broken_rules(model(**wrong))
    said, _, source = found.partition(" (")
    assert said == line
    assert source.removesuffix(")") in {rule.source for rule in RULES}


@pytest.mark.parametrize("opset", [9, 24])
def test_the_first_and_the_last_opset(opset: int) -> None:
    assert broken_rules(model(opset=opset)) == []


def test_a_program_that_it_does_not_take_is_refused() -> None:
    before = program(torch.nn.Linear(32, 4), rand(4, 32), dynamic=True)
    four = fxopt.run_pipeline(before, "int4-weights", target="onnx")
    with pytest.raises(LoweringError, match=r"does not take the file: an op .* MatMulNBits .*operators\.md"):
        lower(four, "onnx:tensorrt")


def test_unrounded_programs_are_held_to_it_too() -> None:
    assert lower(program(lambda x: x.relu() + 1, rand(4, 3)), "onnx:tensorrt").report.ok
    assert fxopt.lowering.get_target("onnx:tensorrt").runner == "onnx-as-written"
