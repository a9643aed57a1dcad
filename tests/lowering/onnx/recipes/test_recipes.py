"""How recipes are found, and what becomes of a call that one does not take."""

import pytest
import torch

from fxopt.errors import LoweringError
from fxopt.lowering.onnx.recipes import RECIPES, find_recipe, load, sized
from fxopt.lowering.target import get_target
from tests.lowering.onnx.harness import Case, program_of


def test_every_recipe_is_for_an_op_of_torch_without_a_rule() -> None:
    load()
    for key in RECIPES:
        namespace, name, overload = key.split(".")
        assert hasattr(getattr(getattr(torch.ops, namespace), name), overload), key


def test_an_op_without_a_recipe() -> None:
    assert find_recipe("aten.relu.default") is None


def test_sizes_have_limits() -> None:
    assert sized(torch.zeros(3, 4), -1) == 4
    with pytest.raises(LoweringError, match="at most 3"):
        sized(torch.zeros(3, 4), 1, 3)


def test_a_call_that_a_recipe_does_not_take_is_named_with_the_reason() -> None:
    program = program_of(Case("large", torch.linalg.inv, (torch.eye(65),), fixed=True))
    with pytest.raises(
        LoweringError, match=r"linalg_inv.default can't be lowered to onnx: .* is 65, at most 64"
    ):
        get_target("onnx").emit(program)


def test_a_result_that_a_recipe_leaves_out_is_named() -> None:
    def bag(weight: torch.Tensor, at: torch.Tensor, starts: torch.Tensor) -> object:
        return torch.ops.aten.embedding_bag.padding_idx(
            weight, at, starts, False, 0, False, None, False, None
        )[2]

    inputs = (torch.randn(4, 2), torch.tensor([1, 2, 3]), torch.tensor([0, 1]))
    with pytest.raises(LoweringError, match="its result 2 is not offered"):
        get_target("onnx").emit(program_of(Case("bag", bag, inputs, fixed=True)))
