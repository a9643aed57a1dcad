"""Sizes: one type for every value of the symbols, expressions as nodes."""

import operator

import pytest
import sympy
import torch

from fxopt.program import Program
from fxopt.rewriting import NoSize, Rewriter, read_symbol, same_size, same_type, size_node
from tests.passes.helpers import program, rand


@pytest.fixture
def p() -> Program:
    made = program(
        lambda x, y: (x.reshape(x.shape[0] * 2, -1), y.relu()), rand(4, 6), rand(4, 6), dynamic=True
    )
    return made.copy()


def test_one_symbol_is_one_size_and_the_example_is_none(p: Program) -> None:
    batch = p.placeholders()[0].meta["val"].shape[0]
    assert same_size(batch, batch)
    assert same_size(batch, next(iter(p.calls())).meta["val"])  # a read of it
    assert same_size(batch * 2, 2 * batch)
    assert not same_size(batch, 4)
    assert not same_size(batch, batch + 1)
    assert not same_size(1, 1.0)
    assert not same_size(1, True)


def test_types_of_tensors_and_tuples() -> None:
    a, b = torch.zeros(2, 3), torch.ones(2, 3)
    assert same_type(a, b)
    assert same_type((a, b), [b, a])
    assert not same_type((a,), (a, b))
    assert not same_type(a, a.double())
    assert not same_type(a, a.t())
    assert not same_type(a, torch.zeros(2, 3, device="meta"))
    assert not same_type(a, None)


def test_an_expression_is_read_or_computed(p: Program) -> None:
    x = p.placeholders()[0]
    symbol = x.meta["val"].shape[0].node.expr
    assert read_symbol(symbol, [x]) == (x, 0)
    assert read_symbol(symbol * 2, [x]) is None
    rewriter = Rewriter(p)
    with rewriter.rewrite("sizes", rewriter.nodes("aten.relu")[0]):
        assert size_node(rewriter.call, sympy.Integer(3), [x]) == 3
        made = size_node(rewriter.call, symbol * 2 + 1, [x])
        assert isinstance(made, torch.fx.Node)
        assert made.target is operator.add
        assert p.dim(made.meta["val"]) == "1 + 2*batch"
        batch = x.meta["val"].shape[0]
        for size in (batch // 2, batch % 3, batch * batch, torch.sym_max(batch, 3), torch.sym_min(batch, 3)):
            node = size_node(rewriter.call, size.node.expr, [x])
            assert isinstance(node, torch.fx.Node)
            assert node.meta["val"].node.expr == size.node.expr
        with pytest.raises(NoSize, match="can't be computed"):
            size_node(rewriter.call, sympy.Symbol("other"), [x])
