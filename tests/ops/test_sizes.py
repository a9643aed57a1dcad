"""Sizes compared without guards."""

import pytest
import torch
from torch.fx import Graph

from fxopt.ops.sizes import is_one, product, same_size, shape_of
from tests.ops.symbolic import symbolic_tensor


def test_numbers() -> None:
    assert same_size(3, 3)
    assert not same_size(3, 4)
    assert is_one(1)
    assert not is_one(0)
    assert product([]) == 1
    assert product([2, 3, 4]) == 24


def test_symbols_add_no_guard() -> None:
    x = symbolic_tensor(torch.zeros(4, 6))
    a, b = x.shape
    assert same_size(a, a)
    assert same_size(a * b, b * a)
    assert same_size(a * 6 // 6, a)
    assert not same_size(a, b)
    assert not same_size(a, 4)  # true of the example, not of every size
    assert not is_one(a)
    assert same_size(product([a, b, 2]), 2 * a * b)
    assert not x.fake_mode.shape_env.guards


def test_shape_of_tensors_and_nodes() -> None:
    node = Graph().placeholder("x")
    node.meta["val"] = torch.zeros(2, 3)
    assert shape_of(node) == shape_of(torch.zeros(2, 3)) == (2, 3)
    with pytest.raises(TypeError, match="expected a tensor, got 3"):
        shape_of(3)
