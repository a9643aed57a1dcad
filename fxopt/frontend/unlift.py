"""From an ExportedProgram to a `Program`: weights out of the inputs, canonical spelling, the user's names.

Un-lifting is done by hand over the export's signature: `ep.module()` would add guards as a call and mutate the caller's
weights. Ties are found by storage. Weights are shared with the caller, as objects of our own, so that nothing done to the
program's module (`half()`, `to()`) can reach the caller's.
"""

import builtins
import keyword
import re

import sympy
import torch
from torch.export.graph_signature import InputKind, InputSpec, OutputKind
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from fxopt.errors import TraceError
from fxopt.frontend.canonicalize import DROPPED, canonical_call
from fxopt.frontend.origins import node_line, node_origin
from fxopt.ops.canonical import canonical_arguments
from fxopt.ops.info import op_key
from fxopt.ops.schema import is_mutating, is_random
from fxopt.program.inference import infer_value
from fxopt.program.program import Origin, Program, new_fake_mode
from fxopt.program.signature import ConstantSpec, ScalarSpec, Signature, Spec, Symbol, TensorSpec

__all__ = ["unlift"]

_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


class _Unlift:
    """One conversion. `graph` is functional: the export's own, or what the functionaliser made of it."""

    def __init__(
        self,
        exported: torch.export.ExportedProgram,
        graph: Graph,
        names: list[str] | None,
        axes: list[dict[int, str]] | None,
        state: bool,
    ) -> None:
        self.exported, self.source, self.state = exported, graph, state
        self.names, self.axes = names, axes
        self.inputs: list[Spec] = []
        self.states: list[tuple[str, TensorSpec]] = []
        self.weights: dict[str, torch.Tensor] = {}
        self.ties: dict[str, str] = {}
        self.by_storage: dict[object, str] = {}
        self.weight_nodes: dict[str, Node] = {}
        self.pending: dict[Node, tuple[str, torch.Tensor]] = {}
        self.env: dict[Node, object] = {}
        self.symbols: dict[str, Symbol] = {}
        self.graph = Graph()
        self.origins: tuple[Origin, ...] = ()
        mode = _mode_of(graph)
        self.program = Program(self.graph, {}, _empty_signature(), fake_mode=mode)

    def run(self) -> Program:
        self._name_symbols()
        specs = {s.arg.name: s for s in self.exported.graph_signature.input_specs if hasattr(s.arg, "name")}
        mutated = self._mutated_buffers()
        user = iter(range(len(self.exported.graph_signature.input_specs)))
        late: list[tuple[Node, InputSpec]] = []
        for node in self.source.nodes:
            if node.op != "placeholder":
                continue
            spec = specs[node.name]
            if spec.kind is InputKind.USER_INPUT:
                self._user_input(node, next(user))
            elif spec.target in mutated:
                late.append((node, spec))
            elif spec.kind in _WEIGHTS and spec.target is not None:
                self.pending[node] = (spec.target, self._tensor(spec))
            else:
                raise TraceError(f"the model takes {spec.kind.name.lower()} {spec.target!r}, which is no tensor or number")
        for node, spec in late:
            self._state_input(node, spec)
        for node in self.source.nodes:
            if node.op == "call_function":
                self._call(node)
            elif node.op == "get_attr":
                raise TraceError(f"the graph holds {node.target!r}, which is no tensor{node_line(node)}")
        return self._finish()

    def _mutated_buffers(self) -> set[str]:
        kinds = (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION)
        found = set()
        for spec in self.exported.graph_signature.output_specs:
            if spec.kind in kinds and spec.target is not None:
                if spec.kind is OutputKind.USER_INPUT_MUTATION:
                    raise TraceError(f"the model writes into its input {spec.target!r}; work on a copy (x = x.clone())")
                if not self.state:
                    raise TraceError(
                        f"the model writes to its buffer {spec.target!r}; pass state=True to make it an input and output, "
                        "or do not write to it in eval mode"
                    )
                found.add(spec.target)
        return found

    def _name_symbols(self) -> None:
        """Names the sizes as the user did; what has no name gets its input's and axis's."""
        user = [s.arg.name for s in self.exported.graph_signature.input_specs if s.kind is InputKind.USER_INPUT and hasattr(s.arg, "name")]
        values = {n.name: n.meta.get("val") for n in self.source.nodes if n.op == "placeholder"}
        ranges = self.exported.range_constraints
        leaves = [s for s in self.exported.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
        for i, leaf in enumerate(leaves):
            value = values.get(getattr(leaf.arg, "name", ""))
            if not isinstance(value, torch.Tensor):
                continue
            name = self.names[i] if self.names else user[i]
            for axis, size in enumerate(value.shape):
                given = self.axes[i].get(axis) if self.axes else None
                self._name_symbol(size, given, f"{name}_{axis}", name, axis, ranges)

    def _name_symbol(
        self, size: int | torch.SymInt, given: str | None, otherwise: str, leaf: str, axis: int, ranges: dict[sympy.Symbol, object]
    ) -> None:
        expression = size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)
        if isinstance(expression, sympy.Symbol):
            if expression not in self.program.symbol_names:
                name = _identifier(given or otherwise)
                self.program.symbol_names[expression] = name
                self.symbols[name] = _symbol(name, ranges.get(expression), self.symbols.get(name))
        elif given is not None and expression.is_number and not given.startswith(f"{leaf}_{axis}"):
            raise TraceError(f"the dynamic size {given!r} of input {leaf!r} was fixed at {expression} while tracing; make the model use x.shape")

    def _tensor(self, spec: InputSpec) -> torch.Tensor:
        state, constants = self.exported.state_dict, self.exported.constants
        tensor = state.get(spec.target) if spec.target in state else constants.get(spec.target)  # type: ignore[arg-type]
        if not isinstance(tensor, torch.Tensor):
            raise TraceError(f"the weight {spec.target!r} is {type(tensor).__name__}, not a tensor")
        return tensor

    def _user_input(self, node: Node, i: int) -> None:
        name = self.names[i] if self.names else node.name
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            self.env[node] = self._placeholder(name, value)
            shape = tuple(self.program.dim(d) for d in value.shape)
            self.inputs.append(TensorSpec(name, value.dtype, shape, str(value.device)))
        elif isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            raise TraceError(f"input {name!r} is a number given as dynamic; numbers are fixed when traced, pass a tensor")
        else:
            self.env[node] = value
            self.inputs.append(ConstantSpec(name, value))

    def _state_input(self, node: Node, spec: InputSpec) -> None:
        name = f"state.{spec.target}"
        value = node.meta["val"]
        self.env[node] = self._placeholder(name, value)
        self.states.append((str(spec.target), TensorSpec(name, value.dtype, tuple(self.program.dim(d) for d in value.shape), str(value.device))))

    def _placeholder(self, name: str, value: torch.Tensor) -> Node:
        node = self.graph.create_node("placeholder", _identifier(name))
        node.name = _identifier(name)
        node.meta = {"val": value}
        return node

    def _weight(self, source: Node) -> Node:
        """The `get_attr` node of a lifted weight, made at its first use; tied weights share one."""
        name, tensor = self.pending[source]
        key = _storage_key(tensor)
        first = self.by_storage.setdefault(key, name)
        if first != name:
            self.ties.setdefault(name, first)
        if first not in self.weight_nodes:
            self.weights[first] = _own(tensor)
            node = self.graph.create_node("get_attr", first, name=_identifier(first))
            node.meta = {"val": source.meta["val"]}
            self.weight_nodes[first] = node
        return self.weight_nodes[first]

    def _lookup(self, source: Node) -> object:
        return self._weight(source) if source in self.pending else self.env[source]

    def _emit(
        self, op: object, args: tuple[object, ...], kwargs: dict[str, object] | None = None, *, value: object = None
    ) -> Node:
        if isinstance(op, torch._ops.OpOverload):
            args, kwargs = canonical_arguments(op, args, kwargs or {})
        name = op_key(op).split(".")[1] if isinstance(op, torch._ops.OpOverload) else getattr(op, "__name__", "call")
        node = self.graph.create_node("call_function", op, args, kwargs or {}, name=name)  # type: ignore[arg-type]
        node.meta = {"val": infer_value(self.program, op, args, kwargs) if value is None else value, "origins": self.origins}
        return node

    def _call(self, node: Node) -> None:
        _check_call(node)
        key = op_key(node.target)
        if key in DROPPED:
            return
        args = _mapped(node.args, self._lookup)
        kwargs = _mapped(dict(node.kwargs), self._lookup)
        assert isinstance(args, tuple) and isinstance(kwargs, dict)
        self.origins = (node_origin(node),)
        if key == "aten._native_batch_norm_legit_no_training.default":
            self.env[node] = (self._batch_norm(node, args), None, None)
        elif getattr(node.target, "__name__", "") == "getitem" and isinstance(args[0], (tuple, list)):
            self.env[node] = args[0][args[1]]
        else:
            self.env[node] = canonical_call(self._emit, node.target, args, kwargs, node.meta.get("val"))

    def _batch_norm(self, node: Node, args: tuple[object, ...]) -> Node:
        x, weight, bias, mean, var, momentum, eps = args
        value = node.meta["val"][0]
        return self._emit(
            torch.ops.aten.batch_norm.default, (x, weight, bias, mean, var, False, momentum, eps, False), value=value
        )

    def _finish(self) -> Program:
        output = next(n for n in self.source.nodes if n.op == "output")
        returned = [r for r in pytree.tree_leaves(output.args[0], is_leaf=lambda v: v is None)]
        results: list[object] = []
        states: dict[str, object] = {}
        for spec, value in zip(self.exported.graph_signature.output_specs, returned, strict=True):
            result = self._lookup(value) if isinstance(value, Node) else value
            if spec.kind is OutputKind.USER_OUTPUT:
                results.append(result)
            elif spec.kind is OutputKind.BUFFER_MUTATION:
                states[str(spec.target)] = result
        input_tree, output_tree = self.exported.call_spec.in_spec, self.exported.call_spec.out_spec
        assert input_tree is not None and output_tree is not None
        names = _output_names(output_tree, {s.name for s in self.inputs})
        if self.states:
            input_tree, output_tree = _with_states(input_tree, output_tree, [s.name for _, s in self.states])
            names += [f"state.{t}" for t, _ in self.states]
            results += [states[t] for t, _ in self.states]
        outputs = tuple(self._output_spec(n, r) for n, r in zip(names, results, strict=True))
        nodes = tuple(self._as_node(r) for r, s in zip(results, outputs, strict=True) if not isinstance(s, ConstantSpec))
        self.graph.output(nodes)
        self.graph.output_node().meta = {}
        signature = Signature(
            (*self.inputs, *(s for _, s in self.states)), outputs, input_tree, output_tree, self.symbols
        )
        self.program.signature = signature
        self.program.weights = self.weights
        self.program.ties = self.ties
        return self.program

    def _as_node(self, result: object) -> Node:
        assert isinstance(result, Node)
        return result

    def _output_spec(self, name: str, result: object) -> Spec:
        if not isinstance(result, Node):
            return ConstantSpec(name, result)  # type: ignore[arg-type]
        value = result.meta["val"]
        if isinstance(value, torch.Tensor):
            return TensorSpec(name, value.dtype, tuple(self.program.dim(d) for d in value.shape), str(value.device))
        kind = {torch.SymFloat: "float", float: "float", torch.SymBool: "bool", bool: "bool"}.get(type(value), "int")
        return ScalarSpec(name, kind)


def _mapped(value: object, lookup: object) -> object:
    """Arguments with their nodes looked up (a node may stand for a literal or a tuple)."""
    if isinstance(value, Node):
        return lookup(value)  # type: ignore[operator]
    if isinstance(value, tuple):
        return tuple(_mapped(v, lookup) for v in value)
    if isinstance(value, list):
        return [_mapped(v, lookup) for v in value]
    if isinstance(value, dict):
        return {k: _mapped(v, lookup) for k, v in value.items()}
    return value


def _check_call(node: Node) -> None:
    """Refuses what has no place in an inference graph, with the user's line."""
    where = node_line(node)
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        raise TraceError(f"control flow ({node.target}) can't be traced{where}: use torch.where, or trace the branches apart")
    bound = dict(zip((a.name for a in node.target._schema.arguments), node.args)) if isinstance(node.target, torch._ops.OpOverload) else {}
    bound |= node.kwargs
    if bound.get("train") is True or bound.get("training") is True:
        raise TraceError(f"the graph holds the training op {op_key(node.target)}{where}: export the model in eval mode (model.eval())")
    if is_random(node):
        raise TraceError(f"the model draws random numbers ({op_key(node.target)}){where}: make them an input")
    if is_mutating(node.target):
        raise TraceError(f"the model writes in place ({op_key(node.target)}) in a way that can't be made functional{where}: assign the result to a new name")
    values = node.meta.get("val")
    for value in values if isinstance(values, (list, tuple)) else (values,):
        if isinstance(value, torch.Tensor) and value.is_complex():
            raise TraceError(f"{op_key(node.target)} makes a {value.dtype} tensor{where}: complex numbers are not supported, use real and imaginary parts")


def _mode_of(graph: Graph) -> torch._subclasses.FakeTensorMode:
    for node in graph.nodes:
        for value in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(value, torch._subclasses.FakeTensor):
                return value.fake_mode
    return new_fake_mode()


def _empty_signature() -> Signature:
    leaf = pytree.tree_structure(((), {}))
    return Signature((), (), leaf, pytree.tree_structure(()))


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """An object of our own over the caller's memory; `requires_grad` is kept, it changes which kernel runs."""
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
    return tensor.detach()


def _storage_key(tensor: torch.Tensor) -> object:
    if tensor.is_meta or tensor.numel() == 0 or tensor.layout is not torch.strided:
        return id(tensor)
    return (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def _identifier(name: str) -> str:
    """A Python identifier for a name, no keyword, no builtin."""
    text = re.sub(r"\W", "_", name)
    if not text or text[0].isdigit():
        text = f"_{text}"
    return f"{text}_" if keyword.iskeyword(text) or hasattr(builtins, text) else text


def _symbol(name: str, bounds: object, known: Symbol | None) -> Symbol:
    """A symbol's range; export's lower bound of 2 is no guard, so it counts as 0."""
    lowest, highest = getattr(bounds, "lower", None), getattr(bounds, "upper", None)
    lower = int(lowest) if isinstance(lowest, (int, sympy.Integer)) else 0
    upper = int(highest) if isinstance(highest, (int, sympy.Integer)) and int(highest) < 2**31 else None
    low = 0 if lower <= 2 else lower
    if known is not None:
        low = max(low, known.min)
        upper = min((u for u in (upper, known.max) if u is not None), default=None)
    return Symbol(name, low, upper)


def _output_names(tree: pytree.TreeSpec, taken: set[str]) -> list[str]:
    """`output`, `output_1`, or the keys of dicts and fields of classes; never an input's name."""
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(tree.num_leaves)), tree))
    names: list[str] = []
    used = set(taken)
    for path, _ in paths:
        parts = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", "")))) for k in path]
        name = "_".join(parts) if parts and not parts[0].isdigit() else "_".join(["output", *parts])
        unique, i = name, 0
        while unique in used:
            unique, i = f"{name}_out{i or ''}", i + 1
        used.add(unique)
        names.append(unique)
    return names


def _with_states(
    inputs: pytree.TreeSpec, outputs: pytree.TreeSpec, names: list[str]
) -> tuple[pytree.TreeSpec, pytree.TreeSpec]:
    """The trees with the states behind the model's own: as keyword arguments, and as further results."""
    args, kwargs = pytree.tree_unflatten(list(range(inputs.num_leaves)), inputs)
    result = pytree.tree_unflatten(list(range(outputs.num_leaves)), outputs)
    results = result if isinstance(result, tuple) else (result,)
    return (
        pytree.tree_structure((args, {**kwargs, **dict.fromkeys(names, 0)})),
        pytree.tree_structure((*results, *(0 for _ in names))),
    )


def unlift(
    exported: torch.export.ExportedProgram,
    graph: Graph,
    *,
    names: list[str] | None = None,
    axes: list[dict[int, str]] | None = None,
    state: bool = False,
) -> Program:
    """Makes the `Program` of a functional exported graph.

    Args:
        exported: whose signature and weights to read.
        graph: its graph, or a functional twin of it with the same placeholders and outputs.
        names: the inputs' names, one a leaf; by default the placeholders'.
        axes: the names of dynamic axes, one dict a leaf.
        state: whether mutated buffers become inputs and outputs.

    Raises:
        TraceError: training, random, complex or control-flow ops, or state that is written without `state`.
    """
    return _Unlift(exported, graph, names, axes, state).run()
