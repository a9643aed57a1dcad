"""`Program`: a functional ATen graph, its weights, its signature, its history.

The graph is a plain `torch.fx.Graph` in the form that docs/architecture.md describes; weights live beside it
in a table and are named by `get_attr` nodes. Copies share weights and fake values. The GraphModule, whose
code generation is dear on big graphs, is made when it is first asked for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import sympy
import torch
from torch._subclasses import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy.printers import PythonPrinter

from fxopt.errors import InputError
from fxopt.program.failure import RUN_ERRORS, run_problem
from fxopt.program.signature import Dim, ScalarSpec, Signature, TensorSpec

__all__ = ["COND", "Origin", "Program", "expect_program", "new_fake_mode", "origins_of"]


COND = "torch.cond"
"""The op of an origin: a `where` that picks the results of two branches."""


@dataclass(frozen=True)
class Origin:
    """Where a node comes from: the module's path, the user's file and line, the op that stood there."""

    module: str = ""
    file: str = ""
    line: int = 0
    op: str = ""

    def __str__(self) -> str:
        place = f"{self.file.rsplit('/', 1)[-1]}:{self.line}" if self.file else ""
        return " ".join(p for p in (place, self.module) if p) or self.op


def origins_of(node: Node) -> tuple[Origin, ...]:
    """The node's provenance, empty for inputs and weights."""
    origins = node.meta.get("origins", ())
    return tuple(o for o in origins if isinstance(o, Origin))


def new_fake_mode() -> FakeTensorMode:
    """A fresh mode with its own symbolic sizes."""
    return FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=False)


def expect_program(value: object, taker: str) -> "Program":
    """The value, which must be a program.

    Args:
        value: what was given.
        taker: what it was given to, for the message.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(value, Program):
        raise InputError(
            f"{taker} takes a Program, got a {type(value).__name__}; "
            "make one of a model with fxopt.trace(model, args)"
        )
    return value


class Program:
    """A traced model. Call it with the model's own arguments; it returns the model's own containers.

    Attributes:
        graph: functional ATen; edit it only through a `Rewriter`.
        weights: tensors by name, one entry a distinct tensor.
        ties: other names of entries of `weights`, for tied parameters.
        signature: inputs, outputs, dynamic sizes.
        history: the passes that made it, in order.
        symbol_names: names of the fake mode's symbols.
        fake_mode: the one mode of every `meta["val"]` in the graph.
        name: the model's class or file name, for reports.
        assumptions: what the model demands of its inputs' values, where it would raise and the program does not.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, torch.Tensor],
        signature: Signature,
        *,
        fake_mode: FakeTensorMode,
        ties: Mapping[str, str] | None = None,
        symbol_names: Mapping[sympy.Symbol, str] | None = None,
        history: tuple[str, ...] = (),
        name: str = "model",
    ) -> None:
        self.graph = graph
        self.weights = dict(weights)
        self.signature = signature
        self.fake_mode = fake_mode
        self.ties = dict(ties or {})
        self.symbol_names = dict(symbol_names or {})
        self.history = history
        self.name = name
        self.properties: frozenset[str] = frozenset()
        self.attached: dict[str, Mapping[str, object]] = {}
        """JSON data by property that hold for the graph as it is: a pass that changes it loses them with the property."""
        self.assumptions: tuple[str, ...] = ()
        self._module: GraphModule | None = None
        self._module_version = -1
        self.version = 0

    def touch(self) -> None:
        """Notes that the graph was edited, so that the generated module is made anew."""
        self.version += 1

    @property
    def graph_module(self) -> GraphModule:
        """The graph as a runnable module over the program's own weights."""
        if self._module is None or self._module_version != self.version:
            self._module = GraphModule(
                dict(self.weights), self.graph, self.name if self.name.isidentifier() else "Program"
            )
            self._module_version = self.version
        return self._module

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Runs the program on the model's own arguments, without gradients.

        Raises:
            InputError: the arguments do not fit the signature, or an op does not take their sizes or values.
        """
        return self.signature.unflatten_outputs(self.attempt(self.signature.flatten_inputs(args, kwargs)))

    def attempt(self, tensors: list[torch.Tensor]) -> list[object]:
        """`run_flat` of a call that the signature takes.

        Raises:
            InputError: an op does not take its sizes or values.
        """
        try:
            return self.run_flat(tensors)
        except RUN_ERRORS as error:
            raise run_problem(f"the program {self.name}", self.signature, tensors, error) from error

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """Runs on the tensors of `signature.tensor_inputs`; returns the computed outputs in order."""
        # Not by calling the module: fx would print a failure's place in its generated code.
        with torch.no_grad():
            return list(self.graph_module.forward(*tensors))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Weights by name, tied names included (the same tensor under each)."""
        state = dict(self.weights)
        for alias, name in self.ties.items():
            if name in state:
                state[alias] = state[name]
        return state

    def placeholders(self) -> list[Node]:
        """The tensor inputs' nodes."""
        return [n for n in self.graph.nodes if n.op == "placeholder"]

    def weight_nodes(self) -> list[Node]:
        """The `get_attr` nodes."""
        return [n for n in self.graph.nodes if n.op == "get_attr"]

    def output_nodes(self) -> list[object]:
        """What the program returns, flat: nodes."""
        output = self.graph.output_node()
        returned = output.args[0]
        assert isinstance(returned, tuple)
        return list(returned)

    def calls(self) -> Iterator[Node]:
        """The `call_function` nodes in order."""
        return (n for n in self.graph.nodes if n.op == "call_function")

    def copy(self) -> "Program":
        """An independent graph over the same weights and fake values."""
        graph = Graph()
        mapping: dict[Node, Node] = {}
        for node in self.graph.nodes:
            mapping[node] = graph.node_copy(node, lambda n: mapping[n])
            mapping[node].name = node.name
        twin = Program(
            graph,
            self.weights,
            self.signature,
            fake_mode=self.fake_mode,
            ties=self.ties,
            symbol_names=self.symbol_names,
            history=self.history,
            name=self.name,
        )
        twin.properties, twin.attached = self.properties, dict(self.attached)
        twin.assumptions = self.assumptions
        return twin

    def to(self, device: str | torch.device) -> "Program":
        """The same program on another device: weights, inputs, and whatever the graph makes.

        Raises:
            InputError: the device is not on this machine.
        """
        from fxopt.program.devices import moved  # which makes programs

        return moved(self, device)

    def dim(self, size: object) -> Dim:
        """A size in the user's terms: a number, or an expression over the names of dynamic dimensions."""
        if isinstance(size, torch.SymInt):
            expression = size.node.expr
            if expression.is_number:
                return int(expression)
            names = {
                s: sympy.Symbol(self.symbol_names.get(s, str(s)), integer=True)
                for s in expression.free_symbols
            }
            return str(PythonPrinter().doprint(expression.xreplace(names)))
        return int(size)  # type: ignore[call-overload, no-any-return]

    def spec(self, name: str, value: object) -> TensorSpec | ScalarSpec:
        """What a value of the graph is as an input or output of that name."""
        if not isinstance(value, torch.Tensor):
            return ScalarSpec(name)
        return TensorSpec(name, value.dtype, tuple(map(self.dim, value.shape)), str(value.device))

    def __str__(self) -> str:
        from fxopt.program.text import program_text

        return program_text(self)

    def __repr__(self) -> str:
        inputs = ", ".join(map(str, self.signature.inputs))
        calls = sum(1 for _ in self.calls())
        return f"<Program {self.name}({inputs}), {calls} ops, {len(self.weights)} weights>"

    def diff(self, other: "Program") -> str:
        """A unified text diff from this program to `other`, by structure; empty if they are the same."""
        from fxopt.program.diff import program_diff

        return program_diff(self, other)

    def save(self, path: str) -> None:
        """Writes a `.fxopt` file: JSON graph, safetensors weights, hashes; never pickle.

        Raises:
            ArtifactError: wrong suffix or the file can't be written.
        """
        from fxopt.program.file import save_program

        save_program(self, path)

    def exported_program(self) -> torch.export.ExportedProgram:
        """The program as a `torch.export.ExportedProgram`: the way to AOTInductor, ExecuTorch and others."""
        from fxopt.program.exported import to_exported_program

        return to_exported_program(self)
