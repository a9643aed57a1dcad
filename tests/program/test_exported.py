import io

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxopt.frontend import trace
from fxopt.program import origins_of
from fxopt.program.exported import to_exported_program
from tests.traced import inputs, same_bits, traced

MODELS = ["digits", "mlp", "bert", "lstm", "unet", "tied_encoder"]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", MODELS)
def test_it_computes_the_same_saved_and_traced_again(name: str, dynamic: bool):
    program = traced(name, dynamic)
    tensors = inputs(name, dynamic)
    expected = program.run_flat(tensors)
    exported = program.exported_program()
    file = io.BytesIO()
    torch.export.save(exported, file)
    loaded = torch.export.load(io.BytesIO(file.getvalue()))
    with torch.no_grad():
        for module in (exported.module(), loaded.module()):
            assert same_bits(pytree.tree_leaves(module(*tensors)), expected)
    again = trace(exported)
    assert same_bits(again.run_flat(tensors), expected)
    assert [n.target for n in again.calls()] == [n.target for n in program.calls()]


def test_a_batch_of_one_is_taken():
    exported = traced("digits", True).exported_program()
    assert exported.module()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_static_sizes_are_guarded():
    with pytest.raises((AssertionError, RuntimeError)):
        traced("mlp", False).exported_program().module()(torch.zeros(7, 64))


def test_the_program_stays_as_it_is():
    program = traced("mlp", True)
    before = str(program)
    exported = program.exported_program()
    assert str(program) == before
    assert exported.state_dict["0.weight"] is program.weights["0.weight"]


def test_modules_and_lines_are_kept():
    program = traced("digits", False)
    again = trace(program.exported_program())
    assert [origins_of(n) for n in again.calls()] == [
        tuple(o for o in origins_of(n)) for n in program.calls()
    ]


class Mixed(nn.Module):
    def forward(self, data: dict[str, torch.Tensor], k: int, flag: bool = True) -> tuple[object, ...]:
        x = data["x"]
        return x * k, None, x.shape[0] + 1, {"same": x, "seven": 7}


def test_constants_numbers_and_containers_are_kept():
    example = ({"x": torch.randn(3, 2)}, 4)
    program = trace(Mixed().eval(), example, dynamic_shapes={"data": {"x": {0: "n"}}, "k": None})
    x = torch.randn(5, 2)
    result = to_exported_program(program).module()({"x": x}, 4)
    assert torch.equal(result[0], x * 4)
    assert result[1] is None
    assert result[2] == 6
    assert torch.equal(result[3]["same"], x)
    assert result[3]["seven"] == 7
