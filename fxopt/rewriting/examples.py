"""Values under which a pattern runs, and others near them: other sizes, ranks, dtypes, literals.

>>> from fxopt.rewriting.rule import Rule, rule_parameters
>>> import torch
>>> rule = Rule(lambda x, w: torch.conv2d(x, w), lambda x, w: x)
>>> _, tensors = Examples(rule, rule_parameters(rule), frozenset()).base()
>>> {name: list(t.shape) for name, t in tensors.items()}
{'x': [4, 4, 4, 4], 'w': [4, 4, 4, 4]}
"""

import itertools
from collections.abc import Iterator, Mapping

import torch
from torch.fx import Graph
from torch.utils import _pytree as pytree

from fxopt.program import Program, Signature, new_fake_mode
from fxopt.rewriting.ranks import find_arguments
from fxopt.rewriting.recorder import Recording, RecordingError, record
from fxopt.rewriting.rule import ArgumentKind, Parameter, Rule

__all__ = ["Examples", "Found", "values_near"]

Found = tuple[dict[str, object], dict[str, torch.Tensor]]
"""Literals and fake tensors under which a pattern runs."""

_SIZE = 4
_MIXTURES = 16


def _lists(n: int) -> list[list[int]]:
    """Strides and paddings, permutations, shapes of 4 x 4 elements."""
    made = ([1] * n, [2] * n, [1] * (n - 1) + [2], [0] * n, list(range(n)), list(range(n))[::-1], [4] * n)
    shapes = {1: [[16]], 2: [[2, 8], [8, 4]], 3: [[2, 2, 4]], 4: [[2, 2, 2, 2]]}
    return [*made, *shapes[n]]


_VALUES: dict[ArgumentKind, tuple[object, ...]] = {
    ArgumentKind.INT: (1, 2, 0, 3, -1),
    ArgumentKind.FLOAT: (0.5, 0.25, 1.5),
    ArgumentKind.BOOL: (False, True),
    ArgumentKind.DTYPE: (torch.float16, torch.float64, torch.bfloat16, torch.int64),
    ArgumentKind.INTS: tuple(v for n in (2, 3, 1, 4) for v in _lists(n)),
}


def values_near(kind: ArgumentKind, base: object) -> list[object]:
    """Other values of a literal: lists of the same length.

    >>> values_near(ArgumentKind.INT, 1)
    [2, 0, 3, -1]
    """
    return [
        v for v in _VALUES[kind] if v != base and (not isinstance(v, list) or _length(v) == _length(base))
    ]


def _length(value: object) -> int:
    return len(value) if isinstance(value, list) else -1


class Examples:
    """Values for the arguments of a rule's pattern, of which some optional ones are absent."""

    def __init__(self, rule: Rule, parameters: tuple[Parameter, ...], absent: frozenset[str]) -> None:
        self.rule, self.parameters, self.absent = rule, parameters, absent
        self._names = [p.name for p in parameters]
        self.tensors = [p.name for p in parameters if p.is_tensor and p.name not in absent]
        self._literals = [p for p in parameters if not p.is_tensor and p.name not in absent]
        self._program = _scratch()

    def recorded(self, literals: Mapping[str, object], tensors: Mapping[str, torch.Tensor]) -> Recording:
        """The pattern on these values.

        Raises:
            RecordingError: it does not run on them.
        """
        values = {n: tensors[n] if n in tensors else literals.get(n) for n in self._names}
        return record(self._program, self.rule.pattern, values)

    def record(self, literals: Mapping[str, object], tensors: Mapping[str, torch.Tensor]) -> Recording | None:
        """The pattern on these values, None if it does not run on them."""
        try:
            return self.recorded(literals, tensors)
        except RecordingError:
            return None

    def base(self) -> Found | str:
        """Values under which the pattern runs, or why there are none."""
        return next(self.bases())

    def bases(self) -> Iterator[Found | str]:
        """Values under which the pattern runs, likely ones first.

        If it can be recorded on none of them, the last; if there are none, why.
        """
        why: Found | str = ""
        for thorough in (False, True):
            none = True
            for found in self._found(thorough=thorough):
                if isinstance(found, str):
                    why = why or found
                elif self.record(*found) is None:  # what the search runs on takes more
                    why = found
                else:
                    none = False
                    yield found
            if not none:
                return
        yield why

    def _found(self, *, thorough: bool) -> Iterator[Found | str]:
        """With each choice of literals; if thorough, with one size changed too, until it suits."""
        for literals in self._literal_choices():
            yield self._find(literals, {}, thorough=thorough)
        literals = self._first_values()
        for name, axis, size in itertools.product(self.tensors, range(5), (1, 2)) if thorough else ():
            found = self._find(literals, {name: {axis: size}}, thorough=False)
            yield found
            if not isinstance(found, str):
                return

    def subset(self, found: Found) -> Found | None:
        """What suits the pattern with more arguments, if it suits this one."""
        literals = {p.name: found[0][p.name] for p in self._literals}
        tensors = self._made({n: list(found[1][n].shape) for n in self.tensors}, found[1])
        return (literals, tensors) if self.record(literals, tensors) is not None else None

    def dtypes(self, found: Found) -> Iterator[Found]:
        """The same with all float tensors as half, as whole numbers, as truth values."""
        literals, tensors = found
        for dtype in (torch.float16, torch.int64, torch.bool):
            changed = {n: dtype for n, t in tensors.items() if t.dtype is torch.float32}
            if changed:
                yield literals, self._made({n: list(t.shape) for n, t in tensors.items()}, tensors, changed)

    def shapes(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
        """Other sizes for all; one more leading dimension, for all and for each that may be computed."""
        shapes = {n: list(t.shape) for n, t in tensors.items()}
        yield from self.scaled(tensors)
        for name, shape in shapes.items():  # the pattern names a size; it need not be that of every axis
            for axis, size in enumerate(shape):
                if size != _SIZE:
                    changed = {name: [6 if i == axis else d for i, d in enumerate(shape)]}
                    yield self._made({**shapes, **changed}, tensors)
        deeper = {n: [_SIZE, *s] for n, s in shapes.items()}
        yield self._made(deeper, tensors)
        computed = [p.name for p in self.parameters if p.kind is ArgumentKind.TENSOR and p.name in shapes]
        if len(shapes) > 1:
            for name in computed:
                yield self._made({**shapes, name: deeper[name]}, tensors)

    def scaled(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
        """Other sizes for all."""
        for size in (6, 8, 2):
            shapes = {n: [size if d == _SIZE else d for d in t.shape] for n, t in tensors.items()}
            yield self._made(shapes, tensors)

    def resized(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
        """One argument's sizes changed: those of space (a dilation needs room), the second (groups), any."""
        shapes = {n: list(t.shape) for n, t in tensors.items()}
        wide = [{n: [*s[:2], *(2 * d for d in s[2:])]} for n, s in shapes.items() if len(s) > 2]
        second = [{n: [s[0], 2, *s[2:]]} for n, s in shapes.items() if len(s) > 2]
        single = [
            {n: [size if i == axis else d for i, d in enumerate(s)]}
            for n, s in shapes.items()
            for axis in range(len(s))
            for size in (2, 8, 1)
        ]
        for changed in (*wide, *second, *single):
            yield self._made({**shapes, **changed}, tensors)

    def _literal_choices(self) -> Iterator[dict[str, object]]:
        """Values for the literals: lists of one length, all alike, or one of them zeros; then mixtures."""
        base = self._first_values()
        lists = [p.name for p in self._literals if p.kind is ArgumentKind.INTS]
        for length in (2, 3, 1, 4) if lists else ():
            ones = {**base, **{n: [1] * length for n in lists}}
            yield ones
            yield from ({**ones, n: [0] * length} for n in lists)
            yield {**ones, **{n: [_SIZE] * length for n in lists}}
        product = itertools.product(*(_VALUES[p.kind] for p in self._literals))
        for values in itertools.islice(product, _MIXTURES):
            yield dict(zip((p.name for p in self._literals), values, strict=True))

    def _first_values(self) -> dict[str, object]:
        """Dtypes all different: a cast to the dtype that a value has is no call."""
        dtypes = itertools.cycle(_VALUES[ArgumentKind.DTYPE])
        return {
            p.name: next(dtypes) if p.kind is ArgumentKind.DTYPE else _VALUES[p.kind][0]
            for p in self._literals
        }

    def _find(
        self, literals: Mapping[str, object], sizes: Mapping[str, Mapping[int, int]], *, thorough: bool
    ) -> Found | str:
        found = find_arguments(
            self.rule.pattern, self.tensors, literals, self._names, sizes=sizes, thorough=thorough
        )
        if isinstance(found, str):
            return found
        return dict(literals), self._made({n: list(t.shape) for n, t in found.items()}, found)

    def _made(
        self,
        shapes: Mapping[str, list[int]],
        like: Mapping[str, torch.Tensor],
        dtypes: Mapping[str, torch.dtype] | None = None,
    ) -> dict[str, torch.Tensor]:
        with self._program.fake_mode:
            return {n: torch.empty(s, dtype=(dtypes or {}).get(n, like[n].dtype)) for n, s in shapes.items()}


def _scratch() -> Program:
    """A program without nodes, for its fake mode."""
    empty = pytree.tree_structure(())
    return Program(Graph(), {}, Signature((), (), empty, empty), fake_mode=new_fake_mode())
