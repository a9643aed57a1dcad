"""What is tied only because it is written once: the layers of a recurrent stack, one fill that several calls read.

All layers of a stack have one width, and so have the calls that start from the same zeros: none could lose units of
its own.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from fxopt.analysis.channels import Removal
from fxopt.ops import argument_kinds, bind, op_info
from fxopt.program import Program
from fxopt.rewriting import Rewriter

__all__ = ["untie", "untied"]


def untie(rewriter: Rewriter, rule: str) -> None:
    """Writes stacks as a call for each layer and direction, and fills once a reader, where something goes then.

    Where that is, the analysis of a copy in which all are untied says.
    """
    trial = rewriter.program.copy()
    looked_at = _untie_all(Rewriter(trial), rule)
    if not looked_at:
        return
    removal = Removal.compute(trial)
    space = removal.coupling.demand.constants.space
    pays = {
        name
        for name, nodes in looked_at.items()
        if any(kept is not None for n in nodes for kept in removal.kept(space.axes(n)))
    }
    for node in rewriter.nodes():
        if node.name in pays and _is_stack(node):
            _split(rewriter, node, rule)
    for node in rewriter.nodes():
        if node.name in pays and _is_shared_fill(node):
            _repeat(rewriter, node, rule)


def untied(program: Program) -> Program:
    """A copy in which every layer of a stack is a call and each reader of a fill has its own; itself if there are none."""
    made = program.copy()
    return made if _untie_all(Rewriter(made), "untie") else program


def _untie_all(rewriter: Rewriter, rule: str) -> dict[str, list[Node]]:
    """Unties all that there is; by the name of each stack its weights, of each fill those in its place."""
    stacks = [n for n in rewriter.nodes() if _is_stack(n)]
    found = {node.name: _weights(node) for node in stacks}
    for node in stacks:
        _split(rewriter, node, rule)
    fills = {n.name: n for n in rewriter.nodes() if _is_shared_fill(n)}
    return found | {name: _repeat(rewriter, node, rule) for name, node in fills.items()}


def _is_stack(node: Node) -> bool:
    """Whether a call is several layers, or one in two directions, over sequences of one length."""
    if not isinstance(node.target, torch._ops.OpOverload) or not op_info(node.target).units:
        return False
    bound = bind(node)
    many = bound.get("num_layers", 1) != 1 or bound.get("bidirectional", False)
    return bool(many) and "batch_sizes" not in bound and bound["train"] is False


def _is_fill(node: Node) -> bool:
    """Whether a call gives one number everywhere, of no operand's."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    info, bound = op_info(node.target), bind(node)
    read = [k for k, v in bound.items() if isinstance(v, Node) and isinstance(v.meta["val"], torch.Tensor)]
    return info.same_everywhere and not info.elementwise and set(read) <= set(info.shape_only)


def _is_shared_fill(node: Node) -> bool:
    return len(node.users) > 1 and _is_fill(node)


def _repeat(rewriter: Rewriter, fill: Node, rule: str) -> list[Node]:
    """A fill for each of its readers."""
    made = []
    users = sorted(
        fill.users, key=lambda user: user.op == "call_function"
    )  # the output keeps the fill itself
    for user in users[1:]:
        with rewriter.rewrite(rule, user):
            own = rewriter.call(fill.target, *fill.args, **fill.kwargs)
            renewed = {n: own if n is fill else n for n in user.all_input_nodes}
            args, kwargs = map_arg((user.args, dict(user.kwargs)), renewed.__getitem__)
            rewriter.replace(user, rewriter.call(user.target, *args, **kwargs))
        made.append(own)
    return [fill, *made]


def _weights(node: Node) -> list[Node]:
    params = bind(node)["params"]
    assert isinstance(params, (list, tuple))
    return [n for n in params if isinstance(n, Node)]


@dataclass(frozen=True)
class _Stack:
    """A call to split, and where the parts go."""

    rewriter: Rewriter
    node: Node

    def states(self, index: int) -> object:
        """The first states of one layer in one direction."""
        given = bind(self.node)["hx"]
        if isinstance(given, (list, tuple)):
            return [self._part(h, index) for h in given]
        return self._part(given, index)

    def _part(self, states: object, index: int) -> Node:
        assert isinstance(states, Node)
        if not _is_fill(states):
            return self.rewriter.call("aten.slice", states, 0, index, index + 1)
        kinds = [k.name for k in argument_kinds(states.target) if not k.keyword_only]
        args = list(states.args)
        sizes = args[kinds.index("size")]
        assert isinstance(sizes, Sequence)
        args[kinds.index("size")] = [1, *sizes[1:]]
        return self.rewriter.call(states.target, *args, **states.kwargs)

    def layer(self, x: Node, index: int, params: list[Node], *, backwards: bool) -> list[Node]:
        """One layer in one direction: its output, its last states."""
        call, bound = self.rewriter.call, bind(self.node)
        time = 1 if bound["batch_first"] else 0
        arguments = bound | {
            "input": call("aten.flip", x, [time]) if backwards else x,
            "hx": self.states(index),
            "params": params,
            "num_layers": 1,
            "dropout": 0.0,
            "bidirectional": False,
        }
        made = call(self.node.target, *arguments.values())
        output, *last = (call(operator.getitem, made, i) for i in range(len(made.meta["val"])))
        return [call("aten.flip", output, [time]) if backwards else output, *last]


def _split(rewriter: Rewriter, node: Node, rule: str) -> None:
    """The same layers, one call each."""
    bound, params, stack = bind(node), _weights(node), _Stack(rewriter, node)
    layers, dropout = bound["num_layers"], bound["dropout"]
    assert isinstance(layers, int) and isinstance(bound["input"], Node)
    directions = 2 if bound["bidirectional"] else 1
    each = len(params) // (layers * directions)
    x, last = bound["input"], []
    with rewriter.rewrite(rule, node):
        for index in range(0, layers * directions, directions):
            if index and dropout:
                x = rewriter.call("aten.dropout", x, dropout, False)  # a place to drop at, when it trains
            outputs = []
            for way in range(directions):
                own = params[each * (index + way) :][:each]
                output, *states = stack.layer(x, index + way, own, backwards=bool(way))
                outputs.append(output)
                last.append(states)
            x = outputs[0] if directions == 1 else rewriter.call("aten.cat", outputs, -1)
        for part in list(node.users):
            number = part.args[1]
            assert isinstance(number, int)
            whole = x if not number else rewriter.call("aten.cat", [s[number - 1] for s in last], 0)
            rewriter.replace(part, whole)
