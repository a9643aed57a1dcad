"""`trace`: a model becomes a `Program`, checked against the model itself at a second size.

>>> import torch
>>> model = torch.nn.Linear(4, 2).eval()
>>> program = trace(model, (torch.zeros(3, 4),), dynamic_shapes={"input": {0: "batch"}})
>>> [str(s) for s in program.signature.inputs]
['input: f32[batch, 4]']
"""

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from fxopt.errors import ArtifactError, TraceError
from fxopt.frontend.branches import inlined
from fxopt.frontend.capture import capture, quiet_torch
from fxopt.frontend.check import DecidedError, check_against_model, check_at
from fxopt.frontend.diagnose import first_line
from fxopt.frontend.frames import warn_caller
from fxopt.frontend.functionalize import Refused, functionalize
from fxopt.frontend.inputs import DynamicShapes, Example, example_inputs
from fxopt.frontend.origins import node_line
from fxopt.frontend.promises import assumptions, drop_unused_numbers
from fxopt.frontend.ranges import with_value_ranges
from fxopt.frontend.refuse import check_captured
from fxopt.frontend.sizes import narrow_guard, size_guards
from fxopt.frontend.unlift import unlift
from fxopt.frontend.untouched import inference_mode
from fxopt.frontend.writes import check_refusal, check_written
from fxopt.program.archive import check_archive
from fxopt.program.caches import register_caches
from fxopt.program.containers import keyed_containers
from fxopt.program.program import Program
from fxopt.program.recurrent import whole_layers
from fxopt.program.signature import solve_sizes

__all__ = ["trace"]

_DROPOUTS = frozenset(
    {
        torch.ops.aten.dropout.default,
        torch.ops.aten.feature_dropout.default,
        torch.ops.aten.alpha_dropout.default,
        torch.ops.aten.feature_alpha_dropout.default,
    }
)


def trace(
    model: nn.Module | ExportedProgram | str | os.PathLike[str],
    args: Sequence[object] | torch.Tensor | None = None,
    kwargs: Mapping[str, object] | None = None,
    *,
    dynamic_shapes: DynamicShapes = None,
    state: bool = False,
    trust: bool = False,
) -> Program:
    """Traces a model to a functional ATen graph.

    Args:
        model: a module (traced in eval mode, left as it was), a GraphModule, an ExportedProgram, or a `.pt2`
            file.
        args: example positional inputs, any pytree of tensors and literals; not for an ExportedProgram.
        kwargs: example keyword inputs.
        dynamic_shapes: torch.export's form, or the short form `{"x": {0: "batch"}}`.
        state: keep the model's effects: buffers that it writes to become inputs and outputs `state.<name>`, after its
            own; what an input that it writes to becomes is an output `state.<name>` behind them (the caller's tensor
            stays as it was); random numbers (dropout of a model that trains, too) are drawn from torch's generator at
            each call.
        trust: open a `.pt2` file, which can run code of its author's choosing.

    Returns:
        The program; it shares the model's weights. What the model demands of values (`assert x.max() < 1`, a branch that
        only raises) is taken as kept: the program does not raise there, and its `assumptions` tell these places.

    Raises:
        TraceError: the model can't be captured; names the user's line and what to change.
        ArtifactError: a `.pt2` file that is missing, damaged, or needs `trust`.
    """
    register_caches()
    if isinstance(model, (str, os.PathLike)):
        model = _loaded(os.fspath(model), trust=trust)
    if isinstance(model, ExportedProgram):
        if args is not None or kwargs is not None or dynamic_shapes is not None:
            raise TraceError(
                "an ExportedProgram brings its own example inputs and sizes: "
                "leave args, kwargs and dynamic_shapes out"
            )
        return _from_exported(model, state=state)
    return _from_module(_module(model), args, kwargs, dynamic_shapes, state=state)


def _from_module(
    model: nn.Module,
    args: Sequence[object] | torch.Tensor | None,
    kwargs: Mapping[str, object] | None,
    dynamic_shapes: DynamicShapes,
    *,
    state: bool,
) -> Program:
    _check_parts(model)
    _check_weights(model)
    with inference_mode(model), keyed_containers():
        example = example_inputs(model.forward, args, kwargs, dynamic_shapes)
        if _is_planning(model):
            example = example.on_meta()
        try:
            program = _captured(model, example, example, state=state)
            check_against_model(program, model, example)
        except DecidedError as decided:
            return _from_elsewhere(model, example, decided, state=state)
    return program


def _captured(model: nn.Module, at: Example, example: Example, *, state: bool) -> Program:
    """The program of a call, named and ranged after the user's example."""
    exported = capture(model, at, state=state)
    assumed = assumptions(exported.graph)
    drop_unused_numbers(exported.graph)
    program = _to_program(exported, at, state=state)
    program.assumptions = assumed
    _finish(program, type(model).__name__, example)
    return program


def _from_elsewhere(model: nn.Module, example: Example, decided: DecidedError, *, state: bool) -> Program:
    """Traced at other sizes than the example's: the branch not taken there may be right at all (padding by 0 to 3).

    Raises:
        DecidedError: as before, where that is no program for the example's sizes too.
    """
    try:
        program = _captured(model, decided.elsewhere, example, state=state)
        check_at(program, model, example)
        check_against_model(program, model, decided.elsewhere)
    except TraceError:
        raise decided from None
    return program


def _module(model: object) -> nn.Module:
    """The module to trace.

    Raises:
        TraceError: it is none, or none whose Python code is known.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(
            "a TorchScript module can't be traced: trace the torch.nn.Module that it was made of"
        )
    if isinstance(model, type) and issubclass(model, nn.Module):
        name = model.__name__
        raise TraceError(f"can't trace the class {name}: trace an instance of it, {name}(...)")
    if not isinstance(model, nn.Module):
        hint = " (wrap the function in a module)" if callable(model) else ""
        kind = type(model).__name__
        raise TraceError(
            f"can't trace a {kind}: expected a torch.nn.Module, an ExportedProgram or a .pt2 file{hint}"
        )
    compiled = getattr(model, "_orig_mod", None)
    return compiled if isinstance(compiled, nn.Module) else model


def _check_parts(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(
                f"the module {name!r} is TorchScript, which can't be traced: use the module that it was made of"
            )
        held = next((v for v in vars(module).values() if isinstance(v, torch.ScriptObject)), None)
        if held is not None:
            raise TraceError(
                f"the module {name!r} ({type(module).__name__}) holds an object that can't be traced "
                "(packed weights of torch.ao.quantization?): trace the model in float"
            )


def _check_weights(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            raise TraceError(f"the weight {name!r} has no shape yet: run the model once before tracing it")
        if tensor.is_complex():
            raise TraceError(
                f"the weight {name!r} is complex ({tensor.dtype}): complex numbers are not supported"
            )
        if tensor.layout is not torch.strided or tensor.is_quantized:
            kind = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
            raise TraceError(f"the weight {name!r} is a {kind} tensor: only dense tensors are supported")


def _is_planning(model: nn.Module) -> bool:
    """Whether the model has weights and none of them has values."""
    weights = (*model.parameters(), *model.buffers())
    return bool(weights) and all(t.is_meta for t in weights)


def _loaded(path: str, *, trust: bool) -> ExportedProgram:
    if not path.endswith(".pt2"):
        raise TraceError(f"can't trace {path!r}: expected a module, an ExportedProgram or a .pt2 file")
    check_archive(path)
    if not trust:
        raise ArtifactError(
            f"can't open {path}: opening a .pt2 file can run code of its author's choosing; "
            "pass trust=True if you trust it"
        )
    try:
        with quiet_torch():
            return torch.export.load(path)
    except Exception as error:
        raise ArtifactError(f"can't read {path} as a .pt2 file: {first_line(error)}") from error


def _from_exported(exported: ExportedProgram, *, state: bool) -> Program:
    with torch.no_grad():
        program = _to_program(exported, None, state=state)
    program.assumptions = assumptions(exported.graph)
    _finish(program, "ExportedProgram", None)
    _check_assumptions(program)
    return program


def _check_assumptions(program: Program) -> None:
    """Refuses what was exported for few of the sizes that it takes; there is no model to compare with."""
    shapes = [n.meta["val"].shape for n in program.placeholders()]
    hints = [[d if isinstance(d, int) else d.node.hint for d in shape] for shape in shapes]
    if any(d is None for shape in hints for d in shape):
        return
    sizes = solve_sizes(program.signature.tensor_inputs, hints)
    guards = size_guards(program.fake_mode.shape_env, program.symbol_names)
    guard = narrow_guard(sizes, program.signature.symbols, guards)
    if guard is not None:
        raise TraceError(
            f"the exported program holds only where {guard}: "
            "export a model that computes this from x.shape with whole numbers, or with this size static"
        )


def _to_program(exported: ExportedProgram, example: Example | None, *, state: bool) -> Program:
    """Functionalises by our own walk where that is right, else by torch's decompositions."""
    names, axes = (example.names, example.axes) if example else (None, None)
    graph = inlined(exported.graph_module)
    check_captured(graph, state=state)
    try:
        return unlift(exported, functionalize(graph), names=names, axes=axes, state=state)
    except Refused as refusal:
        check_refusal(refusal, exported, state=state)
        where, why = node_line(refusal.node), str(refusal)
    try:
        decomposed = _decompose(exported)
    except Exception as error:
        raise TraceError(
            f"the model can't be made functional{where}: {why}, and torch can't help it; "
            "assign results to new names instead of writing in place"
        ) from error
    check_written(decomposed, names, where, state=state)
    try:
        functional = functionalize(inlined(decomposed.graph_module))
        return unlift(decomposed, functional, names=names, axes=axes, state=state)
    except Refused as refusal:
        raise TraceError(f"the model can't be made functional{node_line(refusal.node)}: {refusal}") from None


def _decompose(exported: ExportedProgram) -> ExportedProgram:
    """`run_decompositions({})` of a copy without eval dropout, where it would cut an alias (measured)."""
    module, signature = copy.deepcopy(exported.graph_module), copy.deepcopy(exported.graph_signature)
    for node, copied_node in zip(exported.graph.nodes, module.graph.nodes, strict=True):
        copied_node.name = node.name  # a copy of `input`, which Python knows, is called input_1
    for node in list(module.graph.nodes):
        if node.target in _DROPOUTS and node.args[2] is False:
            kept = node.args[0]
            assert isinstance(kept, Node)
            node.replace_all_uses_with(kept)
            signature.replace_all_uses(node.name, kept.name)
            module.graph.erase_node(node)
    with quiet_torch(), whole_layers():
        copied: ExportedProgram = exported._update(module, signature)
        decomposed: ExportedProgram = copied.run_decompositions({})
    return decomposed


def _finish(program: Program, name: str, example: Example | None) -> None:
    """Name, names of arguments, value ranges; one warning that names weights which hold NaN."""
    program.name = name
    signature = program.signature
    if example is not None:
        states = tuple(s.name for s in signature.inputs[len(example.names) :])
        arguments = (*example.arguments, *states) if example.arguments else ()
    else:
        positional = signature.input_tree.child(0)
        plain = all(positional.child(i).is_leaf() for i in range(positional.num_children))
        arguments = tuple(s.name for s in signature.inputs) if plain else ()
    defaults = example.defaults if example is not None else {}
    program.signature = dataclasses.replace(signature, arguments=arguments, defaults=defaults)
    program.signature = with_value_ranges(program, example.tensors if example else [])
    program.graph.lint()
    bad = [n for n, t in program.weights.items() if _has_nan(t)]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        warn_caller(f"weights hold NaN: {', '.join(bad[:5])}{more}")


def _has_nan(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel() or tensor.dtype.itemsize < 2:
        return False
    # The smallest of values among which there is a NaN is NaN; `isnan` would take a quarter of the weight's memory.
    return bool(torch.isnan(tensor.detach().amin()))
