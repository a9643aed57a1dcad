"""A rewrite made in a copy: several can be tried on one program without analysing it anew for each.

>>> import torch
>>> from fxopt.frontend import trace
>>> program = trace(torch.nn.ReLU(), torch.ones(2))
>>> rewriter = Rewriter(program)
>>> (relu,) = rewriter.nodes()
>>> made = trial(rewriter, "negate", relu, lambda: rewriter.replace(relu, rewriter.call("aten.neg", relu.args[0])))
>>> [n.name for n in made.calls()], [n.name for n in program.calls()]
(['neg'], ['relu'])
"""

import contextlib
from collections.abc import Callable, Iterator

from torch.fx import Graph, Node

from fxopt.program import Program
from fxopt.rewriting.edits import WeightNames
from fxopt.rewriting.rewriter import Rewriter

__all__ = ["trial"]


class _GivenUp(Exception):  # no error: what was tried is not kept
    """A rewrite was tried."""


def trial(rewriter: Rewriter, rule: str, root: Node, edit: Callable[[], None]) -> Program:
    """A copy of the rewriter's program in which a rewrite is made; the program, and what is known of it, stays.

    Args:
        rewriter: without an open rewrite.
        rule: as in `rewrite`.
        root: as in `rewrite`.
        edit: makes the edits by the rewriter.

    Raises:
        PassError: as in `rewrite`.
    """
    program, made = rewriter.program, []
    with contextlib.suppress(_GivenUp), _names_kept(program.graph), rewriter.rewrite(rule, root):
        edit()
        edits = rewriter._editing("trial")
        edits.check_order()
        twin = program.copy()
        there = dict(zip(program.graph.nodes, twin.graph.nodes, strict=True))
        Rewriter(twin)._commit(edits.moved(there))
        made.append(twin)
        raise _GivenUp
    rewriter._names = WeightNames(program)
    return made[0]


@contextlib.contextmanager
def _names_kept(graph: Graph) -> Iterator[None]:
    """Afterwards a graph gives the names that it would have given before."""
    names = graph._graph_namespace
    before = dict(names._obj_to_name), set(names._used_names), dict(names._base_count)
    try:
        yield
    finally:
        names._obj_to_name, names._used_names, names._base_count = before
