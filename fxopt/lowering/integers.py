"""Weights that a program rounds, as files hold them: integers; and how much of a program computes on integers."""

import torch
from torch.fx import Node

from fxopt.ops.quantized import dequantize, fake_quantize
from fxopt.program.program import Program

__all__ = ["integer_notes", "with_integer_weights"]

_ROUNDED = (fake_quantize, dequantize)


def with_integer_weights(program: Program) -> Program:
    """The program with its rounded weights stored as integers; itself if it rounds nothing."""
    if not any(node.target is fake_quantize for node in program.calls()):
        return program
    from fxopt.passes.quantize import StoreIntegerWeights
    from fxopt.pipeline import PassManager

    return PassManager.of([StoreIntegerWeights()]).run(program).program


def integer_notes(program: Program, placement: str) -> tuple[str, ...]:
    """How many calls compute with rounded values alone, in a line; none if no activation is rounded beforehand.

    Args:
        program: its weights stored as integers.
        placement: which calls only move values, or are part of the rounding after them: those are not counted.
    """
    from fxopt.passes._names import aten_name
    from fxopt.passes.quantize import placement_of

    kernels = placement_of(placement)
    passed_by = kernels.same_scale | kernels.absorbed | {"getitem"}
    computing = [
        node
        for node in program.calls()
        if node.target not in _ROUNDED and _is_float(node) and aten_name(node) not in passed_by
    ]
    if not any(node.target is fake_quantize for node in program.calls()):
        return ()
    count = sum(all(n.target in _ROUNDED for n in _floats_of(node)) for node in computing)
    return (f"on integers: {count} of {len(computing)} calls that compute",)


def _floats_of(node: Node) -> list[Node]:
    """What a call computes with; biases are added to sums that are integers anyhow."""
    return [
        n
        for n in node.all_input_nodes
        if _is_float(n) and not (n.op == "get_attr" and n.meta["val"].dim() < 2)
    ]


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()
