"""Checks of an entry's facts on its own samples: what each found wrong, and how often it could look."""

from collections.abc import Callable, Sequence

import torch
from torch.utils import _pytree as pytree

from fxopt.ops import (
    Aliasing,
    OpInfo,
    QuantRole,
    argument_kinds,
    bind_call,
    canonical_arguments,
    is_commutative,
    is_pure,
    is_random,
    is_view,
)
from tests.ops import cutting
from tests.ops.movement import check_index_map
from tests.ops.samples import Outcome, cases, pure_cases


def _close(got: torch.Tensor, wanted: torch.Tensor, sample: torch.Tensor | None = None) -> bool:
    """Equal up to float64's rounding, where the sample's own output is finite."""
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return False
    if not got.is_floating_point():
        return torch.equal(got, wanted)
    finite = (wanted if sample is None else sample).isfinite()
    return torch.allclose(got[finite], wanted[finite], rtol=1e-9, atol=1e-10)


Tensors = Sequence[torch.Tensor]


def _all_close(got: Tensors, wanted: Tensors, samples: Tensors | None = None) -> bool:
    samples = wanted if samples is None else samples
    return len(got) == len(wanted) and all(map(_close, got, wanted, samples))


def _like(tensor: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)


def check_elementwise(info: OpInfo) -> Outcome:
    """A permutation of all positions commutes with the op."""
    outcome = Outcome()
    for case in pure_cases(info):
        names = case.tensor_names()
        tensors = [t for n in names for t in case.tensors(n)]
        shape = torch.broadcast_shapes(*(t.shape for t in tensors))
        if shape.numel() < 2:
            continue
        order = torch.randperm(shape.numel(), generator=torch.Generator().manual_seed(1))
        flat = [t.expand(shape).reshape(-1)[order] if t.dim() else t for t in tensors]
        (expected,) = case.run()
        (got,) = case.run(**dict(zip(names, flat, strict=True)))
        outcome.expect(
            _close(got, expected.reshape(-1)[order]), f"{case} is not the same function everywhere"
        )
    return outcome


def check_linear_in(info: OpInfo) -> Outcome:
    """Additive and homogeneous in each named argument."""
    outcome = Outcome()
    for case in pure_cases(info):
        for name in filter(case.tensors, info.linear_in):
            x, y = case.run(), case.run(**case.mapped(name, lambda t: _like(t, 1)))
            total = case.run(**case.mapped(name, lambda t: t + _like(t, 1)))
            scaled = case.run(**case.mapped(name, lambda t: -2.5 * t))
            parts = [a + b for a, b in zip(x, y, strict=True)]
            outcome.expect(_all_close(total, parts, x), f"{case} is not additive in {name}")
            outcome.expect(
                _all_close(scaled, [-2.5 * a for a in x], x), f"{case} is not homogeneous in {name}"
            )
    return outcome


def check_affine_in(info: OpInfo) -> Outcome:
    """Linear in each named argument, less the value at zero."""
    outcome = Outcome()
    for case in pure_cases(info):
        for name in filter(case.tensors, info.affine_in):
            x, y = case.run(), case.run(**case.mapped(name, lambda t: _like(t, 1)))
            zero = case.run(**case.mapped(name, torch.zeros_like))
            total = case.run(**case.mapped(name, lambda t: t + _like(t, 1)))
            scaled = case.run(**case.mapped(name, lambda t: -2.5 * t))
            parts = [a + b - c for a, b, c in zip(x, y, zero, strict=True)]
            outcome.expect(_all_close(total, parts, x), f"{case} is not affine in {name}")
            parts = [-2.5 * (a - c) + c for a, c in zip(x, zero, strict=True)]
            outcome.expect(_all_close(scaled, parts, x), f"{case} is not affine in {name}")
    return outcome


def check_monotone(info: OpInfo) -> Outcome:
    """More in the first argument is never less in the output, element by element."""
    outcome = Outcome()
    if not info.elementwise:
        outcome.problems.append(f"{info.op} is not elementwise")
    for case in pure_cases(info):
        name = argument_kinds(case.op)[0].name
        if not case.tensors(name) or not case.tensors(name)[0].is_floating_point():
            continue
        for seed, scale in ((1, 0.1), (2, 1.0), (3, 10.0)):
            for low in (case.mapped(name, lambda t: t), case.mapped(name, lambda t, s=seed: _like(t, s))):
                high = {name: low[name] + scale * _like(low[name], seed + 10).abs()}
                before, after = case.run(**low)[0].double(), case.run(**high)[0].double()
                known = ~(before.isnan() | after.isnan())
                outcome.expect(bool((after[known] >= before[known] - 1e-12).all()), f"{case} falls")
    return outcome


def check_homogeneous(info: OpInfo) -> Outcome:
    """The first argument s times as large, for s > 0, gives s times as much."""
    outcome = Outcome()
    for case in pure_cases(info):
        if callable(info.homogeneous) and not info.homogeneous(case.bound):
            continue
        name, before = argument_kinds(case.op)[0].name, case.run()
        for factor in (0.25, 3.0):
            after = case.run(**case.mapped(name, lambda t, s=factor: s * t))
            parts = [factor * t for t in before]
            outcome.expect(_all_close(after, parts, before), f"{case} is not homogeneous")
    return outcome


def check_steps(info: OpInfo) -> Outcome:
    """A little more or less in the first argument changes nothing, or jumps by what is no little."""
    outcome = Outcome()
    for case in pure_cases(info):
        name, before = argument_kinds(case.op)[0].name, case.run()[0]
        for little in (1e-9, -1e-9):
            after = case.run(**case.mapped(name, lambda t, s=little: t * (1 + s)))[0]
            moved = (after - before).abs()
            outcome.expect(bool(((moved == 0) | (moved > 1e-3)).all()), f"{case} is no step function")
        far = case.run(**case.mapped(name, lambda t: t + 3))[0]
        outcome.expect(bool((far != before).any()), f"{case} has no step")
    return outcome


def check_centres(info: OpInfo) -> Outcome:
    """The same number more in all of the first argument changes nothing of the first output."""
    outcome = Outcome()
    for case in pure_cases(info):
        if callable(info.centres) and not info.centres(case.bound):
            continue
        name, before = argument_kinds(case.op)[0].name, case.run()[0]
        after = case.run(**case.mapped(name, lambda t: t + 3))[0]
        outcome.expect(bool(torch.allclose(after, before, rtol=1e-9, atol=1e-12)), f"{case} sees the mean")
    return outcome


def check_zero_preserving(info: OpInfo) -> Outcome:
    """Zeros in, zeros out, wherever the sample itself gives something finite."""
    outcome = Outcome()
    for case in pure_cases(info):
        name = next(k.name for k in argument_kinds(case.op) if k.base == "Tensor")
        if not case.tensors(name):
            continue
        pairs = list(zip(case.run(**case.mapped(name, torch.zeros_like)), case.run(), strict=True))
        floats = [(got, sample) for got, sample in pairs if got.is_floating_point()]
        for got, sample in floats or pairs:  # the places of a maximum need not be zero
            outcome.expect(bool((got[sample.isfinite()] == 0).all()), f"{case} is not zero at {name} = 0")
    return outcome


def check_commutative(info: OpInfo) -> Outcome:
    """The first two arguments, swapped, give the same."""
    outcome = Outcome()
    for case in pure_cases(info):
        if is_commutative(case.node()):
            first, second = (k.name for k in argument_kinds(case.op)[:2])
            swapped = case.run(**{first: case.bound[second], second: case.bound[first]})
            outcome.expect(_all_close(swapped, case.run()), f"{case} does not commute")
    return outcome


def check_pure(info: OpInfo) -> Outcome:
    """Pure calls repeat and leave their inputs alone; calls that are said to be impure are seen to be."""
    outcome = Outcome()
    for case in cases(info):
        inputs = [t for n in case.tensor_names() for t in case.tensors(n)]
        copies, versions = [t.clone() for t in inputs], [t._version for t in inputs]
        first, second = case.run(), case.run()
        same = all(
            torch.equal(a.nan_to_num(7.5), b.nan_to_num(7.5)) for a, b in zip(first, second, strict=True)
        )
        untouched = versions == [t._version for t in inputs] and _all_close(inputs, copies)
        node = case.node()
        outcome.expect(is_pure(node) == (same and untouched), f"{case}: pure is {is_pure(node)}")
        outcome.expect(is_random(node) != same, f"{case}: random is {is_random(node)}")
    return outcome


def _storages(tensors: Sequence[torch.Tensor]) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}


def check_aliasing(info: OpInfo) -> Outcome:
    """Outputs share memory only where that is declared; MAYBE is said only of what no schema says."""
    outcome = Outcome()
    shared = False
    for case in cases(info):
        inputs = [t for n in case.tensor_names() for t in case.tensors(n)]
        alias = bool(_storages(inputs) & _storages(case.run()))
        shared |= alias
        outcome.expect(is_view(case.op) or not alias, f"{case} shares memory, undeclared")
        if info.aliasing is Aliasing.MAYBE:
            outcome.expect(
                all(r.alias_info is None for r in case.op._schema.returns), f"{case.op} declares its alias"
            )
    if info.aliasing is Aliasing.MAYBE:
        outcome.expect(shared, f"{info.op} was never seen to share memory")
    return outcome


def check_dims(info: OpInfo) -> Outcome:
    """A dimension counted from the end is the same call, and has the same canonical form."""
    outcome = Outcome()
    for case in cases(info):
        first = case.tensors(next(k.name for k in argument_kinds(case.op) if k.base == "Tensor"))[0]
        rank = max(first.dim() + info.dims_inserted, 1)
        for name in info.dims:
            value = case.bound.get(name)
            if value is None or value == []:
                continue
            outcome.expect(_in_range(value, rank), f"{case}: {name} is not canonical")
            negative = [d - rank for d in value] if isinstance(value, list) else value - rank
            if is_pure(case.node()):
                outcome.expect(
                    _all_close(case.run(**{name: negative}), case.run()), f"{case} at {name} = {negative}"
                )
            kinds = argument_kinds(case.op)
            bound = {**case.bound, name: negative}
            args, kwargs = canonical_arguments(
                case.op,
                tuple(bound[k.name] for k in kinds if not k.keyword_only),
                {k.name: bound[k.name] for k in kinds if k.keyword_only},
            )
            outcome.expect(bind_call(case.op, args, kwargs)[name] == value, f"{case}: {negative} stays")
    return outcome


def _in_range(value: object, rank: int) -> bool:
    return all(0 <= d < rank for d in pytree.tree_leaves(value))


def _narrowed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def check_dtype_args(info: OpInfo) -> Outcome:
    """The literal decides the output's dtype."""
    outcome = Outcome()
    for case in cases(info):
        floats = case.run()[0].is_floating_point()
        narrow = {k: v for n in case.tensor_names() for k, v in case.mapped(n, _narrowed).items()}
        for name in info.dtype_args:
            if name in case.bound:
                dtypes = [torch.float32, torch.float64] if floats else [torch.int32, torch.int64]
                got = [case.run(**narrow, **{name: dtype})[0].dtype for dtype in dtypes]
                outcome.expect(got == dtypes, f"{case}: {name} does not decide the dtype")
    return outcome


def check_role(info: OpInfo) -> Outcome:
    """Same-scale outputs stay in the range of inputs, literals and zero; contractions are products."""
    outcome = Outcome()
    if info.role is QuantRole.CONTRACTION and "einsum" not in info.op:
        outcome.expect(len(info.linear_in + info.affine_in) > 1, f"{info.op} is no product")
    for case in pure_cases(info) if info.role is QuantRole.SAME_SCALE else ():
        numbers = [v for v in case.bound.values() if isinstance(v, (int, float))]
        inputs = [t for n in case.tensor_names() for t in case.tensors(n) if t.is_floating_point()]
        limits = torch.cat([torch.tensor([0.0, *numbers]), *(t.reshape(-1) for t in inputs)])
        for output in case.run():
            if output.is_floating_point():
                ok = bool((output >= limits.min()).all() and (output <= limits.max()).all())
                outcome.expect(ok, f"{case} leaves the range")
    return outcome


def check_picks(info: OpInfo) -> Outcome:
    """No more elements of the argument than the output has can move it."""
    outcome = Outcome()
    for case in pure_cases(info):
        for name in filter(case.tensors, info.picks):
            (tensor,), before = case.tensors(name), case.run()
            moving = 0
            for place in range(tensor.numel()):
                changed = tensor.flatten().index_fill(0, torch.tensor(place), 77).reshape(tensor.shape)
                moving += not _all_close(case.run(**{name: changed}), before)
            outcome.expect(0 < moving <= before[0].numel(), f"{case} reads {moving} elements of {name}")
    return outcome


CHECKS: dict[str, Callable[[OpInfo], Outcome]] = {
    "index_map": check_index_map,
    "elementwise": check_elementwise,
    "linear_in": check_linear_in,
    "affine_in": check_affine_in,
    "homogeneous": check_homogeneous,
    "monotone": check_monotone,
    "steps": check_steps,
    "centres": check_centres,
    "zero_preserving": check_zero_preserving,
    "commutative": check_commutative,
    "pure": check_pure,
    "aliasing": check_aliasing,
    "dims": check_dims,
    "dtype_args": check_dtype_args,
    "role": check_role,
    "picks": check_picks,
    "resize": cutting.check_resize,
    "same_everywhere": cutting.check_same_everywhere,
    "keeps_constants": cutting.check_keeps_constants,
    "scaled_by": cutting.check_scaled_by,
    "shifted_by": cutting.check_shifted_by,
    "units": cutting.check_units,
    "pads": cutting.check_pads,
    "moves": cutting.check_moves,
    "shape_only": cutting.check_shape_only,
}
