"""From an ExportedProgram to a `Program`: weights out of the inputs, canonical spelling, the user's names.

Un-lifting is done by hand over the export's signature: `ep.module()` would add guards as a call and mutate
the caller's weights. Ties are found by storage. Weights are shared with the caller, as objects of our own, so
that nothing done to the program's module (`half()`, `to()`) can reach the caller's.
"""

import operator
from collections.abc import Callable
from functools import cache

import torch
from torch._subclasses import FakeTensorMode
from torch.export.graph_signature import InputKind, InputSpec, OutputKind
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from fxopt.dialect import is_legal_target
from fxopt.errors import TraceError
from fxopt.frontend.dimensions import Axis
from fxopt.frontend.naming import NodeNames, call_name, identifier, output_names
from fxopt.frontend.origins import node_line, node_origin
from fxopt.frontend.refuse import check_captured
from fxopt.frontend.symbols import Leaf, name_sizes
from fxopt.ops import canonical_arguments, is_mutating, op_key
from fxopt.ops.spelling import DROPPED, canonical_call
from fxopt.program.inference import infer_value
from fxopt.program.program import Origin, Program, new_fake_mode
from fxopt.program.signature import STATE, ConstantSpec, ScalarSpec, Signature, Spec, TensorSpec

__all__ = ["unlift"]

_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_BATCH_NORMS = frozenset(
    {"aten._native_batch_norm_legit_no_training.default", "aten._native_batch_norm_legit.no_stats"}
)


class _Unlift:
    """One conversion. `graph` is functional: the export's own, or what the functionaliser made of it."""

    def __init__(
        self,
        exported: torch.export.ExportedProgram,
        graph: Graph,
        names: tuple[str, ...] | None,
        axes: tuple[dict[int, Axis], ...] | None,
    ) -> None:
        self.exported, self.source = exported, graph
        specs = [s for s in exported.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
        self.names = names or tuple(str(getattr(s.arg, "name", "")) for s in specs)
        self.axes = axes or tuple({} for _ in specs)
        self.inputs: list[Spec] = []
        self.states: list[tuple[str, TensorSpec]] = []
        self.weights: dict[str, torch.Tensor] = {}
        self.by_storage: dict[object, str] = {}
        self.weight_nodes: dict[str, Node] = {}
        self.pending: dict[Node, tuple[str, torch.Tensor]] = {}
        self.env: dict[Node, object] = {}
        self.graph = Graph()
        self.node_names = NodeNames(graph)
        self.layer, self.origins = "", (Origin(),)
        self.program = Program(self.graph, {}, _empty_signature(), fake_mode=_mode_of(graph))

    def run(self) -> Program:
        self._inputs()
        for node in self.source.nodes:
            if node.op == "call_function":
                self._call(node)
            elif node.op == "get_attr":
                raise TraceError(f"the graph holds {node.target!r}, which is no tensor{node_line(node)}")
        return self._finish()

    def _inputs(self) -> None:
        """Placeholders for the user's inputs, then for states; weights wait for their first use."""
        specs = {s.arg.name: s for s in self.exported.graph_signature.input_specs if hasattr(s.arg, "name")}
        nodes = {n: specs[n.name] for n in self.source.nodes if n.op == "placeholder"}
        user = [n for n, spec in nodes.items() if spec.kind is InputKind.USER_INPUT]
        leaves = zip(user, self.names, self.axes, strict=True)
        tensors: list[Leaf] = [
            (name, value, axes)
            for node, name, axes in leaves
            if isinstance(value := node.meta.get("val"), torch.Tensor)
        ]
        self.program.symbol_names, self.symbols = name_sizes(self.program.fake_mode.shape_env, tensors)
        for node, name in zip(user, self.names, strict=True):
            self._user_input(node, name)
        mutated = _mutated_buffers(self.exported)
        for node, spec in nodes.items():
            if spec.target in mutated:
                self._state_input(node, spec)
            elif spec.kind in _WEIGHTS and spec.target is not None:
                tensor = self._tensor(spec)
                self.pending[node] = (spec.target, tensor)
                self.by_storage.setdefault(_storage_key(tensor), spec.target)
            elif spec.kind is not InputKind.USER_INPUT:
                raise TraceError(
                    f"the model takes {spec.kind.name.lower()} {spec.target!r}, which is no tensor or number"
                )

    def _tensor(self, spec: InputSpec) -> torch.Tensor:
        state, constants = self.exported.state_dict, self.exported.constants
        assert spec.target is not None
        tensor = state[spec.target] if spec.target in state else constants.get(spec.target)
        if not isinstance(tensor, torch.Tensor):
            raise TraceError(f"the weight {spec.target!r} is {type(tensor).__name__}, not a tensor")
        return tensor

    def _user_input(self, node: Node, name: str) -> None:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            self.env[node] = self._placeholder(name, value)
            self.inputs.append(self._tensor_spec(name, value))
        elif isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            raise TraceError(
                f"input {name!r} is a number given as dynamic; numbers are fixed when traced, pass a tensor"
            )
        else:
            self.env[node] = value
            self.inputs.append(ConstantSpec(name, value))

    def _state_input(self, node: Node, spec: InputSpec) -> None:
        value = node.meta["val"]
        name = f"{STATE}{spec.target}"
        self.env[node] = self._placeholder(name, value)
        self.states.append((str(spec.target), self._tensor_spec(name, value)))

    def _tensor_spec(self, name: str, value: torch.Tensor) -> TensorSpec:
        spec = self.program.spec(name, value)
        assert isinstance(spec, TensorSpec)
        return spec

    def _placeholder(self, name: str, value: torch.Tensor) -> Node:
        node = self.graph.create_node("placeholder", identifier(name))
        node.target = node.name
        node.meta = {"val": value}
        return node

    def _weight(self, source: Node) -> Node:
        """The `get_attr` node of a lifted weight, made at its first use; tied weights share one."""
        _, tensor = self.pending[source]
        first = self.by_storage[_storage_key(tensor)]
        if first not in self.weight_nodes:
            target = _attribute(first)
            self.weights[target] = _own(tensor)
            node = self.graph.create_node("get_attr", target, name=identifier(target))
            node.meta = {"val": source.meta["val"]}
            self.weight_nodes[first] = node
        return self.weight_nodes[first]

    def _ties(self) -> dict[str, str]:
        """The other names of the weights that are used: export gives all uses to one of them."""
        first = ((name, self.by_storage[_storage_key(tensor)]) for name, tensor in self.pending.values())
        targets = {name: _attribute(f) for name, f in first if f in self.weight_nodes}
        return {name: target for name, target in targets.items() if name != target}

    def _lookup(self, source: Node) -> object:
        return self._weight(source) if source in self.pending else self.env[source]

    def _emit(
        self,
        op: object,
        args: tuple[object, ...],
        kwargs: dict[str, object] | None = None,
        *,
        value: object = None,
    ) -> Node:
        if isinstance(op, torch._ops.OpOverload):
            args, kwargs = canonical_arguments(op, args, kwargs or {})
        assert callable(op)
        name = (self.layer if value is not None else "") or call_name(op)
        node = self.graph.create_node("call_function", op, args, kwargs or {}, name=name)  # type: ignore[arg-type]  # fx's Argument
        value = infer_value(self.program, op, args, kwargs) if value is None else value
        node.meta = {"val": value, "origins": self.origins}
        return node

    def _call(self, node: Node) -> None:
        key = op_key(node.target)
        getitem = node.target is operator.getitem
        if key in DROPPED or (getitem and not node.users):
            return
        if not is_legal_target(node.target):
            raise TraceError(f"the model can't be traced{node_line(node)}: {key} is no tensor op")
        if is_mutating(node.target):
            raise TraceError(
                f"the model writes in place ({key}) in a way that can't be made functional{node_line(node)}: "
                "assign the result to a new name"
            )
        args = _mapped(node.args, self._lookup)
        kwargs = _mapped(dict(node.kwargs), self._lookup)
        assert isinstance(args, tuple) and isinstance(kwargs, dict)
        self.origins = (node_origin(node),)
        self.layer = self.node_names.layer(node)
        value = node.meta.get("val")
        if key in _BATCH_NORMS:
            self.env[node] = (self._batch_norm(key, args, value), None, None)
        elif getitem and isinstance(args[0], (tuple, list)):
            self.env[node] = args[0][args[1]]
        else:
            self.env[node] = canonical_call(self._emit, node.target, args, kwargs, value)

    def _batch_norm(self, key: str, args: tuple[object, ...], value: object) -> object:
        """The norm as the model called it, out of what decomposition made of it."""
        assert isinstance(value, (tuple, list))
        if key.endswith("no_stats"):
            x, weight, bias, training, momentum, eps = args
            given: tuple[object, ...] = (x, weight, bias, None, None, training, momentum, eps, False)
        else:
            x, weight, bias, mean, variance, momentum, eps = args
            given = (x, weight, bias, mean, variance, False, momentum, eps, False)
        return canonical_call(self._emit, torch.ops.aten.batch_norm.default, given, {}, value[0])

    def _finish(self) -> Program:
        results, states, written = self._results()
        if not states and not written and results and all(r is None for r in results):
            raise TraceError("the model returns no tensor: return what it computes")
        input_tree, output_tree = self.exported.call_spec.in_spec, self.exported.call_spec.out_spec
        assert input_tree is not None and output_tree is not None
        names = output_names(output_tree, {s.name for s in self.inputs})
        if self.states:
            input_tree = _with_keywords(input_tree, [s.name for _, s in self.states])
        becomes = {s.name: states[target] for target, s in self.states}
        for name, value in written.items():
            if name in becomes:
                raise TraceError(
                    f"the model writes to an input and a buffer that are both {name[len(STATE) :]!r}: rename one"
                )
            becomes[name] = value
        if becomes:
            output_tree = _with_results(output_tree, len(becomes))
            names += becomes
            results += becomes.values()
        outputs = tuple(self._output_spec(n, r) for n, r in zip(names, results, strict=True))
        self.graph.output(tuple(r for r in results if isinstance(r, Node)))
        self.graph.output_node().meta = {}
        inputs = (*self.inputs, *(s for _, s in self.states))
        self.program.signature = Signature(inputs, outputs, input_tree, output_tree, self.symbols)
        self.program.weights = self.weights
        self.program.ties = self._ties()
        return self.program

    def _results(self) -> tuple[list[object], dict[str, object], dict[str, object]]:
        """What the model returns, the new states by buffer, and what inputs become that it does not return."""
        returned = pytree.tree_leaves(self.source.output_node().args[0])
        results: list[object] = []
        states: dict[str, object] = {}
        written: dict[str, object] = {}
        signature = self.exported.graph_signature
        user = dict(zip(map(str, signature.user_inputs), self.names, strict=True))
        own = {s.arg.name for s in signature.output_specs if s.kind is OutputKind.USER_OUTPUT}
        for spec, value in zip(signature.output_specs, returned, strict=True):
            result = self._lookup(value) if isinstance(value, Node) else value
            if spec.kind is OutputKind.USER_OUTPUT:
                results.append(result)
            elif spec.kind is OutputKind.BUFFER_MUTATION:
                states[str(spec.target)] = result
            elif spec.kind is OutputKind.USER_INPUT_MUTATION and spec.arg.name not in own:
                written[f"{STATE}{user[str(spec.target)]}"] = result
        return results, states, written

    def _output_spec(self, name: str, result: object) -> Spec:
        if not isinstance(result, Node):
            assert result is None or isinstance(result, (int, float, bool, str))
            return ConstantSpec(name, result)
        value = result.meta["val"]
        if isinstance(value, torch.Tensor):
            return self._tensor_spec(name, value)
        kinds = {torch.SymFloat: "float", float: "float", torch.SymBool: "bool", bool: "bool"}
        return ScalarSpec(name, kinds.get(type(value), "int"))


def _mutated_buffers(exported: torch.export.ExportedProgram) -> set[str]:
    specs = exported.graph_signature.output_specs
    return {str(s.target) for s in specs if s.kind is OutputKind.BUFFER_MUTATION}


def _mapped(value: object, lookup: Callable[[Node], object]) -> object:
    """Arguments with their nodes looked up (a node may stand for a literal or a tuple)."""
    if isinstance(value, Node):
        return lookup(value)
    if isinstance(value, tuple):
        return tuple(_mapped(v, lookup) for v in value)
    if isinstance(value, list):
        return [_mapped(v, lookup) for v in value]
    if isinstance(value, dict):
        return {k: _mapped(v, lookup) for k, v in value.items()}
    return value


def _mode_of(graph: Graph) -> FakeTensorMode:
    for node in graph.nodes:
        for value in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(value, torch._subclasses.FakeTensor):
                return value.fake_mode
    return new_fake_mode()


def _empty_signature() -> Signature:
    return Signature((), (), pytree.tree_structure(((), {})), pytree.tree_structure(()))


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """An object of our own over the caller's memory; `requires_grad` stays, it changes which kernel runs."""
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _storage_key(tensor: torch.Tensor) -> object:
    if tensor.is_meta or tensor.numel() == 0 or tensor.layout is not torch.strided:
        return id(tensor)
    place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.device)
    return (*place, tensor.shape, tensor.stride(), tensor.dtype)


def _attribute(name: str) -> str:
    """The name under which a GraphModule can hold a weight: `code` and the like are its own."""
    first, dot, rest = name.partition(".")
    return f"{first}_{dot}{rest}" if first in _own_attributes() else name


@cache
def _own_attributes() -> frozenset[str]:
    graph = Graph()
    graph.output(())
    return frozenset(dir(GraphModule({}, graph)))


def _with_keywords(inputs: pytree.TreeSpec, names: list[str]) -> pytree.TreeSpec:
    """The tree of a call with further keyword arguments behind the model's own."""
    args, kwargs = pytree.tree_unflatten(list(range(inputs.num_leaves)), inputs)
    return pytree.tree_structure((args, {**kwargs, **dict.fromkeys(names, 0)}))


def _with_results(outputs: pytree.TreeSpec, count: int) -> pytree.TreeSpec:
    """The tree of a result with further ones behind the model's own."""
    result = pytree.tree_unflatten(list(range(outputs.num_leaves)), outputs)
    results = result if type(result) is tuple else (result,)
    return pytree.tree_structure((*results, *(0 for _ in range(count))))


def unlift(
    exported: torch.export.ExportedProgram,
    graph: Graph,
    *,
    names: tuple[str, ...] | None = None,
    axes: tuple[dict[int, Axis], ...] | None = None,
    state: bool = False,
) -> Program:
    """Makes the `Program` of a functional exported graph; buffers that it writes become inputs and outputs.

    Args:
        exported: whose signature and weights to read.
        graph: its graph, or a functional twin of it with the same placeholders and outputs.
        names: the inputs' names, one a leaf; by default the placeholders'.
        axes: the dynamic axes, one dict a leaf.
        state: whether training ops and random numbers may stay.

    Raises:
        TraceError: training, random, sparse or control-flow ops, an op that writes in place.
    """
    check_captured(graph, state=state)
    return _Unlift(exported, graph, names, axes).run()
