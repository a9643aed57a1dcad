"""What calls are named after."""

import operator

import torch

from fxopt.rewriting.calls import call_name


def test_a_call_is_named_after_its_op():
    call_name.cache_clear()
    assert call_name(torch.ops.aten.add.Tensor) == "add"
    assert call_name(torch.ops.aten.sum.dim_IntList) == "sum"
    assert call_name(operator.getitem) == "getitem"


def test_what_has_no_name_is_a_call():
    class Op:
        def __call__(self) -> None: ...

    assert call_name(Op()) == "call"
