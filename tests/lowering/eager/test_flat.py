import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxopt.frontend import trace
from fxopt.lowering.eager.flat import flat_function, flat_source
from tests.lowering.cases import CASES, Call
from tests.traced import inputs, same_bits, traced

MODELS = ("digits", "mlp", "bert", "lstm", "resnet10", "unet")


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", MODELS)
def test_models_agree_bit_for_bit(name: str, dynamic: bool):
    program = traced(name, dynamic)
    tensors = inputs(name, dynamic)
    with torch.no_grad():
        assert same_bits(flat_function(program)(*tensors), program.run_flat(tensors))


@pytest.mark.parametrize("name", CASES)
def test_cases_agree_bit_for_bit(name: str):
    module, args, shapes = CASES[name]
    program = trace(module, args, dynamic_shapes=shapes)
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    with torch.no_grad():
        assert same_bits(flat_function(program)(*tensors), program.run_flat(tensors))


def test_values_are_freed_after_their_last_use():
    program = trace(Call(lambda x: ((x + 1) * 2).relu().sum()), (torch.zeros(4),))
    function = flat_function(program)
    alive: list[weakref.ref[torch.Tensor]] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            most.append(sum(r() is not None for r in alive))
            result = func(*args, **(kwargs or {}))
            alive.append(weakref.ref(result))
            return result

    most: list[int] = []
    gc.collect()
    with torch.no_grad(), Watch():
        function(torch.zeros(4))
    assert max(most) == 1


def test_a_value_that_nobody_uses_is_freed_at_once():
    program = traced("lstm", False)
    lines = flat_source(program).text.splitlines()
    returned = lines[-1]
    assigned = [line.split(" = ")[0].strip() for line in lines if " = " in line]
    freed = {
        name for line in lines if line.strip().startswith("del ") for name in line.strip()[4:].split(", ")
    }
    assert set(assigned) - freed <= {n for n in assigned if n in returned}


def test_defaults_and_numbers_are_left_to_torch():
    text = flat_source(traced("digits", True)).text
    assert "conv2d_1(input_, _0_weight, None, (1, 1), (1, 1))" in text
    assert "alpha" not in text
    assert "dropout" not in text


def test_two_programs_do_not_share_names():
    first, second = (flat_source(traced(n, False)) for n in ("mlp", "digits"))
    assert first.names is not second.names


def test_the_text_says_where_it_comes_from(tmp_path: Path):
    function = flat_function(traced("mlp", True))
    with pytest.raises(RuntimeError) as caught:
        function(torch.zeros(2, 3))
    assert any("<fxopt Mlp>" in str(f.path) for f in caught.traceback)


def test_results_keep_the_programs_order():
    program = trace(Call(lambda x: {"b": x + 1, "a": x - 1}), (torch.zeros(2),))
    got = flat_function(program)(torch.zeros(2))
    assert [float(t[0]) for t in got] == [1.0, -1.0]  # type: ignore[index]
    assert list(pytree.tree_leaves(program(torch.zeros(2)))[0]) == [1.0, 1.0]


class Kernels(TorchDispatchMode):
    """What runs below composite ops."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


class OverTime(nn.Module):
    """Products of inputs that are not contiguous, as sequence models make them."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(x.transpose(1, 2))[0].transpose(0, 1))


def test_products_are_folded_as_the_models_own_are():
    """By torch a weight that wants no gradients is multiplied batch by batch then."""
    model, x = OverTime().eval(), torch.randn(3, 6, 7)
    run = flat_function(trace(model, (x,)))
    with torch.no_grad(), Kernels() as own:
        expected = model(x)
    with torch.no_grad(), Kernels() as flat:
        (result,) = run(x)
    assert same_bits([result], [expected])
    assert not result.requires_grad
    for kernels in (own, flat):
        assert "aten::mm" in kernels.names and "aten::bmm" not in kernels.names
