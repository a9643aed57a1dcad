"""Which ops and invariants are legal in a Program, as data, and the verifier that says where a Program isn't.

>>> check_program.__name__
'check_program'
"""

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.fx import Node

from fxopt.errors import PassError
from fxopt.ops import canonical_arguments, is_mutating, is_random, op_key
from fxopt.ops.spelling import SPELLINGS, STANDING
from fxopt.program.inference import infer_value, value_key
from fxopt.program.program import Program, origins_of
from fxopt.program.signature import ScalarSpec, TensorSpec

__all__ = ["ATEN", "Dialect", "Violation", "check_program", "violations"]

_SIZE_FUNCTIONS: frozenset[Callable[..., object]] = frozenset(
    {
        operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod,
        operator.neg, operator.pow, operator.eq, operator.ne, operator.lt, operator.le, operator.gt,
        operator.ge, operator.and_, operator.or_, operator.getitem,
        torch.sym_max, torch.sym_min, torch.sym_int, torch.sym_float, torch.sym_not, torch.sym_ite,
        torch.sym_sum, math.ceil, math.floor, math.trunc, math.sqrt, round, int, float, abs, max, min,
    }
)  # fmt: skip


@dataclass(frozen=True)
class Dialect:
    """What a Program may hold at a stage: spellings that are not canonical are refused by name."""

    name: str
    refused: frozenset[str]
    functions: frozenset[Callable[..., object]]


ATEN = Dialect("aten", frozenset(SPELLINGS) - STANDING, _SIZE_FUNCTIONS)
"""Functional ATen in canonical spelling, composites whole."""


@dataclass(frozen=True)
class Violation:
    """One broken invariant."""

    node: str
    what: str
    where: str = ""

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.node}: {self.what}{place}"


def violations(program: Program, dialect: Dialect = ATEN, *, values: bool = False) -> Iterator[Violation]:
    """The broken invariants of a program, in graph order.

    Args:
        program: to check.
        dialect: its rules.
        values: also infer each call's value afresh and compare (slow).
    """
    seen: set[Node] = set()
    names: set[str] = set()
    for node in program.graph.nodes:
        where = "; ".join(map(str, origins_of(node)))
        for what in _node_problems(program, dialect, node, seen, names):
            yield Violation(node.name, what, where)
        if values and node.op == "call_function":
            what = _stale_value(program, node)
            if what:
                yield Violation(node.name, what, where)
        seen.add(node)
        names.add(node.name)
    yield from _signature_problems(program)


def _node_problems(
    program: Program, dialect: Dialect, node: Node, seen: set[Node], names: set[str]
) -> Iterator[str]:
    if node.name in names:
        yield "another node has the same name"
    for used in node.all_input_nodes:
        if used not in seen:
            yield f"it uses {used.name} before it is made"
    if node.op == "output":
        return
    if "val" not in node.meta:
        yield "it has no value (meta['val'])"
    if node.op == "get_attr" and str(node.target) not in program.weights:
        yield f"its weight {node.target!r} is not in the weight table"
    if node.op == "call_function":
        yield from _call_problems(dialect, node)
    elif node.op not in ("placeholder", "get_attr"):
        yield f"a {node.op} node is not allowed"


def _call_problems(dialect: Dialect, node: Node) -> Iterator[str]:
    target = node.target
    if not origins_of(node):
        yield "it has no origin"
    if not isinstance(target, torch._ops.OpOverload):
        if target not in dialect.functions:
            yield f"{op_key(target)} is no op of the dialect {dialect.name}"
        return
    if op_key(target) in dialect.refused:
        yield f"{op_key(target)} is not the canonical spelling"
    if is_mutating(target):
        yield f"{op_key(target)} writes in place"
    if is_random(node):
        yield f"{op_key(target)} draws random numbers"
    args, kwargs = canonical_arguments(target, node.args, dict(node.kwargs))
    if _plain_key(args) != _plain_key(node.args) or set(kwargs) != set(node.kwargs):
        yield "its arguments are not canonical"


def _plain_key(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain_key, value))
    return id(value) if isinstance(value, Node) else (type(value), repr(value))


def _stale_value(program: Program, node: Node) -> str:
    fresh = infer_value(program, node.target, node.args, dict(node.kwargs))
    if value_key(fresh) == value_key(node.meta.get("val")) or _same_shape(fresh, node.meta.get("val")):
        return ""
    return f"its value is stale: {node.meta.get('val')!r} is noted, {fresh!r} is inferred"


def _same_shape(a: object, b: object) -> bool:
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return (
            a.dtype == b.dtype
            and a.dim() == b.dim()
            and all(statically_known_true(x == y) for x, y in zip(a.shape, b.shape, strict=True))
        )
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_same_shape(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (int, torch.SymInt)) and isinstance(b, (int, torch.SymInt)):
        return bool(statically_known_true(a == b))
    return type(a) is type(b)


def _signature_problems(program: Program) -> Iterator[Violation]:
    placeholders, specs = program.placeholders(), program.signature.tensor_inputs
    if len(placeholders) != len(specs):
        yield Violation("inputs", f"{len(placeholders)} placeholders for {len(specs)} tensor inputs")
    for node, spec in zip(placeholders, specs, strict=False):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and (value.dtype != spec.dtype or value.dim() != len(spec.shape)):
            yield Violation(
                node.name, f"it is {value.dtype} of rank {value.dim()}, the signature says {spec}"
            )
    returned, outputs = program.output_nodes(), program.signature.computed_outputs
    if len(returned) != len(outputs):
        yield Violation("output", f"{len(returned)} results for {len(outputs)} outputs of the signature")
    for result, output in zip(returned, outputs, strict=False):
        yield from _output_problems(result, output)


def _output_problems(result: object, spec: TensorSpec | ScalarSpec) -> Iterator[Violation]:
    if not isinstance(result, Node):
        yield Violation("output", f"{spec.name} is {result!r}, not a node")
        return
    value = result.meta.get("val")
    if isinstance(spec, TensorSpec) and not (
        isinstance(value, torch.Tensor) and value.dtype == spec.dtype and value.dim() == len(spec.shape)
    ):
        yield Violation(result.name, f"the output {spec} is {value!r}")


def check_program(program: Program, dialect: Dialect = ATEN, *, after: str = "") -> None:
    """Raises where a program breaks an invariant.

    Args:
        program: to check.
        dialect: its rules.
        after: the pass that is to blame, for the message.

    Raises:
        PassError: lists the first violations.
    """
    found = list(violations(program, dialect))
    if found:
        shown = "; ".join(map(str, found[:3]))
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        blame = f"pass {after!r} left the program ill-formed: " if after else "the program is ill-formed: "
        raise PassError(f"{blame}{shown}{more}")
