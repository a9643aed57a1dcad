"""Functionalisation: in-place ops become their functional twins, or the graph is refused.

One forward walk over training IR. Alias sets come from schemas and the op table; a write `X_(a)` becomes
`X(a)` and later uses of `a` (and of what is the same value) read the result. Where that would not be the same
function it is refused: another view of the storage is read later, the storage belongs to an input or a
weight, there is no functional twin. About fifty lines of idea; measured 14 times cheaper a node than
`run_decompositions({})`, which serves where this refuses.
"""

from dataclasses import dataclass, field

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from fxopt.dialect import is_legal_target
from fxopt.frontend.refuse import updates_statistics
from fxopt.ops.info import Aliasing, op_info, op_key
from fxopt.ops.schema import is_mutating, is_view, mutated_arguments

__all__ = ["Refused", "functionalize"]


class Refused(Exception):
    """Why the walk can't functionalise a graph: an answer, not an error, the caller takes the other road.

    `root` is the placeholder whose storage is written, if that is the reason; `hidden` says that an alias is
    involved which no schema declares, so that torch's own functionalisation would be wrong too.
    """

    def __init__(self, why: str, node: Node, *, root: Node | None = None, hidden: bool = False) -> None:
        super().__init__(why)
        self.node, self.root, self.hidden = node, root, hidden


@dataclass
class _Storage:
    """Values that may share memory, inputs and weights among them, and whether a hidden alias joined them."""

    members: set[Node] = field(default_factory=set)
    roots: set[Node] = field(default_factory=set)
    hidden: bool = False


class _Walk:
    def __init__(self, source: Graph) -> None:
        self.source = source
        self.order = {n: i for i, n in enumerate(source.nodes)}
        self.storage: dict[Node, _Storage] = {}
        self.same: dict[Node, set[Node]] = {}
        self.env: dict[Node, Node] = {}
        self.graph = Graph()

    def run(self) -> Graph:
        for node in self.source.nodes:
            if node.op == "call_function" and not is_legal_target(node.target):
                raise Refused(f"{op_key(node.target)} opens a region of its own", node)
            if node.op == "call_function" and updates_statistics(node):
                raise Refused(f"{op_key(node.target)} updates the running statistics", node)
            if node.op == "call_function" and is_mutating(node.target):
                self._write(node)
                continue
            copied = self.graph.node_copy(node, lambda n: self.env[n])
            copied.name = node.name
            self._enter(node, copied)
        return self.graph

    def _enter(self, node: Node, value: Node) -> None:
        """Notes a value and what it may alias."""
        self.env[node] = value
        self.same[node] = {node}
        storage = _Storage({node}, {node} if node.op in ("placeholder", "get_attr") else set())
        if node.op == "call_function" and (is_view(node.target) or _is_getitem(node)):
            hidden = (
                isinstance(node.target, torch._ops.OpOverload)
                and op_info(node.target).aliasing is Aliasing.MAYBE
            )
            storage.hidden = hidden
            # A size that two views are made by joins nothing.
            tensors = [n for n in node.all_input_nodes if _has_tensor(n)]
            others = [n for n in tensors if not hidden or _may_share(node, n)]
            for other in others:
                joined = self.storage[other]
                storage.members |= joined.members
                storage.roots |= joined.roots
                storage.hidden |= joined.hidden
        for member in storage.members:
            self.storage[member] = storage

    def _write(self, node: Node) -> None:
        op = node.target
        assert isinstance(op, torch._ops.OpOverload)
        written = node.args[0] if node.args else None
        if mutated_arguments(op) != (0,) or not isinstance(written, Node):
            raise Refused(f"{op} writes to an argument other than its first", node)
        storage = self.storage[written]
        if storage.roots:
            raise Refused("it writes to an input or weight", node, root=next(iter(storage.roots)))
        twins = self.same[written]
        readers = [
            m for m in storage.members - twins if any(self.order[u] > self.order[node] for u in _readers(m))
        ]
        if readers:
            raise Refused(
                f"{readers[0].name} shares the memory and is read later", node, hidden=storage.hidden
            )
        value = self._functional(node, op, written)
        twins.add(node)
        self.same[node] = twins
        for twin in twins:
            self.env[twin] = value
        storage.members.add(node)
        self.storage[node] = storage

    def _functional(self, node: Node, op: torch._ops.OpOverload, written: Node) -> Node:
        """The functional call, cast back where the twin promotes (`half.add_(float)`)."""
        twin = functional_twin(op)
        if twin is None:
            raise Refused(f"{op} has no functional twin", node)
        args = tuple(torch.fx.node.map_arg(a, lambda n: self.env[n]) for a in node.args)
        kwargs = {k: torch.fx.node.map_arg(v, lambda n: self.env[n]) for k, v in node.kwargs.items()}
        value = _evaluate(twin, node)
        before = written.meta["val"]
        if not isinstance(value, torch.Tensor) or tuple(value.shape) != tuple(before.shape):
            raise Refused(f"{op} broadcasts differently out of place", node)
        call = self.graph.create_node("call_function", twin, args, kwargs)
        call.meta = {**node.meta, "val": value}
        if value.dtype == before.dtype:
            return call
        cast = self.graph.create_node("call_function", torch.ops.aten.to.dtype, (call, before.dtype))
        cast.meta = {**node.meta, "val": before}
        return cast


def _may_share(node: Node, other: Node) -> bool:
    """Whether a result that no schema declares an alias may be one: fake tensors share memory as real ones do."""
    storages = [
        {v.untyped_storage()._cdata for v in pytree.tree_leaves(n.meta["val"]) if isinstance(v, torch.Tensor)}
        for n in (node, other)
    ]
    return not storages[0].isdisjoint(storages[1])


def _readers(node: Node) -> list[Node]:
    """The users that read more than its sizes."""
    return [u for u in node.users if u.op != "call_function" or not op_key(u.target).startswith("aten.sym_")]


def _has_tensor(node: Node) -> bool:
    return any(isinstance(v, torch.Tensor) for v in pytree.tree_leaves(node.meta.get("val")))


def _is_getitem(node: Node) -> bool:
    return getattr(node.target, "__name__", "") == "getitem"


_TWINS = {
    torch.ops.aten.normal_.default: torch.ops.aten.normal_functional.default,
    torch.ops.aten.bernoulli_.float: torch.ops.aten.bernoulli.p,
}
"""Those of another name."""


def functional_twin(op: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """`aten.relu` for `aten.relu_`; None if there is no overload of the same name."""
    namespace, name = op._schema.name.split("::")
    if not name.endswith("_") or name.endswith("__"):
        return None
    if op in _TWINS:
        return _TWINS[op]
    packet = getattr(getattr(torch.ops, namespace), name[:-1], None)
    twin = getattr(packet, op._overloadname or "default", None)
    return twin if isinstance(twin, torch._ops.OpOverload) and not is_mutating(twin) else None


def _evaluate(op: torch._ops.OpOverload, node: Node) -> object:
    args = torch.fx.node.map_arg(node.args, lambda n: n.meta["val"])
    kwargs = torch.fx.node.map_arg(node.kwargs, lambda n: n.meta["val"])
    fake = next(
        v for n in node.all_input_nodes if isinstance(v := n.meta["val"], torch._subclasses.FakeTensor)
    )
    mode = fake.fake_mode
    assert mode.shape_env is not None
    with torch.no_grad(), enable_python_dispatcher(), mode, mode.shape_env.suppress_guards():
        return op(*args, **kwargs)


def functionalize(graph: Graph) -> Graph:
    """A functional copy of a training-IR graph, `meta` carried over.

    Raises:
        Refused: the walk can't show that its result would be the same function.
    """
    return _Walk(graph).run()
