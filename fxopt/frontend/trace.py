"""`trace`: a model becomes a `Program`, checked against the model itself at a second size.

>>> import torch
>>> program = trace(torch.nn.Linear(4, 2), (torch.zeros(3, 4),), dynamic_shapes={"input": {0: "batch"}})
>>> [str(s) for s in program.signature.inputs]
['input: f32[batch, 4]']
"""

import copy
import dataclasses
from collections.abc import Mapping

import torch
from torch import nn
from torch.fx import Graph

from fxopt.errors import TraceError
from fxopt.frontend.capture import capture, inference_mode
from fxopt.frontend.check import check_against_model, warn_of_nan
from fxopt.frontend.functionalize import Refused, functionalize
from fxopt.frontend.inputs import DynamicShapes, Example, example_inputs
from fxopt.frontend.origins import node_line
from fxopt.frontend.ranges import with_value_ranges
from fxopt.frontend.unlift import unlift
from fxopt.program.program import Program

__all__ = ["trace"]


def trace(
    model: nn.Module | torch.export.ExportedProgram | str,
    args: tuple[object, ...] | torch.Tensor | None = None,
    kwargs: Mapping[str, object] | None = None,
    *,
    dynamic_shapes: DynamicShapes = None,
    state: bool = False,
    trust: bool = False,
) -> Program:
    """Traces a model to a functional ATen graph.

    Args:
        model: a module (traced in eval mode, its flags restored), a GraphModule, an ExportedProgram, or a `.pt2` file.
        args: example positional inputs, any pytree of tensors and literals; not for an ExportedProgram.
        kwargs: example keyword inputs.
        dynamic_shapes: torch.export's form, or the short form `{"x": {0: "batch"}}`.
        state: make buffers that the model writes to inputs and outputs `state.<name>`, after its own.
        trust: open a `.pt2` file, which can run code of its author's choosing.

    Returns:
        The program; it shares the model's weights.

    Raises:
        TraceError: the model can't be captured; names the user's line and what to change.
    """
    if isinstance(model, str) or hasattr(model, "__fspath__"):
        return _from_file(str(model), trust=trust, state=state)
    if isinstance(model, torch.export.ExportedProgram):
        if args is not None or kwargs is not None or dynamic_shapes is not None:
            raise TraceError("an ExportedProgram brings its own example inputs and sizes: leave args and dynamic_shapes out")
        return _finish(_to_program(model, None, state=state, owned=False), "ExportedProgram", None)
    if not isinstance(model, nn.Module):
        raise TraceError(
            f"can't trace a {type(model).__name__}: expected a torch.nn.Module, an ExportedProgram or a .pt2 file"
            + (" (wrap the function in a module)" if callable(model) else "")
        )
    with inference_mode(model):
        example = example_inputs(model.forward, args, kwargs, dynamic_shapes)  # type: ignore[arg-type]
        _check_dtypes(example, model)
        exported = capture(model, example)
        program = _finish(_to_program(exported, example, state=state, owned=True), type(model).__name__, example)
        check_against_model(program, model, example)
    return program


def _check_dtypes(example: Example, model: nn.Module) -> None:
    for name, leaf in zip(example.names, example.leaves, strict=True):
        if isinstance(leaf, torch.Tensor) and leaf.is_complex():
            raise TraceError(f"input {name!r} is complex ({leaf.dtype}): complex numbers are not supported, pass real and imaginary parts")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_complex():
            raise TraceError(f"the weight {name!r} is complex ({tensor.dtype}): complex numbers are not supported")


def _from_file(path: str, *, trust: bool, state: bool) -> Program:
    if not path.endswith(".pt2"):
        raise TraceError(f"can't trace {path!r}: expected a module, an ExportedProgram or a .pt2 file")
    if not trust:
        raise TraceError(f"{path!r}: opening a .pt2 file can run code of its author's choosing; pass trust=True if you trust it")
    try:
        exported = torch.export.load(path)
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise TraceError(f"{path!r} can't be read as a .pt2 file: {reason[0] if reason else type(error).__name__}") from error
    return trace(exported, state=state)


def _to_program(
    exported: torch.export.ExportedProgram, example: Example | None, *, state: bool, owned: bool
) -> Program:
    """Functionalises by our own walk where that is right, else by torch's decompositions."""
    def make(ep: torch.export.ExportedProgram, graph: Graph) -> Program:
        names = example.names if example else None
        return unlift(ep, graph, names=names, axes=example.axes if example else None, state=state)

    try:
        return make(exported, functionalize(exported.graph))
    except Refused as refusal:
        _explain_refusal(refusal, exported, state)
    decomposed = _decompose(exported if owned else copy.copy(exported))
    try:
        return make(decomposed, functionalize(decomposed.graph))
    except Refused as refusal:
        raise TraceError(f"the model can't be made functional{node_line(refusal.node)}: {refusal}") from None


def _explain_refusal(refusal: Refused, exported: torch.export.ExportedProgram, state: bool) -> None:
    """Raises where torch's functionalisation would be no help: hidden aliases, written state, control flow."""
    where = node_line(refusal.node)
    if refusal.hidden:
        raise TraceError(f"the model writes in place{where} to memory that it reads through another view: assign the result to a new name")
    if refusal.root is None:
        return
    targets = {s.arg.name: s for s in exported.graph_signature.input_specs if hasattr(s.arg, "name")}
    spec = targets.get(refusal.root.name)
    if spec is None:
        return
    if spec.target is None:
        raise TraceError(f"the model writes into its input {refusal.root.name!r}{where}: work on a copy (x = x.clone())")
    if spec.kind.name in ("PARAMETER", "BUFFER") and not state:
        raise TraceError(
            f"the model writes to its buffer {spec.target!r}{where}; pass state=True to make it an input and output, "
            "or do not write to it in eval mode"
        )


def _decompose(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """`run_decompositions({})` with eval dropout taken out first: it would cut an alias there (wrong results, measured)."""
    graph = exported.graph_module.graph
    for node in list(graph.nodes):
        if node.target in (torch.ops.aten.dropout.default, torch.ops.aten.feature_dropout.default) and node.args[2] is False:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    try:
        return exported.run_decompositions({})
    except Exception as error:
        first = str(error).strip().splitlines()
        raise TraceError(f"the model can't be made functional: {first[0] if first else type(error).__name__}") from error


def _finish(program: Program, name: str, example: Example | None) -> Program:
    program.name = name
    if example is not None:
        states = tuple(s.name for s in program.signature.inputs[len(example.names) :])
        program.signature = dataclasses.replace(
            program.signature, arguments=(*example.arguments, *states) if example.arguments else ()
        )
    else:
        positional = program.signature.input_tree.child(0)
        if all(c.is_leaf() for c in (positional.child(i) for i in range(positional.num_children))):
            program.signature = dataclasses.replace(
                program.signature, arguments=tuple(s.name for s in program.signature.inputs)
            )
    leaves = example.leaves if example else []
    program.signature = with_value_ranges(program, [x for x in leaves if isinstance(x, torch.Tensor)])
    program.graph.lint()
    warn_of_nan(program)
    return program

