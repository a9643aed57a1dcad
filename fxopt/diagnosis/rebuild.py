"""`rebuild`: a program made anew with something smaller in it, or None where that is no valid program.

One walk over what the outputs need; every value is inferred again where something before it changed.

>>> import torch
>>> from fxopt.frontend import trace
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Tanh()).eval()
>>> program = trace(model, (torch.zeros(3, 4),))
>>> relu = list(program.calls())[1]
>>> smaller = rebuild(program, Edit(outputs=(relu,), inputs=frozenset(relu.all_input_nodes)))
>>> [n.name for n in smaller.calls()], [str(s) for s in smaller.signature.inputs]
(['relu'], ['linear: f32[3, 4]'])
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from fxopt.dialect import violations
from fxopt.errors import FxoptError
from fxopt.ops import canonical_arguments
from fxopt.program import (
    Program,
    ScalarSpec,
    Signature,
    TensorSpec,
    evaluate_dim,
    fake_value,
    infer_value,
)
from fxopt.rewriting.quiet import quiet
from fxopt.verification.arguments import with_values
from fxopt.verification.sizes import dynamic_symbols

__all__ = ["Edit", "Size", "rebuild"]

Size = int | torch.SymInt


@dataclass(frozen=True)
class Edit:
    """What is different in the new program.

    Attributes:
        outputs: the nodes that it returns; None: as before.
        inputs: calls and weights that become inputs.
        aliases: nodes whose uses become uses of another, earlier node.
        weights: other tensors by name.
        shapes: other sizes of inputs.
        literal: applied to every integer among the calls' literal arguments .
    """

    outputs: tuple[Node, ...] | None = None
    inputs: frozenset[Node] = frozenset()
    aliases: Mapping[Node, Node] = field(default_factory=dict)
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    shapes: Mapping[Node, tuple[Size, ...]] = field(default_factory=dict)
    literal: Callable[[int], int] | None = None


class _Unfit(Exception):
    """The edit gives no valid program."""


def rebuild(program: Program, edit: Edit) -> Program | None:
    """The program with an edit made; None where an op does not take what it would get.

    Inputs that nothing uses any more go, and so do constants among the inputs; the arguments are flat tensors,
    the outputs a tuple of several.
    """
    try:
        made = _Rebuild(program, edit).run()
        return made if next(violations(made, values=True), None) is None else None
    except (_Unfit, FxoptError):
        return None


class _Rebuild:
    def __init__(self, program: Program, edit: Edit) -> None:
        self.program, self.edit = program, edit
        self.graph = Graph()
        self.twins: dict[Node, object] = {}
        """New nodes, and plain numbers where a size is none any more."""
        self.specs: list[TensorSpec] = []
        self.weights: dict[str, torch.Tensor] = {}
        old = [n for n in program.output_nodes() if isinstance(n, Node)]
        self.outputs = list(dict.fromkeys(map(self._real, edit.outputs if edit.outputs is not None else old)))
        self.given = dict(zip(program.placeholders(), program.signature.tensor_inputs, strict=True))

    def run(self) -> Program:
        needed = self._needed()
        for node in self.program.graph.nodes:
            if node in needed and (node in self.edit.inputs or node.op == "placeholder"):
                self.twins[node] = self._input(node)
        for node in self.program.graph.nodes:
            if node not in needed or node in self.twins:
                continue
            if node.op == "get_attr":
                self.twins[node] = self._weight(node)
            elif node.op == "call_function":
                self.twins[node] = self._call(node)
        return self._finished()

    def _real(self, node: Node) -> Node:
        while node in self.edit.aliases:
            node = self.edit.aliases[node]
        return node

    def _needed(self) -> set[Node]:
        needed: set[Node] = set()
        todo = list(self.outputs)
        while todo:
            node = self._real(todo.pop())
            if node not in needed:
                needed.add(node)
                if node not in self.edit.inputs:
                    todo += node.all_input_nodes
        return needed

    def _input(self, node: Node) -> Node:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            raise _Unfit
        shape = self.edit.shapes.get(node, tuple(value.shape))
        if node in self.edit.shapes:
            with self.program.fake_mode:
                value = torch.empty(shape, dtype=value.dtype, device=value.device)
        old = self.given.get(node)
        name = old.name if old is not None else node.name
        sizes = tuple(self.program.dim(d) for d in shape)
        low, high = (old.low, old.high) if old is not None else (None, None)
        self.specs.append(TensorSpec(name, value.dtype, sizes, str(value.device), low, high))
        twin = self.graph.placeholder(node.name)
        twin.name, twin.meta = node.name, {"val": value}
        return twin

    def _weight(self, node: Node) -> Node:
        name = str(node.target)
        tensor = self.edit.weights.get(name, self.program.weights[name])
        self.weights[name] = tensor
        twin = self.graph.get_attr(name)
        twin.name = node.name
        twin.meta = {
            **node.meta,
            "val": fake_value(self.program, tensor) if name in self.edit.weights else node.meta["val"],
        }
        return twin

    def _call(self, node: Node) -> object:
        args = tuple(self._argument(a) for a in node.args)
        kwargs = {k: self._argument(a) for k, a in node.kwargs.items()}
        try:
            with quiet():
                value = infer_value(self.program, node.target, args, kwargs)
            if isinstance(node.target, torch._ops.OpOverload):
                args, kwargs = canonical_arguments(node.target, args, kwargs)
        except Exception as error:  # whatever an op's shape function says to arguments that don't suit it
            raise _Unfit from error
        if isinstance(value, (bool, int, float)):
            return value
        twin = self.graph.create_node("call_function", node.target, args, kwargs)  # type: ignore[arg-type]
        twin.name, twin.meta = node.name, {**node.meta, "val": value}
        return twin

    def _argument(self, argument: object) -> object:
        changed = argument if self.edit.literal is None else _literals(argument, self.edit.literal)
        return with_values(changed, lambda n: self.twins[self._real(n)])

    def _finished(self) -> Program:
        returned = [self.twins[n] for n in self.outputs]
        nodes = [n for n in returned if isinstance(n, Node)]
        if not nodes or len(nodes) != len(returned):
            raise _Unfit
        self.graph.output(tuple(nodes))
        self.graph.output_node().meta = {}
        names = tuple(s.name for s in self.specs)
        signature = Signature(
            tuple(self.specs),
            tuple(self._output(n, i, len(nodes)) for i, n in enumerate(nodes)),
            pytree.tree_structure(((0,) * len(names), {})),
            pytree.tree_structure(0 if len(nodes) == 1 else (0,) * len(nodes)),
            arguments=names,
        )
        used = {s.name: s for s in dynamic_symbols(signature)}
        symbols = {n: self.program.signature.symbols.get(n, s) for n, s in used.items()}
        _check_sizes(self.specs, dict.fromkeys(symbols, 16))
        made = Program(
            self.graph,
            self.weights,
            Signature(**{**vars(signature), "symbols": symbols}),
            fake_mode=self.program.fake_mode,
            symbol_names=self.program.symbol_names,
            name=self.program.name,
        )
        made.properties = self.program.properties
        return made

    def _output(self, node: Node, index: int, count: int) -> TensorSpec | ScalarSpec:
        name = f"output_{index}" if count > 1 else "output"
        value = node.meta["val"]
        if not isinstance(value, (torch.Tensor, torch.SymInt, torch.SymFloat)):
            raise _Unfit
        return self.program.spec(name, value)


def _literals(argument: object, change: Callable[[int], int]) -> object:
    if isinstance(argument, int) and not isinstance(argument, bool):
        return change(argument)
    if isinstance(argument, (list, tuple)):
        return type(argument)(_literals(a, change) for a in argument)
    return argument


def _check_sizes(specs: list[TensorSpec], sizes: dict[str, int]) -> None:
    """Raises where an inner value that is to be an input has a size that can't be computed from the others."""
    for spec in specs:
        for dim in spec.shape:
            try:
                evaluate_dim(dim, sizes)
            except (KeyError, ValueError, ZeroDivisionError) as error:
                raise _Unfit from error
