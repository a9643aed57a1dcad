"""The way out: a `Program` as a `torch.export.ExportedProgram`, built by hand from the graph.

Exporting the program's module again would trace it (seconds); this lifts the weights into inputs and writes
the signature down (milliseconds). Dynamic sizes keep their ranges, nodes their module and line.

>>> from fxopt.frontend import trace
>>> model = torch.nn.Linear(4, 2).eval()
>>> program = trace(model, (torch.zeros(3, 4),), dynamic_shapes={"input": {0: "batch"}})
>>> exported = to_exported_program(program)
>>> exported.module()(torch.zeros(7, 4)).shape
torch.Size([7, 2])
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.export import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    SymBoolArgument,
    SymFloatArgument,
    SymIntArgument,
    TensorArgument,
)
from torch.fx import Graph, Node

from fxopt.program.program import Program, origins_of
from fxopt.program.signature import ConstantSpec, TensorSpec

__all__ = ["to_exported_program"]

_ArgumentKind = TensorArgument | SymIntArgument | SymFloatArgument | SymBoolArgument | ConstantArgument


class _Lifter:
    """Copies a program's graph into one whose weights are inputs."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = Graph()
        self.env: dict[Node, Node] = {}
        self.inputs: list[InputSpec] = []
        self.outputs: list[OutputSpec] = []

    def run(self) -> ExportedProgram:
        for node in self.program.weight_nodes():
            self._weight(node)
        self._user_inputs()
        for node in self.program.calls():
            copied = self.graph.node_copy(node, self.env.__getitem__)
            copied.meta = _export_meta(node)
            self.env[node] = copied
        self._user_outputs()
        return self._exported()

    def _placeholder(self, name: str, value: object) -> Node:
        node = self.graph.placeholder(name)
        node.meta = {"val": value}
        return node

    def _weight(self, node: Node) -> None:
        name = str(node.target)
        kind = (
            InputKind.PARAMETER if isinstance(self.program.weights[name], nn.Parameter) else InputKind.BUFFER
        )
        lifted = self._placeholder(
            f"{'p' if kind is InputKind.PARAMETER else 'b'}_{node.name}", node.meta["val"]
        )
        self.env[node] = lifted
        persistent = True if kind is InputKind.BUFFER else None
        self.inputs.append(InputSpec(kind, TensorArgument(lifted.name), name, persistent))

    def _user_inputs(self) -> None:
        nodes = iter(self.program.placeholders())
        for spec in self.program.signature.inputs:
            if isinstance(spec, TensorSpec):
                node = next(nodes)
                self.env[node] = self._placeholder(node.name, node.meta["val"])
                argument: _ArgumentKind = TensorArgument(self.env[node].name)
            else:
                assert isinstance(spec, ConstantSpec)
                argument = ConstantArgument(
                    self._placeholder(_identifier(spec.name), spec.value).name, spec.value
                )
            self.inputs.append(InputSpec(InputKind.USER_INPUT, argument, None))

    def _user_outputs(self) -> None:
        nodes = iter(self.program.output_nodes())
        returned: list[object] = []
        for spec in self.program.signature.outputs:
            if isinstance(spec, ConstantSpec):
                returned.append(spec.value)
                argument: _ArgumentKind = ConstantArgument("", spec.value)
            else:
                node = next(nodes)
                assert isinstance(node, Node)
                returned.append(self.env[node])
                argument = _argument(self.env[node])
            self.outputs.append(OutputSpec(OutputKind.USER_OUTPUT, argument, None))
        self.graph.output(tuple(returned)).meta = {"val": None}  # type: ignore[arg-type]  # nodes and literals

    def _exported(self) -> ExportedProgram:
        program, signature = self.program, self.program.signature
        used = {str(n.target) for n in program.weight_nodes()}
        env = program.fake_mode.shape_env
        ranges = {
            s: env.var_to_range[s] for s in _symbols(program) if env is not None and s in env.var_to_range
        }
        entry = ModuleCallEntry("", ModuleCallSignature([], [], signature.input_tree, signature.output_tree))
        return ExportedProgram(
            root=nn.Module(),
            graph=self.graph,
            graph_signature=ExportGraphSignature(self.inputs, self.outputs),
            state_dict={n: t for n, t in program.weights.items() if n in used},
            range_constraints=ranges,
            module_call_graph=[entry],
        )


def _argument(node: Node) -> _ArgumentKind:
    value = node.meta["val"]
    if isinstance(value, torch.Tensor):
        return TensorArgument(node.name)
    if isinstance(value, (torch.SymBool, bool)):
        return SymBoolArgument(node.name)
    if isinstance(value, (torch.SymFloat, float)):
        return SymFloatArgument(node.name)
    return SymIntArgument(node.name)


def _identifier(name: str) -> str:
    return name if name.isidentifier() else "constant"


def _symbols(program: Program) -> Iterator[object]:
    for node in program.placeholders():
        for size in node.meta["val"].shape:
            if isinstance(size, torch.SymInt):
                yield from size.node.expr.free_symbols


def _export_meta(node: Node) -> dict[str, object]:
    """The value, and module and line in the form that torch.export gives them."""
    meta: dict[str, object] = {"val": node.meta["val"]}
    origins = origins_of(node)
    frames = [f'  File "{o.file}", line {o.line}, in forward\n' for o in origins if o.file]
    if frames:
        meta["stack_trace"] = "".join(frames)
    path = next((o.module for o in origins if o.module), "")
    if path:
        meta["nn_module_stack"] = {path: (path, "torch.nn.Module")}
    return meta


def to_exported_program(program: Program) -> ExportedProgram:
    """The program as an ExportedProgram over the same weights; the program stays as it is."""
    return _Lifter(program).run()
