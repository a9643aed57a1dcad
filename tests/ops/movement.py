"""Index maps against what moves when one element is perturbed."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils import _pytree as pytree

from fxopt.ops import IndexMap, Mark, Operand, OpInfo, align_inputs, align_outputs, call_index_map
from tests.ops.samples import Case, Outcome, pure_cases

PLACES = 16
"""How many elements of a tensor are perturbed, at most."""


def positions(
    operand: Operand, shape: Sequence[int], extents: dict[str, int]
) -> dict[str, tuple[Mark, torch.Tensor]]:
    """For each index of an operand, its mark and its position at each element of the tensor."""
    found = {}
    for axis, dim in enumerate(operand.expanded(len(shape))):
        along = torch.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        inner = 1
        for index in reversed(dim.indices):
            size = extents[index.name]
            # A dimension of size one broadcasts: it says nothing of the index.
            if len(dim.indices) > 1 or shape[axis] != 1 or size == 1:
                position = along // inner if index is dim.indices[0] else along // inner % size
                found[index.name] = (index.mark, position.expand(tuple(shape)))
            inner *= size
    return found


def _places(tensor: torch.Tensor) -> list[int]:
    """Some of a tensor's elements, spread over all dimensions (the step is coprime to usual sizes)."""
    count = tensor.numel()
    return list(range(count)) if count <= PLACES else [(i * 7919) % count for i in range(PLACES)]


def _perturbed(tensor: torch.Tensor, place: int) -> Iterator[torch.Tensor]:
    """The tensor with one element changed, in ways from the harmless to the drastic."""
    flat = tensor.reshape(-1)
    if tensor.dtype == torch.bool:
        values = [~flat[place]]
    elif tensor.is_floating_point():
        values = [
            flat[place] + 1.3,
            flat[place] - 0.7,
            torch.tensor(float("inf")),
            torch.tensor(float("nan")),
        ]
    else:
        values = list(flat[flat != flat[place]][:2])
    for value in values:
        changed = flat.clone()
        changed[place] = value
        yield changed.reshape(tensor.shape)


def _movement(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [(b != a) & ~(b.isnan() & a.isnan()) for b, a in zip(before, after, strict=True)]


class MapCheck:
    """Perturbs inputs and compares what moves with what an index map allows."""

    def __init__(self) -> None:
        self.outcome = Outcome()
        self.moved = self.mixed_said = self.mixed_seen = 0

    def case(self, case: Case) -> None:
        index_map = call_index_map(case.op, case.bound)
        if index_map is None:
            return
        inputs = align_inputs(case.op, index_map, case.bound)
        outputs = align_outputs(index_map, case.value())
        used = IndexMap(tuple(o for _, o, _ in inputs), tuple(o for o, _ in outputs))
        extents = used.extents([t.shape for _, _, t in inputs], [t.shape for _, t in outputs])
        targets = [positions(o, t.shape, extents) for o, t in outputs]
        for name, operand, tensor in inputs:
            where = positions(operand, tensor.shape, extents)
            self.mixed_said += any(
                m is not Mark.CARRIED and extents[i] > 1 and any(i in t for t in targets)
                for i, (m, _) in where.items()
            )
            near: dict[tuple[int, str], dict[int, list[int]]] = {}
            for place in _places(tensor):
                at = {i: (mark, int(p.reshape(-1)[place])) for i, (mark, p) in where.items()}
                for output, moved in enumerate(self._moved(case, name, tensor, place)):
                    self._compare(f"{case}: {index_map}: {name}[{place}]", moved, at, targets[output])
                    for index, (mark, position) in at.items():
                        if mark is Mark.NEAR and index in targets[output] and moved.any():
                            seen = near.setdefault((output, index), {}).setdefault(position, [])
                            seen.extend(targets[output][index][1][moved].tolist())
            if 2 not in pytree.tree_leaves(case.bound.get("dilation")):  # those have holes
                for (_, index), spans in near.items():
                    self._ordered(f"{case}: {index_map}: {name}", index, spans)

    @staticmethod
    def _moved(case: Case, name: str, tensor: torch.Tensor, place: int) -> list[torch.Tensor]:
        """What moves in each output, by the first change that moves anything."""
        before = case.run()
        moved = [torch.zeros_like(t, dtype=torch.bool) for t in before]
        for changed in _perturbed(tensor, place):
            new = case.mapped(name, lambda t: changed if t is tensor else t)  # noqa: B023
            moved = _movement(before, case.run(**new))
            if any(m.any() for m in moved):
                break
        return moved

    def _compare(self, what: str, moved: torch.Tensor, at: dict, target: dict) -> None:
        allowed = torch.ones_like(moved)
        for index, (mark, position) in at.items():
            if index in target:
                same = target[index][1] == position
                if mark is Mark.CARRIED:
                    allowed &= same
                else:
                    self.mixed_seen += bool((moved & ~same).any())
        self.moved += bool(moved.any())
        self.outcome.expect(not (moved & ~allowed).any(), f"{what} moves more than allowed")

    def _ordered(self, what: str, index: str, seen: dict[int, list[int]]) -> None:
        """A neighbourhood's middle moves along with the input's position."""
        spans = [(min(p), max(p)) for _, p in sorted(seen.items())]
        middles = [low + high for low, high in spans]
        self.outcome.expect(middles == sorted(middles), f"{what}: {index} is no neighbourhood: {spans}")


def check_index_map(info: OpInfo) -> Outcome:
    """One element moves only what the map allows; what it calls mixed is seen to be; something moves."""
    check = MapCheck()
    for case in pure_cases(info):
        check.case(case)
    outcome = check.outcome
    if outcome.looked and not info.shape_only:
        outcome.expect(check.moved > 0, f"{info.op}: no perturbation moved anything")
        outcome.expect(
            not check.mixed_said or check.mixed_seen > 0, f"{info.op}: nothing is mixed, as the map says"
        )
    return outcome
