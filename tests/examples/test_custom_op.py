"""A user's own op at all targets, and without its rule."""

import re
from pathlib import Path

import pytest
import torch

import fxopt
from examples import custom_op

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program() -> fxopt.Program:
    model, args = custom_op.build()
    return fxopt.trace(model, args, dynamic_shapes={"x": {0: "batch"}})


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
def test_the_op_goes_through(program: fxopt.Program, target: str) -> None:
    artifact = fxopt.lower(program, target)
    x = torch.randn(5, 4)
    torch.testing.assert_close(artifact(x), program(x))


def test_the_judge_sees_a_wrong_rule(program: fxopt.Program, monkeypatch: pytest.MonkeyPatch) -> None:
    from fxopt.lowering import target

    wrong = lambda builder, node: builder.op("Sin", builder.operand(node.args[0]))  # noqa: E731
    monkeypatch.setitem(target._RULES, ("onnx", "examples.snake"), wrong)
    with pytest.raises(fxopt.VerificationError):
        fxopt.lower(program, "onnx")


def test_without_a_rule_the_op_is_named(program: fxopt.Program, monkeypatch: pytest.MonkeyPatch) -> None:
    from fxopt.lowering import target

    monkeypatch.delitem(target._RULES, ("onnx", "examples.snake"))
    with pytest.raises(fxopt.LoweringError, match=r"no rule for examples.snake.*fxopt.lowering_rule"):
        fxopt.lower(program, "onnx")


def test_the_page_shows_the_example() -> None:
    page = (ROOT / "docs/custom-ops.md").read_text()
    source = Path(custom_op.__file__).read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    assert all(block.strip() in source for block in blocks)
