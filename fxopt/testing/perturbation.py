"""Perturbations: a planted motif whose literals, or arguments' ranks and dtypes, are not those of the motif.

A motif's strides, axes, paddings and weights of two axes are those that its author thought of, which are those
that a pass's author thought of. A perturbed one has others, of which the op table and the schemas say what they
are; what torch refuses, on fake tensors or at any size of the batch, is not drawn. Where a motif calls an op several
times, half of the changes are made to all of these calls: of parallel layers with one vector for a weight among them
no pass makes one, of those that all have one it may.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch.fx import Node

from fxopt.frontend.capture import quiet_torch
from fxopt.frontend.ranges import table_rows
from fxopt.ops import ArgumentKind, UnknownOpError, argument_kinds, is_pure, op_info
from fxopt.program import Program, evaluate_dim
from fxopt.rewriting.recorder import Recording
from fxopt.testing.builder import WEIGHT_KINDS, ProgramBuilder
from fxopt.testing.choice import Choose
from fxopt.testing.emission import NoSize, SizeOf, Spot, emitted
from fxopt.verification import sample_inputs
from fxopt.verification.evaluator import evaluate_each

__all__ = ["Operand", "Perturbation", "drawn_perturbation", "indexing"]

Size = int | torch.SymInt

_TRIES = 3
_REFUSALS = (
    RuntimeError,
    IndexError,
    ValueError,
    TypeError,
    AssertionError,
    ArithmeticError,
    NoSize,
    UnknownOpError,
)
"""What shape functions, decompositions and kernels raise for arguments that they do not take."""
_INTS = (1, 0, 2, 3, -1, 5)
_FLOATS = (1.0, 0.0, -1.0, 0.5, 2.0, 1e-3)
_NUMBERS = (1, 0, 2, -1, *_FLOATS, -0.0, True)
_NON_FINITE = (float("inf"), float("-inf"), float("nan"))
_DTYPES = (torch.float32, torch.float64, torch.int64, torch.bool, torch.int32, torch.float16)
_WORDS = ("none", "tanh", "floor", "trunc", "constant", "reflect", "replicate", "mean", "sum")


@dataclass(frozen=True)
class Operand:
    """A tensor argument of a motif: what it is planted with."""

    shape: tuple[Size, ...]
    dtype: torch.dtype
    is_weight: bool
    number: float | None = None
    """Stands in its place."""
    rows: int | None = None
    """Its values index a table of so many rows, whatever size the batch is of."""


@dataclass(frozen=True)
class Perturbation:
    """What is other than in the motif."""

    operands: Mapping[str, Operand]
    """Those that are used, by name."""
    literals: Mapping[Spot, object] = field(default_factory=dict)


def drawn_perturbation(
    draw: Choose, b: ProgramBuilder, recording: Recording, operands: Mapping[str, Operand]
) -> Perturbation | None:
    """One change or two; None if torch takes none of those that are tried.

    Args:
        draw: choices.
        b: the program that the motif is to be planted in.
        recording: of the motif.
        operands: its tensor arguments as they are.
    """
    with quiet_torch():  # what does not suit is tried, and torch logs each complaint
        for _ in range(_TRIES):
            change = _changed(draw, b, recording, operands)
            found = _taken(recording, change) or _taken(recording, _bare(recording, operands, change))
            if found is not None:
                return found
    return None


def _changed(
    draw: Choose, b: ProgramBuilder, recording: Recording, operands: Mapping[str, Operand]
) -> Perturbation:
    changed, literals = dict(operands), dict[Spot, object]()
    spots = list(_spots(recording))
    for _ in range(1 + draw.below(2)):
        if spots and not draw.chance(2):
            spot, kind, call = draw.of(spots)
            value = _Literal(draw, b, call, operands).other(kind, _at(call, spot))
            literals |= dict.fromkeys(_alike(spots, spot, call) if draw.chance(2) else [spot], value)
        else:
            changed |= _other_operands(draw, changed, _together(draw, recording, changed))
    return Perturbation(changed, literals)


def _alike(spots: Sequence[tuple[Spot, ArgumentKind, Node]], spot: Spot, call: Node) -> list[Spot]:
    """The same argument of all calls of the op."""
    return [other for other, _, c in spots if c.target is call.target and other[1] == spot[1]]


def _together(draw: Choose, recording: Recording, operands: Mapping[str, Operand]) -> list[str]:
    """An operand, or with it those that are the same argument of calls of the same op."""
    name = draw.of(list(operands))
    if not draw.chance(2):
        return [name]
    uses = _uses(recording.placeholders[name])
    return [name, *(o for o in operands if o != name and uses & _uses(recording.placeholders[o]))]


def _uses(node: Node) -> set[tuple[object, object]]:
    """Ops and the places of their arguments at which a node stands."""
    return {
        (user.target, key)
        for user in node.users
        for key, value in (*enumerate(user.args), *user.kwargs.items())
        if value is node
    }


def _bare(recording: Recording, operands: Mapping[str, Operand], change: Perturbation) -> Perturbation:
    """With the change nothing at the optional tensors of the calls that read what has changed: they may not fit it."""
    changed = {recording.placeholders[n] for n, o in change.operands.items() if o != operands[n]}
    optional = {
        spot: None
        for spot, kind, call in _spots(recording)
        if kind.base == "Tensor" and kind.optional and not changed.isdisjoint(call.all_input_nodes)
    }
    return Perturbation(change.operands, {**optional, **change.literals})


def _spots(recording: Recording) -> Iterator[tuple[Spot, ArgumentKind, Node]]:
    """The arguments that may be redrawn: literals, and tensors in the place of which a number may stand."""
    for at, call in enumerate(recording.calls):
        if not isinstance(call.target, torch._ops.OpOverload):
            continue
        for i, kind in enumerate(argument_kinds(call.target)):
            value = call.kwargs.get(kind.name) if kind.keyword_only else call.args[i]
            literal = kind.base in _OTHERS and not (isinstance(value, Node) and kind.is_list)
            number = kind.base == "Tensor" and i > 0 and isinstance(value, (Node, int, float))
            if literal or number:
                yield (at, kind.name if kind.keyword_only else i), kind, call


def _at(call: Node, spot: Spot) -> object:
    key = spot[1]
    return call.kwargs[key] if isinstance(key, str) else call.args[key]


class _Literal:
    """Draws another value for an argument of a call."""

    def __init__(self, draw: Choose, b: ProgramBuilder, call: Node, operands: Mapping[str, Operand]) -> None:
        self.draw = draw
        self.non_finite = len(b.kinds) > len(WEIGHT_KINDS)
        self.sizes = [
            SizeOf(name, axis)
            for name, operand in operands.items()
            for axis, size in enumerate(operand.shape)
            if isinstance(size, torch.SymInt)
        ]
        assert isinstance(call.target, torch._ops.OpOverload)
        self.info = op_info(call.target)
        ranks = (v.dim() for a in call.all_input_nodes if isinstance(v := a.meta["val"], torch.Tensor))
        self.axes = max(next(ranks, 0) + self.info.dims_inserted, 1)

    def other(self, kind: ArgumentKind, value: object) -> object:
        """Another value for an argument that is `value`."""
        if kind.optional and value is not None and self.draw.chance(3):
            return None
        if not kind.is_list:
            return self.element(kind, value)
        items = list(value) if isinstance(value, (list, tuple)) else []
        if not items:
            return [self.element(kind, 0)] * (kind.length or 1)
        where = self.draw.below(len(items) + 2)
        if where == len(items):
            return [self.element(kind, items[0])] * len(items)
        if where == len(items) + 1:
            return items[:-1] if self.draw.chance(2) else [*items, self.element(kind, items[-1])]
        new = self.element(kind, items[where])
        if (
            new in items and kind.name in self.info.dims
        ):  # axes stay apart: of a permutation two change places
            items[items.index(new)] = items[where]
        items[where] = new
        return items

    def element(self, kind: ArgumentKind, value: object) -> object:
        """Another number, word, or dtype."""
        if kind.name in self.info.dims:
            return self.draw.below(self.axes)
        return _OTHERS.get(kind.base, _number)(self, value)


def _integer(of: _Literal, value: object) -> object:
    near = (value + 1, value - 1) if isinstance(value, int) else ()
    return of.draw.of((*_INTS, *near, *of.sizes))


def _float(of: _Literal, value: object) -> object:
    near = (-value, value * 2) if isinstance(value, (int, float)) else ()
    return of.draw.of((*_FLOATS, *near, *(_NON_FINITE if of.non_finite else ())))


def _number(of: _Literal, value: object) -> object:
    near = (-value,) if isinstance(value, (int, float)) else ()
    return of.draw.of((*_NUMBERS, *near, *of.sizes, *(_NON_FINITE if of.non_finite else ())))


_OTHERS: dict[str, Callable[[_Literal, object], object]] = {
    "int": _integer,
    "float": _float,
    "Number": _number,
    "bool": lambda _, value: not value,
    "ScalarType": lambda of, _: of.draw.of(_DTYPES),
    "String": lambda of, _: of.draw.of(_WORDS),
}
"""How another value is drawn, by the argument's type."""


def _other_operands(
    draw: Choose, operands: Mapping[str, Operand], names: Sequence[str]
) -> dict[str, Operand]:
    """Some, as the first, of other sizes, numbers or no weights (or ones); or of another dtype, at times with all of it."""
    first = operands[names[0]]
    some = {n: operands[n] for n in names}
    match draw.of((0, 0, 0, 1, 2, 3)):
        case 0:
            axis = draw.below(max(len(first.shape), 1))
            which = draw.below(len(_other_shapes(first.shape, axis)))
            alike = {n: o for n, o in some.items() if len(o.shape) == len(first.shape)}
            return {n: replace(o, shape=_other_shapes(o.shape, axis)[which]) for n, o in alike.items()}
        case 1:
            dtype, alone = draw.of(_DTYPES), draw.chance(2)
            same = some if alone else operands
            return {n: replace(o, dtype=dtype) for n, o in same.items() if o.dtype is first.dtype}
        case 2:
            number = float(draw.of(_FLOATS))
            return {n: replace(o, number=number) for n, o in some.items()}
        case _:
            return {
                n: replace(o, shape=_fixed(o.shape), is_weight=not first.is_weight) for n, o in some.items()
            }


def _fixed(shape: tuple[Size, ...]) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else 3 for d in shape)


def _other_shapes(shape: tuple[Size, ...], axis: int) -> list[tuple[Size, ...]]:
    """With an axis less or more, with none, with a size of one or another."""
    sized = [(*shape[:axis], size, *shape[axis + 1 :]) for size in (1, 2, 5)] if shape else []
    return [shape[1:], (1, *shape), shape[:-1], (*shape, 1), (), *sized]


def _taken(recording: Recording, change: Perturbation) -> Perturbation | None:
    """The perturbation, less what it leaves unused; None if torch does not take the calls.

    They must run on fake tensors, and on real ones at sizes that are drawn for a check.
    """
    b = ProgramBuilder()
    nodes = {name: _stand_in(b, operand) for name, operand in change.operands.items()}
    try:
        results, inner = emitted(b, recording, nodes, change.literals)
        if not results or not all(map(is_pure, b.program.calls())):
            return None
        program = b.finish(*results, *inner)
        samples = sample_inputs(program.signature, seed=0)
        if not all(_as_inferred(program, s.tensors, s.sizes) for s in samples):
            return None
    except _REFUSALS:
        return None
    used = {n: o for n, o in change.operands.items() if not isinstance(at := nodes[n], Node) or at.users}
    return Perturbation(indexing(used, nodes), change.literals)


def indexing(operands: Mapping[str, Operand], nodes: Mapping[str, Node | float]) -> dict[str, Operand]:
    """The operands, each with the rows of what its node indexes."""
    return {name: replace(operand, rows=_rows(nodes[name])) for name, operand in operands.items()}


def _rows(node: Node | float) -> int | None:
    return table_rows(node, varying=1) if isinstance(node, Node) else None


def _stand_in(b: ProgramBuilder, operand: Operand) -> Node | float:
    if operand.number is not None:
        return operand.number
    whole = not operand.dtype.is_floating_point and operand.dtype is not torch.bool
    if operand.is_weight:
        kind = "zeros" if whole else "positive"  # the first row is in every table
        return b.weight([int(d) for d in operand.shape], kind=kind, dtype=operand.dtype)
    return b.input(operand.shape, dtype=operand.dtype, low=0 if whole else None, high=2 if whole else None)


def _as_inferred(program: Program, tensors: Sequence[torch.Tensor], sizes: Mapping[str, int]) -> bool:
    """Whether the values have the shapes that were inferred from the example's sizes."""
    return all(
        [evaluate_dim(program.dim(d), dict(sizes)) for d in node.meta["val"].shape] == list(value.shape)
        for node, value in evaluate_each(program, tensors).items()
        if isinstance(value, torch.Tensor)
    )
