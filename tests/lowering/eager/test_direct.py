import pytest
import torch
from torch.utils import _pytree as pytree

from fxopt.lowering.eager.direct import DIRECT, direct_call
from fxopt.ops import op_info
from fxopt.ops.resolve import resolve_op
from tests.traced import same_bits


def leaves(result: object) -> list[object]:
    return pytree.tree_leaves(list(result) if isinstance(result, tuple) else result)


@pytest.mark.parametrize("key", sorted(DIRECT))
def test_a_direct_function_is_its_op(key: str):
    op = resolve_op(key)
    samples = op_info(op).samples
    assert direct_call(op) is DIRECT[key]
    calls = [] if samples is None else list(samples())
    tried = 0
    for args, kwargs in calls:
        torch.manual_seed(0)
        try:
            expected = op(*args, **kwargs)
        except (RuntimeError, TypeError):  # a sample of another overload
            continue
        torch.manual_seed(0)
        assert same_bits(leaves(DIRECT[key](*args, **kwargs)), leaves(expected)), (args, kwargs)
        tried += 1
    assert tried, f"the op table has no samples that {key} takes"


def test_an_op_that_is_not_listed_is_called_itself():
    op = torch.ops.aten.cumsum.default
    assert direct_call(op) is op
