"""Costs against torch's own counter, and against the storages that a run keeps alive."""

import operator
from dataclasses import astuple

import pytest
import torch
from torch.fx import Interpreter, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fxopt.analysis import Cost
from fxopt.errors import InputError
from fxopt.ops import QuantRole, op_info
from fxopt.program import Program
from tests.passes.helpers import program, rand
from tests.traced import inputs, traced
from tests.zoo import names

QUICK = names("minilm", "resnet10", "mobilenetv2", "shufflenetv2", "squeezenet")
SLOW = [
    pytest.param(n, marks=pytest.mark.slow) for n in ("minilm", "resnet10", "shufflenetv2", "mobilenetv2")
]


class Storages(TorchDispatchMode):
    """The storages that calls return, but for those that were there before."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.known = {t.untyped_storage()._cdata for t in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            assert not isinstance(tensor, torch.Tensor) or tensor.device.type == "cpu"
        return result

    def alive(self, values: list[object]) -> int:
        found = {}
        for value in values:
            for t in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(t, torch.Tensor) and t.untyped_storage()._cdata not in self.known:
                    found[t.untyped_storage()._cdata] = t.untyped_storage().nbytes()
        return sum(found.values())


class Watched(Interpreter):
    """Runs a program a call at a time, forgets each value after its last use, and notes the most bytes alive."""

    def __init__(self, watched: Program, tensors: list[torch.Tensor]) -> None:
        super().__init__(watched.graph_module)
        self.mode = Storages(
            [*tensors, *watched.graph_module.state_dict().values(), *watched.weights.values()]
        )
        self.peak = 0

    def run_node(self, n: Node) -> object:
        with self.mode:
            result = super().run_node(n)
        if n.op == "call_function":
            self.peak = max(self.peak, self.mode.alive([*self.env.values(), result]))
        return result


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_peak_is_what_a_run_keeps_alive(name: str) -> None:
    before, tensors = traced(name, dynamic=False), inputs(name, dynamic=False)
    watched = Watched(before, tensors)
    with torch.no_grad():
        watched.run(*tensors)
    assert Cost.compute(before).at().peak_bytes == pytest.approx(watched.peak, rel=0.05)


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_contractions_cost_what_torch_counts(name: str) -> None:
    before, tensors = traced(name, dynamic=False), inputs(name, dynamic=False)
    with FlopCounterMode(display=False) as counter:
        before.run_flat(tensors)
    # torch counts 0 for attention and recurrent layers on CPUs
    counted = {n: c for n, c in Cost.compute(before).nodes.items() if _is_product(n)}
    assert sum(c.flops for c in counted.values()) == counter.get_total_flops()


def _is_product(node: Node) -> bool:
    return (
        isinstance(node.target, torch._ops.OpOverload) and op_info(node.target).role is QuantRole.CONTRACTION
    )


@pytest.mark.parametrize("name", ["mlp", "bert", "unet"])
def test_symbolic_costs_are_those_of_a_program_of_that_size(name: str) -> None:
    static, dynamic = traced(name, dynamic=False), traced(name, dynamic=True)
    batch = inputs(name, dynamic=False)[0].shape[0]
    symbolic = Cost.compute(dynamic)
    (symbol,) = dynamic.signature.symbols
    at_example = symbolic.at({symbol: batch})
    assert at_example == symbolic.at()
    # bert's mask is made in another way where the batch is dynamic
    assert astuple(at_example) == pytest.approx(astuple(Cost.compute(static).at()), rel=0.01)
    assert symbolic.at({symbol: 10 * batch}).flops == pytest.approx(10 * symbolic.at().flops, rel=0.01)


def test_a_size_that_is_missing_is_named() -> None:
    with pytest.raises(InputError, match="depends on batch"):
        Cost.compute(program(lambda x: x.relu(), rand(3, 4), dynamic=True)).at({})


def test_counts_by_hand() -> None:
    cost = Cost.compute(program(lambda x, w: (x @ w).reshape(6).relu(), rand(2, 4), w=rand(4, 3)))
    assert [(c.flops, c.bytes_read, c.bytes_written) for c in cost.nodes.values()] == [
        (48, 4 * (8 + 12), 24),
        (0, 0, 0),
        (6, 24, 24),
    ]
    summary = cost.at()
    assert (summary.weight_bytes, summary.input_bytes, summary.peak_bytes) == (48, 32, 48)


def test_a_look_up_reads_what_it_picks() -> None:
    ids = torch.tensor([1, 2])
    cost = Cost.compute(program(lambda i, w: torch.nn.functional.embedding(i, w), ids, w=rand(100, 3)))
    assert cost.at().bytes_read == 2 * 8 + 6 * 4


def test_a_reshape_that_must_copy_takes_memory() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        return y.permute(1, 0).reshape(12)

    assert Cost.compute(program(function, rand(3, 4))).at().peak_bytes == 2 * 48


def test_a_part_of_a_result_keeps_it_all() -> None:
    cost = Cost.compute(program(lambda x: operator.getitem(x.sort(), 0).relu(), rand(8)))
    assert cost.at().peak_bytes == 8 * (4 + 8) + 8 * 4
