"""The stages of a plan as programs: each takes what the one before it returns, and holds its own weights.

The first takes the model's arguments, the last returns the model's results. What a later stage needs is passed on by
those between. Sizes are read anew in each stage; where none of its inputs has one, an empty tensor of that size is
passed on with the rest.

Stages side by side take what they need from where it is made: from the model's arguments, also where they need a size of one,
and from other stages. `Wires` says what goes where.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import sympy
import torch
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from fxopt.errors import InputError
from fxopt.json_data import JsonData
from fxopt.ops import canonical_arguments
from fxopt.passes.partition._pieces import is_size
from fxopt.program import (
    Origin,
    Program,
    Signature,
    infer_value,
    origins_of,
)
from fxopt.rewriting.sizes import NoSize, size_node

__all__ = ["Wires", "stage_programs", "wired_programs"]

_EMPTY = torch.ops.aten.full.default


def stage_programs(program: Program, stage_of: Mapping[Node, int], count: int) -> list[Program]:
    """One program a stage.

    Args:
        program: stays as it is; the stages share its weights.
        stage_of: the stage of each call that makes a tensor.
        count: of stages.

    Raises:
        InputError: a size that a later stage needs is no size of any input.
    """
    cut = _Cut(program, stage_of, count)
    made: list[Program] = []
    for stage in range(count):
        made.append(_Stage(cut, stage, made[-1] if made else None).run())
    return made


@dataclass(frozen=True)
class Wires(JsonData):
    """What stages side by side take, and what is returned: by the stage that makes it, and its place among what that returns.

    Attributes:
        taken: by stage; stage -1 stands for the model's arguments.
        returned: the model's results.
    """

    taken: tuple[tuple[tuple[int, int], ...], ...]
    returned: tuple[tuple[int, int], ...]


def wired_programs(program: Program, stage_of: Mapping[Node, int], count: int) -> tuple[list[Program], Wires]:
    """One program a stage, each of which takes what it needs from where that is made.

    Args:
        program: stays as it is; the stages share its weights.
        stage_of: the stage of each call that makes a tensor.
        count: of stages.

    Raises:
        InputError: a size that a stage needs is no size of any input.
    """
    cut = _SideBySide(program, stage_of, count)
    return [_Stage(cut, stage, None).run() for stage in range(count)], cut.wires()


class _Cut:
    """Which tensors and sizes cross which boundary."""

    def __init__(self, program: Program, stage_of: Mapping[Node, int], count: int) -> None:
        self.program, self.stage_of, self.count = program, stage_of, count
        self.outputs = [n for n in program.output_nodes() if isinstance(n, Node)]
        self.last: int | None = count - 1
        """Which stage returns the model's results."""
        self.first: int | None = 0
        """Which takes the model's arguments."""
        self._cross()

    def _cross(self) -> None:
        count, program, stage_of = self.count, self.program, self.stage_of
        self.crossing: list[list[Node]] = [[] for _ in range(count)]
        self.sizes: list[list[sympy.Symbol]] = [[] for _ in range(count)]
        for node in program.graph.nodes:
            if node.op == "placeholder" or node in stage_of:
                for boundary in range(stage_of.get(node, 0), self._last_use(node)):
                    self.crossing[boundary].append(node)
        self._carry_sizes()

    def _last_use(self, node: Node) -> int:
        if not isinstance(node.meta["val"], torch.Tensor):
            return 0
        stages = [self.stage_of[u] for u in node.users if u in self.stage_of]
        return max([*stages, self.count - 1 if node in self.outputs else 0])

    def _carry_sizes(self) -> None:
        """Backwards: what a stage reads or passes on, and has from no tensor, comes from the stage before."""
        wanted: set[sympy.Symbol] = set()
        for stage in range(self.count - 1, 0, -1):
            wanted |= {s for n in self.calls(stage) for s in _symbols(n)}
            crossing = self.crossing[stage - 1]
            wanted |= {s for n in crossing for s in _symbols(n)}
            wanted -= {d for n in crossing for d in _dimensions(n)}
            self.sizes[stage - 1] = sorted(wanted, key=str)

    def calls(self, stage: int) -> list[Node]:
        """What a stage runs, the outputs of the last one that are numbers included."""
        found = [n for n in self.program.calls() if self.stage_of.get(n) == stage]
        return found + ([n for n in self.outputs if is_size(n)] if stage == self.last else [])

    def taken(self, stage: int) -> list[Node]:
        """The tensors that a stage takes."""
        return self.program.placeholders() if stage == self.first else self.crossing[stage - 1]

    def returned(self, stage: int) -> list[Node]:
        """What a stage returns, sizes left out."""
        return self.outputs if stage == self.last else self.crossing[stage]


class _SideBySide(_Cut):
    """What goes from each stage to others, whichever they are."""

    def _cross(self) -> None:
        self.first = self.last = None
        self.sizes = [[] for _ in range(self.count)]
        where = self.stage_of
        self.made = [
            [n for n in self._made_in(k) if n in self.outputs or any(where.get(u, k) != k for u in n.users)]
            for k in range(self.count)
        ]

    def _made_in(self, stage: int) -> list[Node]:
        """What a stage makes; results that are numbers from sizes, or weights, are the first one's."""
        at_hand = [n for n in dict.fromkeys(self.outputs) if n not in self.stage_of and n.op != "placeholder"]
        made = [n for n in self.program.calls() if self.stage_of.get(n) == stage]
        return made + (at_hand if stage == 0 else [])

    def calls(self, stage: int) -> list[Node]:
        """What a stage runs, in the first the results that are numbers included."""
        return [n for n in self._made_in(stage) if n.op == "call_function"]

    def taken(self, stage: int) -> list[Node]:
        """The tensors that a stage takes: those that it reads, and arguments of the model with its sizes."""
        calls = self.calls(stage)
        read = {s for n in calls for s in n.all_input_nodes}
        wanted = {s for n in calls for s in _symbols(n)}
        found: list[Node] = []
        for node in self.program.graph.nodes:
            other = node.op == "placeholder" or self.stage_of.get(node, stage) != stage
            if other and node in read and isinstance(node.meta["val"], torch.Tensor):
                found.append(node)
        wanted -= {d for n in found for d in _dimensions(n)}
        for node in self.program.placeholders():
            if node not in found and wanted & _symbols(node):
                found.append(node)
                wanted -= _dimensions(node)
        return found

    def returned(self, stage: int) -> list[Node]:
        """What others read, and results of the model."""
        return self.made[stage]

    def wires(self) -> Wires:
        """What goes where."""
        place = {n: (-1, i) for i, n in enumerate(self.program.placeholders())}
        place |= {n: (k, i) for k, made in enumerate(self.made) for i, n in enumerate(made)}
        taken = tuple(tuple(place[n] for n in self.taken(k)) for k in range(self.count))
        return Wires(taken, tuple(place[n] for n in self.outputs))


def _dimensions(node: Node) -> set[sympy.Expr]:
    """A tensor's sizes that can be read of it."""
    return {d.node.expr for d in node.meta["val"].shape if isinstance(d, torch.SymInt)}


def _symbols(node: Node) -> set[sympy.Symbol]:
    """The symbols of a call's sizes and arguments."""
    values = [node.meta["val"], *(n.meta.get("val") for n in node.all_input_nodes if is_size(n))]
    found: set[sympy.Symbol] = set()
    for value in pytree.tree_leaves(values):
        for size in value.shape if isinstance(value, torch.Tensor) else [value]:
            if isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)):
                found |= size.node.expr.free_symbols
    return found


class _Stage:
    """Builds one stage."""

    def __init__(self, cut: _Cut, stage: int, before: Program | None) -> None:
        self.cut, self.stage, self.before = cut, stage, before
        self.program = cut.program
        self.graph = Graph()
        self.twins: dict[Node, object] = {}
        self.carried: dict[sympy.Symbol, Node] = {}
        self.inputs: list[Node] = []
        self.weights: dict[str, torch.Tensor] = {}
        self.numbers: dict[object, object] = {}
        self.source: tuple[Origin, ...] = ()
        """Where the call comes from for which sizes are read."""

    def run(self) -> Program:
        self._take_inputs()
        for node in self.cut.calls(self.stage):
            self.source = origins_of(node)
            self.twins[node] = self._number(node) if is_size(node) else self._copy(node)
        returned = self._returned()
        self.graph.output(tuple(returned))  # type: ignore[arg-type]
        self.graph.output_node().meta = {}
        made = Program(
            self.graph,
            self.weights,
            self._signature(returned),
            fake_mode=self.program.fake_mode,
            symbol_names=self.program.symbol_names,
            history=self.program.history,
            name=f"{self.program.name}_stage{self.stage}",
        )
        made.properties = self.program.properties - self.program.attached.keys()
        return made

    def _take_inputs(self) -> None:
        for node in self.cut.taken(self.stage):
            self.twins[node] = self._input(node.name, node.meta["val"])
        for symbol in self.cut.sizes[self.stage - 1] if self.stage else []:
            name = self.program.symbol_names.get(symbol, str(symbol))
            self.carried[symbol] = self._input(f"size_{name}", self._carrier(symbol).meta["val"])

    def _input(self, name: str, value: object) -> Node:
        node = self.graph.placeholder(name)
        node.name, node.meta = name, {"val": value}
        self.inputs.append(node)
        return node

    def _carrier(self, symbol: sympy.Symbol) -> Node:
        """In the stage before, the empty tensor that has a size."""
        assert self.before is not None
        place = len(self.cut.crossing[self.stage - 1]) + self.cut.sizes[self.stage - 1].index(symbol)
        node = self.before.output_nodes()[place]
        assert isinstance(node, Node)
        return node

    def _copy(self, node: Node) -> Node:
        for weight in node.all_input_nodes:
            if weight.op == "get_attr" and weight not in self.twins:
                self.weights[str(weight.target)] = self.program.weights[str(weight.target)]
                twin = self.graph.get_attr(str(weight.target))
                twin.name, twin.meta = weight.name, dict(weight.meta)
                self.twins[weight] = twin
            elif weight.op == "call_function" and is_size(weight) and weight not in self.twins:
                self.twins[weight] = self._number(weight)
        twin = self.graph.node_copy(node, self.twins.__getitem__)  # type: ignore[arg-type]
        twin.name = node.name
        return twin

    def _number(self, node: Node) -> object:
        """A number from the sizes that this stage can read."""
        value = node.meta["val"]
        if isinstance(value, torch.SymInt):
            return self._size(value.node.expr)
        for source in node.all_input_nodes:
            self.twins.setdefault(source, self._number(source))
        twin = self.graph.node_copy(node, self.twins.__getitem__)  # type: ignore[arg-type]
        twin.name = node.name
        return twin

    def _size(self, expression: sympy.Expr) -> object:
        if expression not in self.numbers:
            try:
                self.numbers[expression] = size_node(self._call, expression, self.inputs)
            except NoSize as error:
                raise InputError(f"stage {self.stage} of {self.program.name}: {error}") from error
        return self.numbers[expression]

    def _call(self, op: Callable[..., object], *args: object, **kwargs: object) -> Node:
        value = infer_value(self.program, op, args, kwargs)
        if isinstance(op, torch._ops.OpOverload):
            args, kwargs = canonical_arguments(op, args, kwargs)
        node = self.graph.call_function(op, args, kwargs)  # type: ignore[arg-type]
        node.meta = {"val": value, "origins": self.source}
        return node

    def _returned(self) -> list[object]:
        passed = [
            self.twins[n] if n in self.twins else self._weight_output(n)
            for n in self.cut.returned(self.stage)
        ]
        return (
            passed
            if self.stage == self.cut.last
            else passed + [self._empty(s) for s in self.cut.sizes[self.stage]]
        )

    def _weight_output(self, node: Node) -> Node:
        self.weights[str(node.target)] = self.program.weights[str(node.target)]
        twin = self.graph.get_attr(str(node.target))
        twin.name, twin.meta = node.name, dict(node.meta)
        return twin

    def _empty(self, symbol: sympy.Symbol) -> Node:
        if symbol not in self.carried:
            self.carried[symbol] = self._call(_EMPTY, [self._size(symbol), 0], 0.0, dtype=torch.float32)
        return self.carried[symbol]

    def _signature(self, returned: Sequence[object]) -> Signature:
        whole = self.program.signature
        first, last = self.stage == self.cut.first, self.stage == self.cut.last
        inputs = (
            whole.inputs if first else tuple(self.program.spec(n.name, n.meta["val"]) for n in self.inputs)
        )
        outputs = (
            whole.outputs
            if last
            else tuple(
                self.program.spec(f"output_{i}", n.meta["val"])
                for i, n in enumerate(returned)
                if isinstance(n, Node)
            )
        )
        flat_in = pytree.tree_structure((inputs, {}))
        flat_out = pytree.tree_structure(outputs)
        return Signature(
            inputs,
            outputs,
            whole.input_tree if first else flat_in,
            whole.output_tree if last else flat_out,
            symbols=whole.symbols,
            arguments=whole.arguments if first else tuple(s.name for s in inputs),
            defaults=whole.defaults if first else {},
        )
