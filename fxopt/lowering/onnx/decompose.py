"""Ops without a rule that are made of others: torch's own decompositions, traced on the call's fake values.

`rot90`, `cdist` or `count_nonzero` become a small graph of ops that have rules; it is lowered in place of
the call.
"""

from collections.abc import Callable

import torch
from torch._C import DispatchKey
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses import FakeTensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from fxopt.lowering.onnx.builder import Builder, Result
from fxopt.program.program import origins_of

__all__ = ["decomposed", "lower_decomposed"]

_Lower = Callable[[Builder, Node], Result]


def _decomposition(op: torch._ops.OpOverload) -> Callable[..., object] | None:
    from torch._decomp import global_decomposition_table

    found: Callable[..., object] | None = global_decomposition_table["post_autograd"].get(op)
    if found is None and op.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd):
        return op.decompose
    return found


def decomposed(node: Node, has_rule: Callable[[Node], bool]) -> GraphModule | None:
    """The call as a graph of other ops.

    Args:
        node: a call of an op without a rule.
        has_rule: whether an op can be lowered, by a rule or once more like this.

    Returns:
        A graph whose placeholders are the nodes among the call's arguments, in order; None if torch has no
        decomposition, or one with ops that can't be lowered.
    """
    op = node.target
    decomposition = _decomposition(op) if isinstance(op, torch._ops.OpOverload) else None
    values = pytree.tree_leaves([n.meta.get("val") for n in node.all_input_nodes])
    fakes = [v for v in values if isinstance(v, FakeTensor)]
    if decomposition is None or not fakes:
        return None
    graph_module = _traced(node, decomposition, fakes[0].fake_mode)
    if graph_module is None:
        return None
    calls = [n for n in graph_module.graph.nodes if n.op == "call_function"]
    return graph_module if all(n.target != op and has_rule(n) for n in calls) else None


def _is_node(value: object) -> bool:
    return isinstance(value, Node)


def _traced(
    node: Node, decomposition: Callable[..., object], mode: torch._subclasses.FakeTensorMode
) -> GraphModule | None:
    from torch.fx.experimental.proxy_tensor import make_fx

    leaves, tree = pytree.tree_flatten((list(node.args), dict(node.kwargs)), is_leaf=_is_node)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Node)]

    def call(*values: object) -> object:
        given = list(leaves)
        for place, value in zip(places, values, strict=True):
            given[place] = value
        args, kwargs = pytree.tree_unflatten(given, tree)
        return decomposition(*args, **kwargs)

    shape_env = mode.shape_env
    if shape_env is None:
        return None
    try:
        with torch.no_grad(), mode, enable_python_dispatcher(), shape_env.suppress_guards():
            traced = make_fx(call, tracing_mode="real")(*(leaves[i].meta["val"] for i in places))
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None  # the decomposition does not take these arguments: as good as none
    traced.graph.eliminate_dead_code()
    for inner in traced.graph.nodes:
        inner.meta["origins"] = origins_of(node)
        inner.name = f"{node.name}.{inner.name}"
    return traced


def lower_decomposed(builder: Builder, node: Node, traced: GraphModule, lower: _Lower) -> Result:
    """Lowers the graph in place of the call; `lower` lowers one node."""
    leaves = pytree.tree_leaves((list(node.args), dict(node.kwargs)), is_leaf=_is_node)
    arguments = iter([leaf for leaf in leaves if isinstance(leaf, Node)])
    result: Result = ""
    for inner in traced.graph.nodes:
        if inner.op == "placeholder":
            builder.bind(inner, builder.result(next(arguments)))
        elif inner.op == "get_attr":
            constant = getattr(traced, str(inner.target))
            builder.bind(inner, builder.constant(constant, constant.dtype))
        elif inner.op == "call_function":
            builder.enter(inner)
            builder.bind(inner, lower(builder, inner))
        else:
            returned = inner.args[0]
            several = isinstance(returned, (list, tuple))
            result = tuple(builder.value(r) for r in returned) if several else builder.value(returned)
    builder.enter(node)
    return result
