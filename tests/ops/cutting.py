"""What entries say of slices: constant ones, zero ones, and calls on some of the positions."""

from collections.abc import Iterator, Sequence

import torch

from fxopt.ops import (
    Cut,
    Index,
    IndexMap,
    Kept,
    Mark,
    Operand,
    OpInfo,
    QuantRole,
    align_inputs,
    align_outputs,
    argument_kinds,
    call_index_map,
)
from tests.ops.samples import Case, Outcome, pure_cases

Places = list[tuple[int, ...] | None]


class Mapped:
    """A sample call with its index map."""

    def __init__(self, case: Case, index_map: IndexMap) -> None:
        self.case = case
        self.inputs = align_inputs(case.op, index_map, case.bound)
        self.values = case.run()
        self.outputs = align_outputs(index_map, case.value())
        used = IndexMap(tuple(o for _, o, _ in self.inputs), tuple(o for o, _ in self.outputs))
        self.extents = used.extents([t.shape for _, _, t in self.inputs], [t.shape for _, t in self.outputs])
        items = [(o, t.shape) for _, o, t in self.inputs]
        self.marks = {
            i.name: i.mark for o, s in items for d in o.expanded(len(s)) for i in d.indices if i.mark.value
        }
        self.kept = {i.name for o, t in self.outputs for d in o.expanded(t.dim()) for i in d.indices}

    def indices(self) -> list[str]:
        """Carried indices of more than one position."""
        return [
            n for n, e in self.extents.items() if e > 1 and self.marks.get(n, Mark.CARRIED) is Mark.CARRIED
        ]

    def places(self, operand: Operand, shape: Sequence[int], index: str, stay: set[int]) -> Places:
        """The positions of each dimension at which an index is among some, None for dimensions without it."""
        found: Places = []
        for dim, size in zip(operand.expanded(len(shape)), shape, strict=True):
            names = [i.name for i in dim.indices if self.extents.get(i.name) != 1]
            if index not in names or size == 1:
                found.append(None)
                continue
            sizes = [self.extents[n] for n in names]
            grid = torch.arange(sizes[names.index(index)]).reshape([-1 if n == index else 1 for n in names])
            flat = grid.expand(sizes).reshape(-1).tolist()
            found.append(tuple(p for p, c in enumerate(flat) if c in stay))
        return found


def mapped(info: OpInfo) -> Iterator[Mapped]:
    for case in pure_cases(info):
        index_map = call_index_map(case.op, case.bound)
        if index_map is not None:
            yield Mapped(case, index_map)


def select(tensor: torch.Tensor, places: Places) -> torch.Tensor:
    for dim, stay in enumerate(places):
        if stay is not None:
            tensor = tensor.index_select(dim, torch.tensor(stay))
    return tensor


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return torch.allclose(a.double(), b.double(), rtol=1e-9, atol=1e-10, equal_nan=True)


def _rebound(m: Mapped, tensors: list[torch.Tensor]) -> dict[str, object]:
    """The arguments with other tensors, in the order of the map."""
    given: dict[str, list[torch.Tensor]] = {}
    for (name, _, _), tensor in zip(m.inputs, tensors, strict=True):
        given.setdefault(name, []).append(tensor)
    made: dict[str, object] = {}
    for name, given_tensors in given.items():
        old, rest = m.case.bound[name], iter(given_tensors)
        made[name] = [None if o is None else next(rest) for o in old] if isinstance(old, list) else next(rest)
    return made


def _run(op: torch._ops.OpOverload, bound: dict[str, object]) -> list[torch.Tensor]:
    return Case(op, bound).run()


def check_resize(info: OpInfo) -> Outcome:
    """Cut along a carried index, a call gives the results there; a contracted one may lose zeros."""
    outcome = Outcome()
    for m in mapped(info):
        uncut = info.uncut(m.case.bound) if callable(info.uncut) else m.indices() if info.uncut else []
        for index in set(m.indices()) - set(uncut):
            holders = sum(
                any(i.name == index for i in o.indices()) or index.startswith("*") for _, o, _ in m.inputs
            )
            contracted = index not in m.kept
            skips = info.skips_zeros
            sums = index in skips if isinstance(skips, tuple) else skips
            sums = sums or (info.role is QuantRole.CONTRACTION and holders > 1)
            if contracted and not sums:
                continue
            _check_cut(info, m, index, contracted, outcome)
    return outcome


def _check_cut(info: OpInfo, m: Mapped, index: str, contracted: bool, outcome: Outcome) -> None:
    gone = {0}
    stay = set(range(m.extents[index])) - gone
    inputs = [m.places(o, t.shape, index, stay) for _, o, t in m.inputs]
    outputs = [m.places(o, t.shape, index, stay) for o, t in m.outputs]
    tensors = [t for _, _, t in m.inputs]
    if contracted:
        zeros = [m.places(o, t.shape, index, gone) for _, o, t in m.inputs]
        first = next(i for i, places in enumerate(zeros) if any(places))
        tensors[first] = _zeroed(tensors[first], zeros[first])
    whole = m.case.run(**_rebound(m, tensors))
    kept: dict[str, tuple[Kept, ...]] = {}
    for (name, _, _), places in zip(m.inputs, inputs, strict=True):
        kept[name] = (*kept.get(name, ()), tuple(places))
    shapes = tuple(tuple(t.shape) for t in m.values)
    op, literals = m.case.op, {}
    if info.resize is not None:
        resized = info.resize(Cut(op, m.case.bound, kept, tuple(map(tuple, outputs)), shapes))
        outcome.expect(resized is not None, f"{m.case}: it can't be cut along {index}")
        if resized is None:
            return
        op, literals = resized
    bound = {**m.case.bound, **_rebound(m, [select(t, p) for t, p in zip(tensors, inputs, strict=True)])}
    for name, value in literals.items():
        old = bound.get(name)
        filled = isinstance(value, list) and isinstance(old, list) and None in value
        bound[name] = [o if v is None else v for v, o in zip(value, old, strict=True)] if filled else value
    bound = {k.name: bound[k.name] for k in argument_kinds(op)}
    expected = [select(t, p) for t, p in zip(whole, outputs, strict=True)]
    got = _run(op, bound)
    outcome.expect(
        all(map(close, got, expected)), f"{m.case}: {op} on all but the first of {index} with {literals}"
    )


def check_units(info: OpInfo) -> Outcome:
    """Without a unit that no other one reads, a call gives the results of the others."""
    outcome = Outcome()
    for m in mapped(info):
        stay = set(range(1, m.extents[info.units]))
        inputs = [m.places(o, t.shape, info.units, stay) for _, o, t in m.inputs]
        outputs = [m.places(o, t.shape, info.units, stay) for o, t in m.outputs]
        tensors = [t for _, _, t in m.inputs]
        twice = next(i for i, (_, o, _) in enumerate(m.inputs) if [*o.indices()].count(_unit(info)) == 2)
        tensors[twice] = tensors[twice].index_fill(1, torch.tensor(0), 0)
        whole = m.case.run(**_rebound(m, tensors))
        got = m.case.run(**_rebound(m, [select(t, p) for t, p in zip(tensors, inputs, strict=True)]))
        expected = [select(t, p) for t, p in zip(whole, outputs, strict=True)]
        outcome.expect(all(map(close, got, expected)), f"{m.case}: the others change without the first unit")
        states = [t.shape for name, _, t in m.inputs if name == info.state]
        outcome.expect(
            [t.shape for t in whole[-len(states) :]] == states, f"{m.case}: the states are not last"
        )
    return outcome


def _unit(info: OpInfo) -> Index:
    return Index(info.units, Mark.MIXED)


def _zeroed(tensor: torch.Tensor, places: Places) -> torch.Tensor:
    for dim, gone in enumerate(places):
        if gone is not None:
            tensor = tensor.index_fill(dim, torch.tensor(gone), 0)
    return tensor


def _uniform(m: Mapped, index: str, only: str = "") -> list[torch.Tensor]:
    """Operands whose slices at an index hold one number each: that of their first element."""
    made = []
    for name, operand, tensor in m.inputs:
        places = m.places(operand, tensor.shape, index, set(range(m.extents[index])))
        firsts = tensor
        for dim, held in enumerate(places):
            if held is None:
                firsts = firsts.narrow(dim, 0, 1) if tensor.shape[dim] else firsts
        made.append(tensor if only and name != only else firsts.expand(tensor.shape).clone())
    return made


def _slices_are_uniform(m: Mapped, index: str, results: list[torch.Tensor]) -> bool:
    for (operand, _), result in zip(m.outputs, results, strict=True):
        places = m.places(operand, result.shape, index, set(range(m.extents[index])))
        for dim, held in enumerate(places):
            if held is not None:
                rows = result.movedim(dim, 0).reshape(result.shape[dim], -1).double()
                if not torch.allclose(rows, rows[:, :1].expand_as(rows), rtol=1e-9, atol=1e-12):
                    return False
    return True


def check_same_everywhere(info: OpInfo) -> Outcome:
    """Constant slices of all operands give constant slices."""
    outcome = Outcome()
    for m in mapped(info):
        for index in m.indices():
            results = m.case.run(**_rebound(m, _uniform(m, index)))
            outcome.expect(_slices_are_uniform(m, index, results), f"{m.case}: varies at {index}")
    return outcome


def check_keeps_constants(info: OpInfo) -> Outcome:
    """Slices of the first tensor that hold one number give slices that hold it."""
    outcome, keeps = Outcome(), info.keeps_constants
    for case in pure_cases(info):
        if keeps(case.bound) if callable(keeps) else keeps:
            (result, *_) = case.run(**case.mapped(case.tensor_names()[0], lambda t: torch.full_like(t, 0.7)))
            outcome.expect(
                close(result, torch.full_like(result, 0.7)), f"{case}: a constant does not come out"
            )
    for m in mapped(info):
        if not (keeps(m.case.bound) if callable(keeps) else keeps):
            continue
        for index in m.indices():
            alone = all(
                len(d.indices) == 1 for d in m.inputs[0][1].dims if any(i.name == index for i in d.indices)
            )
            if index not in m.kept or not alone:
                continue
            tensors = _uniform(m, index, only=m.inputs[0][0])
            results = m.case.run(**_rebound(m, tensors))
            given, got = tensors[0].flatten(), results[0].flatten()
            outcome.expect(
                _slices_are_uniform(m, index, results)
                and bool(torch.isclose(got[:, None], given).any(1).all()),
                f"{m.case}: a constant slice at {index} does not come out",
            )
    return outcome


def check_scaled_by(info: OpInfo) -> Outcome:
    """With a scale of zero the shift is left, or zero."""
    outcome = Outcome()
    for case in pure_cases(info):
        if case.bound[info.scaled_by] is None:
            continue
        changed = case.mapped(info.scaled_by, torch.zeros_like)
        shift = info.shifted_by and case.bound[info.shifted_by] is not None
        if shift:
            changed |= case.mapped(info.shifted_by, lambda t: torch.full_like(t, 0.7))
        (result,) = case.run(**changed)
        wanted = torch.full_like(result, 0.7 if shift else 0.0)
        outcome.expect(torch.allclose(result, wanted), f"{case}: more is left than the shift")
    return outcome


def check_shifted_by(info: OpInfo) -> Outcome:
    """What is left where the scale, or any factor of a product, is zero: the shift, times one number."""
    outcome = Outcome()
    for case in pure_cases(info):
        if case.bound[info.shifted_by] is None:
            continue
        shift = case.mapped(info.shifted_by, lambda t: torch.full_like(t, 0.7))
        others = {n for n in case.tensor_names() if n != info.shifted_by}
        for factor in others if info.role is QuantRole.CONTRACTION else others & {info.scaled_by}:
            (result,) = case.run(**shift, **case.mapped(factor, torch.zeros_like))
            first = result.flatten()[0]
            uniform = bool(first) and torch.allclose(result, first.expand_as(result))
            outcome.expect(uniform, f"{case}: without {factor} more is left than the shift")
    return outcome


def check_pads(info: OpInfo) -> Outcome:
    """Without padding constant channels give constant rows; with it, not always."""
    outcome, cut_off = Outcome(), False
    for m in mapped(info):
        x = m.inputs[0][2]
        channel = x.dim() - (m.inputs[1][2].dim() - 2) - 1
        constants = torch.arange(1.0, x.shape[channel] + 1, dtype=x.dtype)
        filled = (
            constants.reshape([-1 if d == channel else 1 for d in range(x.dim())]).expand(x.shape).clone()
        )
        (result,) = m.case.run(**{m.inputs[0][0]: filled})
        rows = result.movedim(channel, 0).reshape(result.shape[channel], -1)
        constant = torch.allclose(rows, rows[:, :1].expand_as(rows))
        pads = info.pads(m.case.bound) if callable(info.pads) else info.pads
        cut_off |= not constant
        outcome.expect(constant or pads, f"{m.case}: its rows vary although nothing is padded")
    outcome.expect(cut_off, f"{info.op}: no sample shows padding")
    return outcome


def check_moves(info: OpInfo) -> Outcome:
    """Along its dimensions a move takes whole slices, the ones that it takes of numbered positions."""
    outcome = Outcome()
    for case in pure_cases(info):
        for name in info.dims:
            dims = case.bound[name] if isinstance(case.bound[name], list) else [case.bound[name]]
            for dim in dims:
                _check_move(case, dim, outcome)
    return outcome


def _check_move(case: Case, dim: int, outcome: Outcome) -> None:
    (name,) = case.tensor_names()
    tensors, numbered, start = case.tensors(name), [], 0
    if any(t.dim() != tensors[0].dim() for t in tensors):
        return
    for t in tensors:
        shape = [t.shape[dim] if d == dim else 1 for d in range(t.dim())]
        numbered.append(torch.arange(start, start + t.shape[dim]).reshape(shape))
        start += t.shape[dim]
    listed = isinstance(case.bound[name], list)
    places = case.run(**{name: numbered if listed else numbered[0]})
    if len(tensors) > 1 or not tensors[0].dim():
        whole = torch.cat(tensors, dim) if tensors[0].dim() else tensors[0]
    else:
        whole = tensors[0]
    others = (
        set(case.bound.get("dims", []) or []) - {dim} if isinstance(case.bound.get("dims"), list) else set()
    )
    for result, place in zip(case.run(), places, strict=True):
        expected = whole.index_select(dim, place.reshape(-1))
        for other in others:
            expected = expected.flip(other)
        outcome.expect(close(result.reshape(expected.shape), expected), f"{case} along {dim}")


def check_shape_only(info: OpInfo) -> Outcome:
    """Other values of the argument give the same."""
    outcome = Outcome()
    for case in pure_cases(info):
        for name in info.shape_only:
            before = case.value()
            after = case.value(**case.mapped(name, lambda t: t * 3 + 1))
            same = before.equal(after) if isinstance(before, torch.Tensor) else before == after
            outcome.expect(bool(same), f"{case}: the values of {name} count")
    return outcome
