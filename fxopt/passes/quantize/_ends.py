"""A program's inputs and outputs as integers: which of them, and the mark by which files store them so."""

import dataclasses
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

import torch
from torch.fx import Node

from fxopt.errors import PipelineError
from fxopt.passes.quantize._placement import Placement
from fxopt.program import STATE, Program, Quantized, ScalarSpec, Signature, Spec, TensorSpec

__all__ = ["Ends", "find_ends", "mark_integers"]

_KINDS = {(0, 255): "uint8", (-128, 127): "int8"}


@dataclasses.dataclass(frozen=True)
class Ends:
    """What becomes integers at the ends of a program: nodes by name."""

    inputs: Mapping[str, Node] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, Node] = dataclasses.field(default_factory=dict)


def find_ends(program: Program, keep: tuple[str, ...]) -> Ends:
    """The float inputs and all outputs, but for those that stay as they are.

    Inputs of integers, and state that is read and written, stay as they are by themselves.

    Args:
        program: whose inputs and outputs are looked at.
        keep: patterns of names that stay, `*` for any letters.

    Raises:
        PipelineError: a pattern fits no name, an output can't become 8-bit integers, or nothing is computed.
    """
    signature = program.signature
    if next(program.calls(), None) is None:
        raise PipelineError("the program computes nothing: there is nothing to run on integers")
    _check_patterns(signature, keep)
    kept = {*signature.written_inputs(), *(n for n in _names(signature) if _fits(n, keep))}
    inputs = {
        spec.name: node
        for spec, node in zip(signature.tensor_inputs, program.placeholders(), strict=True)
        if spec.dtype is torch.float32 and spec.name not in kept and node.users
    }
    results = [
        (spec, node)
        for spec, node in zip(signature.computed_outputs, program.output_nodes(), strict=True)
        if not spec.name.startswith(STATE) and spec.name not in kept
    ]
    for spec, node in results:
        why = _no_integers(spec, node, inputs)
        if why:
            raise PipelineError(
                f"the output {spec.name!r} can't become 8-bit integers: {why}; "
                f"leave it as it is: io=int8,io_keep=[{spec.name}]"
            )
    return Ends(inputs, {spec.name: node for spec, node in results if isinstance(node, Node)})


def _no_integers(spec: TensorSpec | ScalarSpec, node: object, inputs: Mapping[str, Node]) -> str:
    """Why an output can't be integers that stand for floats; "" if it can."""
    if isinstance(spec, ScalarSpec) or not isinstance(node, Node):
        return "it is a number of sizes"
    if spec.dtype is not torch.float32:
        return f"it is {str(spec.dtype).removeprefix('torch.')}, not float32"
    if node.op == "get_attr":
        return "it is a weight"
    if node.op == "placeholder" and node not in inputs.values():
        return "it is an input that stays as it is"
    return ""


def _names(signature: Signature) -> Iterator[str]:
    return (s.name for s in (*signature.tensor_inputs, *signature.computed_outputs))


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, p) for p in patterns)


def _check_patterns(signature: Signature, keep: tuple[str, ...]) -> None:
    names = list(_names(signature))
    strange = next((p for p in keep if not any(fnmatchcase(n, p) for n in names)), None)
    if strange is not None:
        raise PipelineError(
            f"io_keep holds {strange!r}, which fits no input and no output; they are {', '.join(names)}"
        )


def mark_integers(
    program: Program, ends: Ends, numbers: Mapping[Node, tuple[float, int]], placement: Placement
) -> None:
    """Marks inputs and outputs with the integers that files hold.

    Args:
        program: its signature is replaced.
        ends: which.
        numbers: scale and zero point by the nodes of `ends`.
        placement: whose integers they are.

    Raises:
        PipelineError: the placement's activations have no 8-bit type.
    """
    grid = placement.activations
    kind = _KINDS.get((grid.lowest, grid.high))
    if kind is None:
        raise PipelineError(f"the placement {placement.name} has no 8-bit activations: leave io=int8 out")

    def marked(spec: Spec, nodes: Mapping[str, Node]) -> Spec:
        node = nodes.get(spec.name)
        if node is None or not isinstance(spec, TensorSpec):
            return spec
        return dataclasses.replace(spec, quantized=Quantized(*numbers[node], kind))

    signature = program.signature
    program.signature = dataclasses.replace(
        signature,
        inputs=tuple(marked(s, ends.inputs) for s in signature.inputs),
        outputs=tuple(marked(s, ends.outputs) for s in signature.outputs),
    )
