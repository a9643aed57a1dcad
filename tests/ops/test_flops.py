"""Operation counts against torch's own counter, and by hand where it does not count."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fxopt.ops import QuantRole, bind_call, call_flops, op_info, registered_ops
from tests.ops.samples import pure_cases

aten = torch.ops.aten
UNCOUNTED = {"aten.mv", "aten.dot", "aten.outer", "aten.addmv", "aten.addbmm", "aten.bilinear"}
"""What torch's counter does not know."""
COUNTED = [n for n, i in registered_ops().items() if i.role is QuantRole.CONTRACTION and n not in UNCOUNTED]
COUNTED += ["aten.scaled_dot_product_attention", "aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.lstm_cell"]


@pytest.mark.parametrize("name", COUNTED)
def test_contractions_agree_with_torch(name: str) -> None:
    agreed = 0
    for case in pure_cases(op_info(name)):
        with FlopCounterMode(display=False) as counter:
            output = case.value()
        total = counter.get_total_flops()
        if total:  # products with vectors and transpositions in disguise count nothing there
            assert call_flops(case.op, case.bound, output) == total, str(case)
            agreed += 1
    assert agreed


def flops(op: torch._ops.OpOverload, *args: object) -> object:
    return call_flops(op, bind_call(op, args, {}), op(*args))


def test_counts_by_hand() -> None:
    x = torch.ones(2, 3, 4, 4)
    assert flops(aten.relu.default, x) == 96
    assert flops(aten.add.Tensor, x, x[0]) == 96
    assert flops(aten.sum.default, x) == 96
    assert flops(aten.mean.dim, x, [-1]) == 96
    assert flops(aten.permute.default, x, [0, 2, 1, 3]) == 0
    assert flops(aten.max_pool2d.default, x, [2, 2], [2, 2]) == 2 * 3 * 2 * 2 * 4
    assert flops(aten.layer_norm.default, x, [4]) == 7 * 96
    assert flops(aten.softmax.int, x, -1) == 5 * 96
    assert flops(aten.mv.default, torch.ones(2, 3), torch.ones(3)) == 12
    assert flops(aten.bilinear.default, torch.ones(2, 3), torch.ones(2, 4), torch.ones(5, 3, 4)) == 240
    assert flops(aten.embedding.default, torch.ones(5, 3), torch.zeros(2, dtype=torch.int64)) == 0
    assert flops(aten.unbind.int, x) == 0


def test_an_op_without_an_entry_costs_one_an_output_element() -> None:
    assert flops(aten.special_erfcx.default, torch.ones(7)) == 7
