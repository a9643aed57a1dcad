"""Which ops and invariants are legal in a Program, as data, and the verifier that says where a Program isn't.

>>> check_program.__name__
'check_program'
"""

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch.fx import Node

from fxopt.errors import PassError
from fxopt.ops import canonical_arguments, is_mutating, op_key
from fxopt.ops.spelling import SPELLINGS, STANDING
from fxopt.program.inference import infer_value, is_data_dependent, value_key
from fxopt.program.program import Program, origins_of
from fxopt.program.signature import ScalarSpec, TensorSpec

__all__ = ["ATEN", "Dialect", "Violation", "check_program", "is_legal_target", "violations"]

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


def is_legal_target(target: object, dialect: Dialect = ATEN) -> bool:
    """Whether a call's target is an op, in whatever spelling, or a function on sizes."""
    return isinstance(target, torch._ops.OpOverload) or target in dialect.functions


@dataclass(frozen=True)
class Violation:
    """One broken invariant."""

    node: str
    what: str
    where: str = ""

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.node}: {self.what}{place}"


def violations(
    program: Program, dialect: Dialect = ATEN, *, values: bool = False, nodes: Iterable[Node] | None = None
) -> Iterator[Violation]:
    """The broken invariants of a program, in graph order.

    Args:
        program: to check.
        dialect: its rules.
        values: also infer each call's value afresh and compare (slow).
        nodes: only these, where all others are known to be as they should.
    """
    names: set[str] = set()
    for node in program.graph.nodes if nodes is None else nodes:
        if nodes is None and node.name in names:
            yield _violation(node, "another node has the same name")
        names.add(node.name)
        for what in _node_problems(program, dialect, node):
            yield _violation(node, what)
        if values and node.op == "call_function":
            stale = _stale_value(program, node)
            if stale:
                yield _violation(node, stale)
    yield from _signature_problems(program)


def _violation(node: Node, what: str) -> Violation:
    return Violation(node.name, what, "; ".join(map(str, origins_of(node))))


def _node_problems(program: Program, dialect: Dialect, node: Node) -> Iterator[str]:
    for used in node.all_input_nodes:
        if used._erased or used.graph is not node.graph:
            yield f"it uses {used.name}, which is not in the graph"
        elif not used < node:
            yield f"it uses {used.name} before it is made"
    if node.op == "output":
        return
    if "val" not in node.meta:
        yield "it has no value (meta['val'])"
    if node.op == "get_attr":
        yield from _weight_problems(program, node)
    if node.op == "call_function":
        yield from _call_problems(dialect, node)
    elif node.op not in ("placeholder", "get_attr"):
        yield f"a {node.op} node is not allowed"


def _weight_problems(program: Program, node: Node) -> Iterator[str]:
    tensor, value = program.weights.get(str(node.target)), node.meta.get("val")
    if tensor is None:
        yield f"its weight {node.target!r} is not in the weight table"
    elif isinstance(value, torch.Tensor) and (value.dtype, value.shape) != (tensor.dtype, tensor.shape):
        yield f"its value is {value!r}, its weight {tensor.dtype} {tuple(tensor.shape)}"


def _call_problems(dialect: Dialect, node: Node) -> Iterator[str]:
    target = node.target
    if not origins_of(node):
        yield "it has no origin"
    if not is_legal_target(target, dialect):
        yield f"{op_key(target)} is no op of the dialect {dialect.name}"
    if not isinstance(target, torch._ops.OpOverload):
        return
    if op_key(target) in dialect.refused:
        yield f"{op_key(target)} is not the canonical spelling"
    if is_mutating(target):
        yield f"{op_key(target)} writes in place"
    try:
        args, kwargs = canonical_arguments(target, node.args, dict(node.kwargs))
    except TypeError as error:
        yield f"its arguments do not fit the op: {error}"
        return
    if _plain_key(args) != _plain_key(node.args) or _plain_key(kwargs) != _plain_key(dict(node.kwargs)):
        yield "its arguments are not canonical"


def _plain_key(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain_key, value))
    if isinstance(value, dict):
        return tuple((k, _plain_key(v)) for k, v in sorted(value.items()))
    return id(value) if isinstance(value, Node) else (type(value), repr(value))


def _stale_value(program: Program, node: Node) -> str:
    if is_data_dependent(node.target):
        return ""  # each evaluation makes new symbols
    try:
        fresh = infer_value(program, node.target, node.args, dict(node.kwargs))
    except Exception as error:
        return f"its shape can't be inferred: {str(error).strip().splitlines()[:1]}"
    if value_key(fresh) == value_key(node.meta.get("val")) or _same_shape(fresh, node.meta.get("val")):
        return ""
    return f"its value is stale: {node.meta.get('val')!r} is noted, {fresh!r} is inferred"


def _same_shape(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.dim() == b.dim() and all(map(_same_size, a.shape, b.shape))
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_same_shape(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (int, torch.SymInt)) and isinstance(b, (int, torch.SymInt)):
        return _same_size(a, b)
    return type(a) is type(b)


def _same_size(a: int | torch.SymInt, b: int | torch.SymInt) -> bool:
    """Whether two sizes are equal; one that depends on values is a new symbol each time."""
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols, statically_known_true

    return bool(free_unbacked_symbols(a) and free_unbacked_symbols(b)) or bool(statically_known_true(a == b))


def _signature_problems(program: Program) -> Iterator[Violation]:
    placeholders, specs = program.placeholders(), program.signature.tensor_inputs
    if len(placeholders) != len(specs):
        yield Violation("inputs", f"{len(placeholders)} placeholders for {len(specs)} tensor inputs")
    for node, spec in zip(placeholders, specs, strict=False):
        value = node.meta.get("val")
        if not _fits(value, spec):
            yield Violation(node.name, f"it is {value!r}, the signature says {spec}")
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
    if isinstance(spec, TensorSpec) and not _fits(value, spec):
        yield Violation(result.name, f"the output {spec} is {value!r}")


def _fits(value: object, spec: TensorSpec) -> bool:
    """Whether a value has the dtype, rank and, where both are numbers, the sizes of a spec."""
    if not isinstance(value, torch.Tensor) or value.dtype != spec.dtype or value.dim() != len(spec.shape):
        return False
    sizes = zip(value.shape, spec.shape, strict=True)
    return all(a == b for a, b in sizes if isinstance(a, int) and isinstance(b, int))


def check_program(
    program: Program,
    dialect: Dialect = ATEN,
    *,
    after: str = "",
    values: bool = False,
    nodes: Iterable[Node] | None = None,
) -> None:
    """Raises where a program breaks an invariant.

    Args:
        program: to check.
        dialect: its rules.
        after: the pass that is to blame, for the message.
        values: as in `violations`.
        nodes: as in `violations`.

    Raises:
        PassError: lists the first violations.
    """
    found = list(violations(program, dialect, values=values, nodes=nodes))
    if found:
        shown = "; ".join(map(str, found[:3]))
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        blame = f"pass {after!r} left the program ill-formed: " if after else "the program is ill-formed: "
        raise PassError(f"{blame}{shown}{more}")
