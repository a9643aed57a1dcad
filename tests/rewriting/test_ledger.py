"""The ledger: every edit around the Rewriter shows, none through it does."""

from collections.abc import Callable

import pytest
import torch

from fxopt.program import Program
from fxopt.rewriting import Ledger, Rewriter
from tests.passes.helpers import program, rand


def sample() -> Program:
    return program(lambda x, w: torch.relu(x @ w).neg() + 1, rand(2, 3), dynamic=True, w=rand(3, 4)).copy()


def node(p: Program, name: str) -> torch.fx.Node:
    return next(n for n in p.graph.nodes if n.name == name)


def arguments(p: Program) -> None:
    node(p, "neg").args = (node(p, "matmul"),)


def keyword(p: Program) -> None:
    node(p, "add").kwargs = {"alpha": 2}


def target(p: Program) -> None:
    node(p, "neg").target = torch.ops.aten.abs.default


def uses(p: Program) -> None:
    node(p, "relu").replace_all_uses_with(node(p, "matmul"))


def erase(p: Program) -> None:
    node(p, "neg").replace_all_uses_with(node(p, "relu"))
    p.graph.erase_node(node(p, "neg"))


def add(p: Program) -> None:
    with p.graph.inserting_before(node(p, "neg")):
        p.graph.call_function(torch.ops.aten.abs.default, (node(p, "relu"),))


def move(p: Program) -> None:
    node(p, "matmul").prepend(node(p, "relu"))


def value(p: Program) -> None:
    node(p, "relu").meta["val"] = node(p, "relu").meta["val"].to(torch.float64)


def origin(p: Program) -> None:
    node(p, "relu").meta["origins"] = ()


def write_weight(p: Program) -> None:
    p.weights["w"].mul_(2)


def swap_weight(p: Program) -> None:
    p.weights["w"] = torch.zeros(3, 4)


def drop_weight(p: Program) -> None:
    del p.weights["w"]


def add_weight(p: Program) -> None:
    p.weights["v"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (arguments, "edited neg"),
        (keyword, "edited add"),
        (target, "edited neg"),
        (uses, "edited neg"),
        (erase, "edited add"),
        (add, "made abs_default"),
        (move, "edited relu"),
        (value, "edited relu"),
        (origin, "edited relu"),
        (write_weight, "wrote into the weight 'w', which other programs may share,"),
        (swap_weight, "replaced the weight 'w'"),
        (drop_weight, "removed the weight 'w'"),
        (add_weight, "added the weight 'v'"),
    ],
    ids=lambda v: v.__name__ if callable(v) else "",
)
def test_an_edit_around_the_rewriter_shows(edit: Callable[[Program], None], said: str) -> None:
    p = sample()
    ledger = Ledger(p)
    assert ledger.difference() is None
    edit(p)
    assert ledger.difference() == said


def test_a_removed_node_shows_where_nothing_else_changed() -> None:
    p = program(lambda x: (x.relu(), x.neg())[0], rand(2)).copy()
    with p.graph.inserting_before(p.graph.output_node()):
        dead = p.graph.call_function(torch.ops.aten.neg.default, (p.placeholders()[0],))
    ledger = Ledger(p)
    p.graph.erase_node(dead)
    assert ledger.difference() == f"removed {dead.name}"


def test_edits_through_the_rewriter_do_not_show() -> None:
    p = sample()
    ledger = Ledger(p)
    rewriter = Rewriter(p, ledger=ledger)
    neg = node(p, "neg")
    with rewriter.rewrite("change", neg):
        product = rewriter.call("aten.mul", neg.args[0], rewriter.constant(torch.ones(4)))
        rewriter.replace(neg, rewriter.call("aten.exp", product))
    assert ledger.difference() is None
    add_node = node(p, "add")
    with rewriter.rewrite("drop", add_node):
        rewriter.replace(
            add_node, node(p, "exp_1") if any(n.name == "exp_1" for n in p.calls()) else add_node.args[0]
        )
    assert ledger.difference() is None


def test_edits_that_are_rolled_back_do_not_show() -> None:
    p = sample()
    ledger = Ledger(p)
    rewriter = Rewriter(p, ledger=ledger)
    neg = node(p, "neg")

    def half() -> None:
        with rewriter.rewrite("half", neg):
            rewriter.replace(neg, rewriter.call("aten.mul", neg, rewriter.constant(torch.ones(4))))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert ledger.difference() is None


def test_two_results_with_a_common_user_are_one_rewrite() -> None:
    p = program(lambda x: x.sin() + x.cos(), rand(2)).copy()
    ledger = Ledger(p)
    rewriter = Rewriter(p, ledger=ledger)
    sin, cos = rewriter.nodes("aten.sin") + rewriter.nodes("aten.cos")
    with rewriter.rewrite("both", sin):
        rewriter.replace(sin, rewriter.call("aten.exp", sin.args[0]))
        rewriter.replace(cos, rewriter.call("aten.abs", sin.args[0]))
    assert ledger.difference() is None


def test_an_edit_before_a_rewrite_of_the_same_node_is_not_covered_up() -> None:
    p = sample()
    rewriter = Rewriter(p, ledger=Ledger(p))
    relu, add_node = node(p, "relu"), node(p, "neg")
    add_node.args = (node(p, "relu"),)

    def rewrite() -> None:
        with rewriter.rewrite("cover", relu):
            rewriter.replace(relu, rewriter.call("aten.abs", relu.args[0]))

    with pytest.raises(Exception, match="neg was edited around the Rewriter before rewrite 'cover'"):
        rewrite()
