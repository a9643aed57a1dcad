"""Motifs: a pass's own pattern planted in a program, and near-misses of it.

Uniform random programs find none of the classic pass bugs, planted motifs find all of them. A motif is a
plain function in the manner of a rule's pattern; near-misses are made from it: an inner value gets another
user, a weight becomes an input, two plantings share a weight, the motif is planted behind itself, arguments
get other ranks and sizes, literals and dtypes are perturbed (see `fxopt.testing.perturbation`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch.fx import Node

from fxopt.frontend.capture import quiet_torch
from fxopt.program import Program
from fxopt.rewriting.recorder import Recording, RecordingError, record
from fxopt.rewriting.rule import ArgumentKind, Parameter, Rule, rule_parameters
from fxopt.rewriting.template import example_arguments
from fxopt.testing.builder import WEIGHT_KINDS, ProgramBuilder
from fxopt.testing.choice import Choose
from fxopt.testing.emission import NoSize, emitted
from fxopt.testing.perturbation import Operand, Perturbation, drawn_perturbation, indexing

__all__ = ["Motif", "focused", "plant"]

Function = Callable[..., object]
Axis = tuple[str, int]
Size = int | torch.SymInt
Shapes = dict[str, list[Size]]

_SIZES = (4, 3, 2, 6, 1)
_INDEX_ROWS = 3
"""A weight of kind "index" has values below."""


class _Example:
    """Literals and shapes under which a motif runs, and which of its sizes go together.

    All sizes are 4 at first, which would hide a wrong axis: `coupled` lists the sets of axes that can change
    only together.
    """

    def __init__(
        self, motif: Function, literals: dict[str, object], shapes: Shapes, dtypes: dict[str, torch.dtype]
    ) -> None:
        self.motif, self.literals, self.shapes, self.dtypes = motif, literals, shapes, dtypes
        self.coupled: list[frozenset[Axis]] = []
        self._recorded: dict[str, Recording | None] = {}

    def find_coupled(self, program: Program) -> None:
        """From all axes changed at once, restores those that the change of one does not need."""
        axes = [(n, i) for n, shape in self.shapes.items() for i, d in enumerate(shape) if d == _SIZES[0]]
        for axis in axes:
            if any(axis in c for c in self.coupled):
                continue
            together = set(axes)
            if not self.runs(program, dict.fromkeys(together, 6)):
                continue
            for other in axes:
                if other != axis and self.runs(program, dict.fromkeys(together - {other}, 6)):
                    together.discard(other)
            self.coupled.append(frozenset(together))

    def sized(self, sizes: Mapping[Axis, int]) -> Shapes:
        """The shapes with some sizes changed."""
        return {n: [sizes.get((n, i), d) for i, d in enumerate(shape)] for n, shape in self.shapes.items()}

    def runs(self, program: Program, sizes: Mapping[Axis, int]) -> bool:
        """Whether the motif runs at these sizes."""
        return self.record(program, self.sized(sizes)) is not None

    def computes(self) -> bool:
        """Whether kernels take what shape inference takes (that of `addmm` takes a sum with four axes)."""
        given = {n: torch.ones(self.shapes[n], dtype=self.dtypes[n]) for n in self.shapes}
        try:
            with torch.no_grad():
                self.motif(
                    **{p.name: given.get(p.name, self.literals.get(p.name)) for p in _parameters(self.motif)}
                )
        except (RuntimeError, IndexError, TypeError, ValueError):
            return False
        return True

    def operands(self, shapes: Shapes) -> dict[str, Operand]:
        """The tensor arguments at these shapes."""
        return {
            p.name: Operand(tuple(shapes[p.name]), self.dtypes[p.name], p.kind is ArgumentKind.CONST)
            for p in _parameters(self.motif)
            if p.name in shapes
        }

    def record(self, program: Program, shapes: Shapes) -> Recording | None:
        """The motif at these shapes, None if it does not take them."""
        key = str(shapes)
        if key not in self._recorded:  # built programs share one fake mode
            self._recorded[key] = self._record(program, shapes)
        return self._recorded[key]

    def _record(self, program: Program, shapes: Shapes) -> Recording | None:
        with program.fake_mode:
            fakes = {n: torch.empty(tuple(shape), dtype=self.dtypes[n]) for n, shape in shapes.items()}
        values = {
            p.name: fakes[p.name] if p.name in fakes else self.literals.get(p.name)
            for p in _parameters(self.motif)
        }
        try:
            recording = record(program, self.motif, values)
        except RecordingError:
            return None
        return None if any(map(_counts_by_example, recording.calls)) else recording


def _counts_by_example(call: Node) -> bool:
    """Whether a call gives as many parts as the example has room for: with fewer rows one would be of a negative size."""
    value = call.meta["val"]
    sizes = (d for part in value for d in part.shape) if isinstance(value, (tuple, list)) else ()
    expressions = [d.node.expr for d in sizes if isinstance(d, torch.SymInt)]
    return any(e.subs(dict.fromkeys(e.free_symbols, 1)) < 0 for e in expressions)


@cache
def _parameters(motif: Function) -> tuple[Parameter, ...]:
    return rule_parameters(Rule(motif, motif))


@cache
def _examples(motif: Function) -> list[_Example]:
    """Where a motif runs: optional arguments left out, one argument of another rank; found once."""
    found: dict[str, _Example] = {}
    with quiet_torch():
        for example in _tried(motif):
            found.setdefault(repr((example.literals, example.shapes)), example)
    return list(found.values())


def _tried(motif: Function) -> Iterator[_Example]:
    program = ProgramBuilder().program
    for literals, tensors in example_arguments(Rule(motif, motif)):
        shapes: Shapes = {n: list(t.shape) for n, t in tensors.items()}
        dtypes = {n: t.dtype for n, t in tensors.items()}
        ranks: list[Shapes] = [
            {},
            *(
                dict[str, list[Size]]({n: [4] * r})
                for n in shapes
                for r in (1, 2, 3, 4)
                if r != len(shapes[n])
            ),
        ]
        for changed in ranks:
            example = _Example(motif, literals, {**shapes, **changed}, dtypes)
            if example.runs(program, {}) and example.computes():
                example.find_coupled(program)
                yield example


@dataclass(frozen=True)
class Motif:
    """A function annotated as a rule's pattern is, and the examples of it that are planted most."""

    function: Function
    likely: tuple[_Example, ...] = ()


def focused(function: Function, fires: Callable[[Program], bool]) -> Motif:
    """The motif with the examples for which `fires` is true as likely: a guard may accept few ranks."""
    likely = []
    for example in _examples(function):
        b = ProgramBuilder()
        results = _plant(Choose(lambda _: 0), b, example, ())
        if results and fires(b.finish(*results)):
            likely.append(example)
    return Motif(function, tuple(likely))


def plant(
    draw: Choose, b: ProgramBuilder, motif: Motif, pool: Sequence[Node], *, perturb: bool = False
) -> list[Node]:
    """Plants a motif; returns its results, and inner values that must get another user.

    Args:
        draw: choices.
        b: the program.
        motif: what to plant.
        pool: values that may serve as its arguments.
        perturb: one in three has other literals, ranks or dtypes.
    """
    likely = motif.likely if motif.likely and not draw.chance(4) else _examples(motif.function)
    return _plant(draw, b, draw.of(likely), pool, perturb=perturb)


def _plant(
    draw: Choose, b: ProgramBuilder, example: _Example, pool: Sequence[Node], *, perturb: bool = False
) -> list[Node]:
    sizes: dict[Axis, int] = {}
    for together in example.coupled:
        sizes |= dict.fromkeys(together, draw.of(_SIZES))
    shapes = example.sized(sizes)
    dynamic = _dynamic(b, example, shapes) if not draw.chance(4) else shapes
    for attempt in (dynamic, shapes, example.shapes):
        with quiet_torch():  # sizes that do not suit are tried, and torch logs each complaint
            recording = example.record(b.program, attempt)
        if recording is not None:
            operands = indexing(example.operands(attempt), recording.placeholders)
            change = drawn_perturbation(draw, b, recording, operands) if perturb and draw.chance(3) else None
            return _emit(draw, b, recording, change or Perturbation(operands), pool)
    return []


def _dynamic(b: ProgramBuilder, example: _Example, shapes: Shapes) -> Shapes:
    """The shapes with the first axis of every tensor that is no weight as the batch."""
    kinds = {p.name: p.kind for p in _parameters(example.motif)}
    return {
        n: [b.batch, *shape[1:]] if kinds[n] is ArgumentKind.TENSOR and len(shape) >= 2 else shape
        for n, shape in shapes.items()
    }


def _argument(
    draw: Choose, b: ProgramBuilder, name: str, operand: Operand, pool: Sequence[Node]
) -> Node | float:
    """A node for an argument: mostly a weight for a `Const`, else a value of the pool or a new input."""
    if operand.number is not None:
        return operand.number
    key, dtype = list(map(str, operand.shape)), operand.dtype
    if operand.is_weight and not draw.chance(8):
        sizes = [int(d) for d in operand.shape]
        weights = b.program.weight_nodes()
        same = [
            w for w in weights if list(map(str, w.meta["val"].shape)) == key and w.meta["val"].dtype == dtype
        ]
        if same and operand.rows is None and draw.chance(3):
            return draw.of(same)
        return b.weight(sizes, kind=_weight_kind(draw, b, name, operand), seed=draw.below(8), dtype=dtype)
    fitting = [p for p in pool if list(map(str, b.value(p).shape)) == key and b.value(p).dtype == dtype]
    if operand.rows is not None:  # of an input it is known what it may be
        fitting = [p for p in fitting if p.op == "placeholder"]
    if fitting and not draw.chance(5):
        return draw.latest(fitting)
    if dtype.is_floating_point or dtype is torch.bool:
        return b.input(operand.shape, dtype=dtype)
    return b.input(operand.shape, dtype=dtype, low=0, high=2)


def _weight_kind(draw: Choose, b: ProgramBuilder, name: str, operand: Operand) -> str:
    """How a weight's values are drawn: what indexes a table lies within it, a variance is positive."""
    if operand.rows is not None:
        return "index" if operand.rows >= _INDEX_ROWS else "zeros"
    if "var" in name:
        return "positive"
    return draw.of(("normal", "normal", "normal", "constant", "integers", *b.kinds[len(WEIGHT_KINDS) :]))


def _emit(
    draw: Choose, b: ProgramBuilder, recording: Recording, change: Perturbation, pool: Sequence[Node]
) -> list[Node]:
    nodes = {name: _argument(draw, b, name, operand, pool) for name, operand in change.operands.items()}
    try:
        results, inner = emitted(b, recording, nodes, change.literals)
    except NoSize:
        return []
    return [*results, draw.of(inner)] if inner and draw.chance(6) else results
