"""Ops without a rule that are made of others: torch's own decompositions, traced on the call's fake values.

`rot90`, `cdist` or `count_nonzero` become a small graph of ops that have rules; it is lowered in place of
the call.
"""

import contextlib
from collections.abc import Callable

import torch
from torch._C import DispatchKey
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses import FakeTensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from fxopt.frontend.functionalize import Refused, functionalize
from fxopt.lowering.onnx.builder import Builder, Result
from fxopt.lowering.onnx.recipes import find_recipe
from fxopt.ops.canonical import plain
from fxopt.ops.info import op_key
from fxopt.program.program import origins_of

__all__ = ["decomposed", "lower_decomposed"]

_Lower = Callable[[Builder, Node], Result]


def _decompositions(op: torch._ops.OpOverload) -> list[Callable[..., object]]:
    """Functions of other ops that are the op: our recipe, else torch's, the first that takes a call counts."""
    from torch._decomp import global_decomposition_table

    own = find_recipe(op_key(op))
    if own is not None:
        return [own]
    found: Callable[..., object] | None = global_decomposition_table["post_autograd"].get(op)
    known = [] if found is None else [found]
    composite = op.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)
    return [*known, op.decompose] if composite else known


def decomposed(node: Node, has_rule: Callable[[Node], bool]) -> GraphModule | None:
    """The call as a graph of other ops.

    Args:
        node: a call of an op without a rule.
        has_rule: whether an op can be lowered, by a rule or once more like this.

    Returns:
        A graph whose placeholders are the nodes among the call's arguments, in order; None if there is no
        decomposition, or one with ops that can't be lowered.

    Raises:
        RecipeError: a recipe is there, but does not take these arguments.
    """
    op = node.target
    values = pytree.tree_leaves([n.meta.get("val") for n in (*node.all_input_nodes, node)])
    fakes = [v for v in values if isinstance(v, FakeTensor)]
    if not fakes or not isinstance(op, torch._ops.OpOverload):
        return None
    for decomposition in _decompositions(op):
        graph_module = _traced(node, decomposition, fakes[0].fake_mode)
        if graph_module is not None:
            calls = [n for n in graph_module.graph.nodes if n.op == "call_function"]
            if all(n.target != op and has_rule(n) for n in calls):
                return graph_module
    return None


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
        result = decomposition(*map(plain, args), **{k: plain(v) for k, v in kwargs.items()})
        return tuple(result) if isinstance(result, (list, tuple)) else result

    shape_env = mode.shape_env
    if shape_env is None:
        return None
    shape_env.pending_fresh_unbacked_symbols.clear()  # of whatever was evaluated before
    contexts = (mode, enable_python_dispatcher(), shape_env.suppress_guards(), torch.no_grad())
    try:
        with contextlib.ExitStack() as stack:
            for context in (*contexts, shape_env.ignore_fresh_unbacked_symbols()):
                stack.enter_context(context)
            traced = make_fx(call, tracing_mode="real")(*(leaves[i].meta["val"] for i in places))
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None  # the decomposition does not take these arguments: as good as none
    try:
        graph = functionalize(traced.graph)
    except Refused:
        return None
    graph.eliminate_dead_code()
    for inner in graph.nodes:
        inner.meta["origins"] = origins_of(node)
        inner.name = f"{node.name}.{inner.name}"
    return GraphModule(traced, graph)


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
            result = (
                tuple("" if r is None else builder.value(r) for r in returned)
                if several
                else builder.value(returned)
            )
    builder.enter(node)
    return result
