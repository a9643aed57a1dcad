"""What a model demands of its inputs' values, `assert x.max() < 1` or `if x.isnan().any(): raise ValueError`, is taken as kept.

Which way a branch on a tensor's value goes is not known while a model is traced. Where one of the two ways does nothing but
raise, the other is the program: it computes what the model computes wherever the model returns at all.
"""

import contextlib
import dis
import sys
import types
from bisect import bisect_left
from collections.abc import Iterator

import sympy
import torch
from torch.fx import Graph
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import ShapeEnv, free_unbacked_symbols

from fxopt.frontend.frames import Owner, innermost, is_layer, owner, parse_frames
from fxopt.frontend.numbers import READS_A_VALUE
from fxopt.ops import op_key

__all__ = ["assumptions", "drop_unused_numbers", "promised"]

_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool, int, float)
_FUNCTIONAL = torch.nn.functional.__file__
_CHECKS = frozenset({torch._assert.__code__})
"""Functions of torch that raise for their caller."""
_ASSERTS = ("aten._assert_scalar.", "aten._assert_async.")
_MOST = 64
"""Instructions that make an exception and raise it."""


@contextlib.contextmanager
def promised() -> Iterator[None]:
    """Inside, a branch on a tensor's value of which one way only raises goes the other way."""
    evaluate = ShapeEnv.evaluate_sym_node

    def decided(env: ShapeEnv, node: SymNode, *args: object, **kwargs: object) -> sympy.Basic:
        if free_unbacked_symbols(node.expr):
            way = _way_that_returns()
            if way is not None:
                return sympy.true if way else sympy.false
        return evaluate(env, node, *args, **kwargs)  # type: ignore[arg-type]  # as given

    ShapeEnv.evaluate_sym_node = decided  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ShapeEnv.evaluate_sym_node = evaluate  # type: ignore[method-assign]


def _way_that_returns() -> bool | None:
    """The value of the condition that the model's innermost frame is at, by which it does not raise; None if unknown."""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if (
            owner(file) is not Owner.MACHINERY
            or is_layer(file)
            or frame.f_code in _CHECKS
            or file == _FUNCTIONAL
        ):
            return _other_than_raising(frame)
        frame = frame.f_back
    return None


def _other_than_raising(frame: types.FrameType) -> bool | None:
    instructions = list(dis.get_instructions(frame.f_code))
    at = bisect_left(instructions, frame.f_lasti, key=lambda i: i.offset)
    if at < len(instructions) and instructions[at].opname == "TO_BOOL":
        at += 1
    if at >= len(instructions) or not instructions[at].opname.startswith("POP_JUMP"):
        return None
    jump = instructions[at]
    if not jump.opname.endswith(("IF_TRUE", "IF_FALSE")):
        return None
    target = bisect_left(instructions, jump.argval, key=lambda i: i.offset)
    jumping, falling = _raises(instructions, target), _raises(instructions, at + 1)
    if jumping == falling:
        return None
    jumps_if = jump.opname.endswith("IF_TRUE")
    return not jumps_if if jumping else jumps_if


def _raises(instructions: list[dis.Instruction], start: int) -> bool:
    """Whether the code from here on goes straight to a `raise`."""
    for instruction in instructions[start : start + _MOST]:
        if instruction.opname == "RAISE_VARARGS":
            return True
        if "JUMP" in instruction.opname or instruction.opname.startswith(
            ("RETURN", "STORE", "YIELD", "FOR_ITER")
        ):
            return False
    return False


def assumptions(graph: Graph) -> tuple[str, ...]:
    """What a captured model demands of values, a line each: `assert x.max() < 1 (net.py:7)`."""
    places: dict[str, None] = {}
    for node in graph.nodes:
        if op_key(node.target).startswith(_ASSERTS):
            frame = innermost(parse_frames(str(node.meta.get("stack_trace") or "")))
            places[frame.brief if frame else op_key(node.target)] = None
    return tuple(places)


def drop_unused_numbers(graph: Graph) -> None:
    """Erases numbers out of tensors, what is computed of them and what torch asserts of them, as far as nothing uses them."""
    for node in reversed(graph.nodes):
        if node.op == "call_function" and not node.users:
            number = isinstance(node.meta.get("val"), _NUMBERS)
            if number or node.target in READS_A_VALUE or op_key(node.target) == "aten._assert_scalar.default":
                graph.erase_node(node)
