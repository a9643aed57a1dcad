"""From options and a program to a `PrunePlan`, and from a plan to the elements that become zero."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from fxopt.analysis.channels import Coupling, Layer, layers_of
from fxopt.errors import InputError
from fxopt.passes.eliminate._untying import untied
from fxopt.passes.prune._choice import Choice, Limits, Ranked, by_budget, by_ratio, by_threshold
from fxopt.passes.prune._criteria import criterion_of
from fxopt.passes.prune._elements import Grid, grids_of
from fxopt.passes.prune._footprint import Footprint, Footprints
from fxopt.passes.prune._gradients import sensitivities
from fxopt.passes.prune._importance import Scorer
from fxopt.passes.prune._latency import latency_share
from fxopt.passes.prune._obs import Surgeon, surgeons_of
from fxopt.passes.prune._patterns import check_patterns, is_named
from fxopt.passes.prune._plan import LeftOut, PlannedLayer, PrunePlan
from fxopt.program import Program

if TYPE_CHECKING:
    from fxopt.passes.prune.prune import Prune

__all__ = ["Planner"]

_LATENCY_LEVELS = 16

T = TypeVar("T")


class Planner:
    """Plans for one program, and applies plans to it.

    Args:
        program: left as it is; a copy in which layers of recurrent stacks stand one by one is planned for.
        options: the pass.
        data: calibration, for the criteria `taylor` and `obs`.
    """

    def __init__(self, program: Program, options: "Prune", data: Iterable[object] | None) -> None:
        self.program, self.options = untied(program), options
        program = self.program
        check_patterns(options.ignore, program.state_dict())
        self.coupling = Coupling.compute(program)
        self.footprints = Footprints(program, self.coupling)
        self.before = self.footprints.without(())
        chosen = options.criterion
        criterion = criterion_of(chosen) if isinstance(chosen, str) else chosen
        batches: list[dict[str, torch.Tensor]] = []
        surgeons: dict[str, Surgeon] = {}
        if data is not None and criterion == "obs":
            read = {m.weight for layer in self._layers()[0] for m in layer.members if not m.makes}
            surgeons = surgeons_of(program, self.coupling.demand.constants.products, data, read)
        elif data is not None:
            batches = sensitivities(program, data, options.loss)
        self.scorer = Scorer(program, criterion, options.seed, batches, surgeons)

    @property
    def is_structured(self) -> bool:
        """Whether whole groups go."""
        return self.options.granularity in ("channel", "head")

    def plan(self) -> PrunePlan:
        """The plan by the pass's options.

        Raises:
            InputError: a budget that can't be met, a NaN importance, nothing that can be judged.
        """
        options = self.options
        return PrunePlan(
            options.granularity,
            options.criterion if isinstance(options.criterion, str) else self.scorer.name,
            *(self._structured() if self.is_structured else self._unstructured()),
            seed=options.seed,
            loss=options.loss if isinstance(options.loss, str) else getattr(options.loss, "__name__", "own"),
            pattern=options.pattern,
            tile=tuple(options.tile),
        )

    def _structured(self) -> tuple[tuple[PlannedLayer, ...], Footprint, Footprint, tuple[LeftOut, ...]]:
        layers, left = self._layers()
        scores: list[np.ndarray] = []
        judged: list[Layer] = []
        for layer in layers:
            recurrent = self._read_by_units(layer) if self.scorer.criterion == "obs" else None
            score = None if recurrent else self.scorer.layer(layer)
            if recurrent:
                left.append((layer.name, f"obs can't tell what the recurrent {recurrent} loses; taylor can"))
            elif score is None:
                left.append((layer.name, f"nothing to judge by: no {self.scorer.name}"))
            else:
                judged.append(layer)
                scores.append(score.numpy())
        if layers and not judged:
            raise InputError(f"the criterion {self.scorer.name} finds nothing to judge by in any layer")
        choice = self._chosen(judged, scores)
        planned = tuple(
            PlannedLayer(
                layer.name,
                len(layer.labels),
                layer.width,
                tuple(dict.fromkeys(m.weight for m in layer.members)),
                tuple(score.tolist()),
                tuple(gone.tolist()),
            )
            for layer, score, gone in zip(judged, scores, choice, strict=True)
        )
        after = self._footprint(judged, choice)
        return planned, self.before, after, tuple(LeftOut(*reason) for reason in left)

    def _read_by_units(self, layer: Layer) -> str | None:
        """A weight of a recurrent layer that reads the groups, if there is one."""
        units = self.coupling.demand.constants.units.values()
        weights = {s.node.target for u in units for s in u.reading.inputs}
        return next((m.weight for m in layer.members if not m.makes and m.weight in weights), None)

    def _layers(self) -> tuple[list[Layer], list[tuple[str, str]]]:
        """The layers of the asked granularity that no pattern names, and what can't be cut."""
        layers, left = layers_of(self.coupling, self.program)
        patterns, heads = self.options.ignore, self.options.granularity == "head"
        named = [x for x in layers if not any(is_named(m.weight, patterns) for m in x.makers)]
        of_kind = [x for x in named if x.heads == heads]
        if not of_kind:
            other = "channel" if heads else "head"
            left += [(x.name, f"its groups are {other}s: granularity={other} prunes them") for x in named]
        return of_kind, left

    def _chosen(self, layers: Sequence[Layer], scores: Sequence[np.ndarray]) -> Choice:
        """The groups that go, by threshold, ratio or budget."""
        options, everywhere = self.options, self.options.scope == "global"
        raw = [Ranked(s, x.width) for x, s in zip(layers, scores, strict=True)]
        ranked = raw if self.scorer.is_comparable else [_normalised(x) for x in raw]
        by_layer = options.goal == "ratio" and not everywhere
        limits = Limits(options.min_width, 0.0 if by_layer else options.min_share, options.multiple)
        if options.goal == "threshold":
            return by_threshold(raw, options.amount, limits)
        if options.goal == "ratio":
            return by_ratio(ranked, options.amount, limits, everywhere=everywhere)
        levels = {"levels": _LATENCY_LEVELS} if options.goal == "latency" else {}
        found, best = by_budget(
            lambda ratio: by_ratio(ranked, ratio, limits, everywhere=everywhere),
            lambda choice: self._cost(layers, choice),
            options.amount,
            **levels,
        )
        if found is None:
            raise InputError(options.unmet(best))
        return found

    def _footprint(self, layers: Sequence[Layer], choice: Choice) -> Footprint:
        gone = [layer.labels[c] for layer, c in zip(layers, choice, strict=True)]
        return self.footprints.without(np.concatenate([np.zeros(0, dtype=np.int64), *gone]).tolist())

    def _cost(self, layers: Sequence[Layer], choice: Choice) -> float:
        """What the budget speaks of: bytes, or a share of what there was."""
        if self.options.goal == "latency":
            masks = self._slices((x, c) for x, c in zip(layers, choice, strict=True))
            return latency_share(self.program, masks)
        after = self._footprint(layers, choice)
        if self.options.goal == "size":
            return after.bytes
        name = self.options.goal
        left, whole = int(getattr(after, name)), int(getattr(self.before, name))
        return left / max(whole, 1)

    def _unstructured(self) -> tuple[tuple[PlannedLayer, ...], Footprint, Footprint, tuple[LeftOut, ...]]:
        options, left = self.options, []
        grids = []
        for grid in grids_of(self.coupling.demand.constants):
            if is_named(grid.weight, options.ignore):
                continue
            reason = self._unfit(grid)
            if reason:
                left.append(LeftOut(grid.weight, reason))
            else:
                grids.append(grid)
        scores = [self._units(g).flatten().numpy() for g in grids]
        choice = self._zeros(grids, scores)
        planned = tuple(
            PlannedLayer(g.weight, len(s), 1, (g.weight,), zeros=c)
            for g, s, c in zip(grids, scores, choice, strict=True)
        )
        zeros = sum(int(self._gone(g, c).sum()) for g, c in zip(grids, choice, strict=True))
        after = dataclasses.replace(self.before, params=self.before.params - zeros)
        return planned, self.before, after, tuple(left)

    def _unfit(self, grid: Grid) -> str:
        keep_of = self.options.keep_of
        if keep_of is not None and grid.channels % keep_of[1]:
            return f"{grid.channels} input channels are no multiple of {keep_of[1]}"
        return ""

    def _units(self, grid: Grid) -> torch.Tensor:
        """The importance of what goes as one: elements, or tiles."""
        matrix = grid.matrix(self.scorer.elements(grid.weight))
        return grid.tiles(matrix, tuple(self.options.tile)) if self.options.tile else matrix

    def _zeros(self, grids: Sequence[Grid], scores: Sequence[np.ndarray]) -> list[int]:
        """How many units of each weight go."""
        options, everywhere = self.options, self.options.scope == "global"
        keep_of = options.keep_of
        if keep_of is not None:
            return [len(s) * (keep_of[1] - keep_of[0]) // keep_of[1] for s in scores]
        raw = [Ranked(s, 1) for s in scores]
        ranked = raw if self.scorer.is_comparable else [_normalised(x) for x in raw]
        limits = Limits(1, options.min_share if everywhere else 0.0)
        if options.goal == "threshold":
            return [len(c) for c in by_threshold(raw, options.amount, limits)]
        if options.goal == "ratio":
            return [len(c) for c in by_ratio(ranked, options.amount, limits, everywhere=everywhere)]

        def left(choice: Choice) -> float:
            zeros = sum(int(self._gone(g, len(c)).sum()) for g, c in zip(grids, choice, strict=True))
            return (self.before.params - zeros) / max(self.before.params, 1)

        found, best = by_budget(
            lambda ratio: by_ratio(ranked, ratio, limits, everywhere=everywhere), left, options.amount, 64
        )
        if found is None:
            raise InputError(options.unmet(best))
        return [len(c) for c in found]

    def _gone(self, grid: Grid, count: int) -> torch.Tensor:
        """The elements of a weight that become zero, bool of its shape."""
        options, keep_of = self.options, self.options.keep_of
        units = self._units(grid)
        if keep_of is not None:
            return grid.back(grid.pattern(units, *keep_of) if count else torch.zeros_like(units).bool())
        gone = torch.zeros(units.numel(), dtype=torch.bool)
        gone[units.flatten().argsort(stable=True)[:count]] = True
        matrix = gone.reshape(units.shape)
        return grid.back(grid.spread(matrix, tuple(options.tile)) if options.tile else matrix)

    def masks(self, plan: PrunePlan) -> Iterator[tuple[str, torch.Tensor]]:
        """Names of weights and their elements that become zero, bool of their shapes.

        Raises:
            InputError: the plan is not of this program, or takes all groups of a layer.
        """
        if self.is_structured:
            layers = {x.name: x for x in layers_of(self.coupling, self.program)[0]}
            pairs = [(_checked(p, layers, self.program), np.array(p.removed, dtype=int)) for p in plan.layers]
            return self._slices(pairs)
        grids = {g.weight: g for g in grids_of(self.coupling.demand.constants)}
        return ((p.name, self._gone(_known(p, grids, self.program), p.zeros)) for p in plan.layers if p.zeros)

    def readers(self, plan: PrunePlan) -> set[str]:
        """The weights that read channels that go."""
        layers = {x.name: x for x in layers_of(self.coupling, self.program)[0]}
        return {m.weight for p in plan.layers if p.removed for m in layers[p.name].members if not m.makes}

    def _slices(self, pairs: Iterable[tuple[Layer, np.ndarray]]) -> Iterator[tuple[str, torch.Tensor]]:
        """What the groups hold of each weight."""
        found: dict[str, torch.Tensor] = {}
        for layer, gone in pairs:
            for member in layer.members if len(gone) else ():
                if not member.is_statistic:
                    shape = self.program.weights[member.weight].shape
                    mask = found.setdefault(member.weight, torch.zeros(shape, dtype=torch.bool))
                    mask.index_fill_(member.dim, torch.from_numpy(member.index[gone].ravel()), True)
        return iter(found.items())

    def counted(self, plan: PrunePlan) -> PrunePlan:
        """The plan, what is left counted anew: it may have been edited."""
        if not self.is_structured:
            return dataclasses.replace(plan, before=self.before)
        layers = {x.name: x for x in layers_of(self.coupling, self.program)[0]}
        chosen = [layers[p.name] for p in plan.layers]
        after = self._footprint(chosen, [np.array(p.removed, dtype=int) for p in plan.layers])
        return dataclasses.replace(plan, before=self.before, after=after)


def _normalised(layer: Ranked) -> Ranked:
    """Importance relative to the layer's mean: magnitudes of two layers say nothing to each other."""
    mean = float(layer.importance.mean())
    return Ranked(
        layer.importance / mean if mean > 0 and math.isfinite(mean) else layer.importance, layer.width
    )


def _known(planned: PlannedLayer, known: dict[str, T], program: Program) -> T:
    if planned.name in known:
        return known[planned.name]
    if planned.name in program.ties:
        name = program.ties[planned.name]
        raise InputError(
            f"the plan names {planned.name}, which is tied to {name}: prune that, both are one weight"
        )
    raise InputError(f"the plan is of another program: this one can't be pruned at {planned.name}")


def _checked(planned: PlannedLayer, known: dict[str, Layer], program: Program) -> Layer:
    """The layer that a plan means."""
    layer = _known(planned, known, program)
    count, removed = len(layer.labels), set(planned.removed)
    if count != planned.groups:
        raise InputError(
            f"the plan is of another program: {planned.name} has {count} groups, the plan says {planned.groups}"
        )
    wrong = sorted(i for i in removed if not 0 <= i < count)
    if wrong:
        raise InputError(f"the plan removes group {wrong[0]} of {planned.name}, which has {count}")
    if len(removed) == count:
        raise InputError(f"the plan removes all {count} groups of {planned.name}; at least one must stay")
    return layer
