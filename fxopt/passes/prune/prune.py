"""Sets the least important channels, heads, blocks or elements of weights to zero.

>>> import torch
>>> from fxopt.frontend import trace
>>> from fxopt.pipeline import PassManager
>>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
>>> program = trace(net, (torch.ones(1, 4),))
>>> result = PassManager.parse("clean,prune{ratio=0.5},eliminate-dead-weights").run(program)
>>> sorted(tuple(w.shape) for w in result.program.weights.values() if w.dim() == 2)
[(2, 4), (4, 4)]
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.errors import InputError
from fxopt.passes.prune._compensation import compensated
from fxopt.passes.prune._criteria import Criterion, criterion_of, in_a_file
from fxopt.passes.prune._gradients import LOSSES, Loss
from fxopt.passes.prune._masks import zeroed
from fxopt.passes.prune._plan import PrunePlan
from fxopt.passes.prune._planning import Planner
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.program import Program
from fxopt.program.text import human_bytes
from fxopt.rewriting import Const, Rewriter

__all__ = ["Prune"]

_GOALS = ("ratio", "threshold", "params", "flops", "latency", "size")
_SHARES = ("ratio", "params", "flops", "latency", "min_share", "max_error")


def _hidden(x: torch.Tensor, w: Const, b: Const, v: Const) -> torch.Tensor:
    """A layer whose units can go."""
    return F.linear(F.linear(x, w, b).relu(), v)


@register_pass
class Prune(Pass):
    """Sets the least important channels, heads, blocks or elements of weights to zero.

    Before: `%c = linear(relu(linear(%x, w1, b1)), w2, b2)`. After: the same calls; with `ratio=0.5` the rows of
    `w1` and `b1`, and the columns of `w2`, of half of the hidden units are zeros. `eliminate-dead-weights` then
    makes the weights half as large.

    What goes together is found by the analysis that `eliminate-dead-weights` cuts by: rows of a weight, its bias,
    BatchNorm on it, the columns that read it, through residual sums those of other layers. A channel that a
    LayerNorm counts can't go, and is left alone. The plan is attached to the run.
    """

    contract = Contract.APPROXIMATE
    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_hidden,)

    criterion: str | Criterion = "l2"
    """what importance is: l1, l2 (magnitudes), bn-scale, fpgm (distance to the others), lamp, taylor and obs (by
    calibration data), random, the name of a registered function, FILE.py:FUNCTION, or in Python a function of a layer"""
    granularity: Literal["channel", "head", "weight", "block"] = "channel"
    """what goes as one: a channel with all that is tied to it, a head of an attention, an element, a block"""
    ratio: float | None = None
    """the share of groups that goes; 0.5 where no other goal is given"""
    threshold: float | None = None
    """what is less important than this goes"""
    params: float | None = None
    """the share of parameters that may stay"""
    flops: float | None = None
    """the share of operations that may stay"""
    latency: float | None = None
    """the share of the measured time of a call that may stay"""
    size: int | None = None
    """bytes of weights that may stay, such as 10MB"""
    scope: Literal["layer", "global"] = "layer"
    """whether the ratio is that of each layer, or layers are ranked among each other"""
    ignore: tuple[str, ...] = ()
    """names of weights or modules that stay whole, * for any letters"""
    min_width: int = 1
    """the least channels that stay of a layer"""
    min_share: float = 0.1
    """the least share of a layer that stays, where it is not the ratio that says so"""
    multiple: int = 1
    """of which the number of channels that stay is a multiple: 8 suits most kernels"""
    pattern: str = ""
    """for blocks: "2:4" keeps two of each four neighbours along the input channels"""
    tile: tuple[int, ...] = ()
    """for blocks: rows and columns of a tile, such as [4,4]"""
    loss: Literal["energy", "cross-entropy", "mse"] | Loss = "energy"
    """for taylor: energy needs no targets; in Python a function of output and target too"""
    seed: int = 0
    """of the criterion random"""
    compensate: bool = False
    """whether weights that read pruned channels are refit to calibration data, so that what they give changes least"""
    max_error: float | None = None
    """the budget: by what share of its norm an output may move, which check-each holds the pass to"""
    plan: Path | PrunePlan | None = None
    """a plan that is applied as it is; of the other options only loss, criterion and compensate count then"""

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            InputError: one that no program can be pruned by; names it.
        """
        for name in _SHARES:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} is {value:g}; expected a share from 0 to 1")
        given = [g for g in _GOALS if getattr(self, g) is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} are given; expected one goal")
        if self.min_width < 1 or self.multiple < 1:
            raise InputError("min_width and multiple must be at least 1")
        if isinstance(self.criterion, str) and not in_a_file(self.criterion):
            criterion_of(self.criterion)
        if isinstance(self.loss, str) and self.loss not in LOSSES:
            raise InputError(f"no loss {self.loss!r}; they are {', '.join(LOSSES)}, or a function")
        self._check_granularity()

    def _check_granularity(self) -> None:
        if (self.granularity == "block") != bool(self.pattern or self.tile) or (self.pattern and self.tile):
            raise InputError('granularity=block takes either pattern="2:4" or tile=[4,4], others take none')
        if self.pattern and self.keep_of is None:
            raise InputError(
                f'pattern is {self.pattern!r}; expected how many stay of how many, such as "2:4"'
            )
        if self.tile and (len(self.tile) != 2 or min(self.tile) < 1):
            raise InputError(f"tile is {list(self.tile)}; expected rows and columns, such as [4,4]")
        if self.pattern and self.goal != "ratio":
            raise InputError(f"pattern={self.pattern} says how much goes; leave {self.goal} out")
        if self.granularity in ("weight", "block"):
            if self.compensate:
                raise InputError("compensate refits what reads channels: use granularity=channel or head")
            if self.goal in ("flops", "latency", "size"):
                raise InputError(
                    f"zeros inside of weights save no {self.goal}: use granularity=channel or head, or params="
                )
            if self.criterion in ("bn-scale", "fpgm", "obs"):
                raise InputError(f"criterion={self.criterion} is one of channels, not of {self.granularity}s")

    @property
    def goal(self) -> str:
        """Which of ratio, threshold and budgets says how much goes."""
        return next((g for g in _GOALS if getattr(self, g) is not None), "ratio")

    @property
    def amount(self) -> float:
        """The goal's number."""
        value = getattr(self, self.goal)
        return 0.5 if value is None else float(value)

    @property
    def keep_of(self) -> tuple[int, int] | None:
        """The pattern's numbers."""
        found = re.fullmatch(r"(\d+):(\d+)", self.pattern)
        if found is None:
            return None
        keep, of = int(found[1]), int(found[2])
        return (keep, of) if 0 < keep < of else None

    def unmet(self, best: float) -> str:
        """The message for a budget that is out of reach."""
        size = self.goal == "size"
        asked, least = (human_bytes(int(v)) if size else f"{v:.3g}" for v in (self.amount, best))
        return (
            f"{self.goal}={asked} can't be met: the least possible is {least} "
            f"(min_share={self.min_share:g}, min_width={self.min_width}, multiple={self.multiple}, "
            f"{len(self.ignore)} patterns ignored)"
        )

    def budget(self) -> float | None:
        """What was asked for."""
        return self.max_error

    def takes_calibration(self) -> bool:
        """The criteria taylor and obs need data, and so does refitting; a plan of channels is applied without."""
        return self.compensate or self.ranks_by_data()

    def ranks_by_data(self) -> bool:
        """Whether importance is that over calibration data."""
        if self.plan is not None:
            plan = self._plan()
            return plan.criterion == "taylor" and plan.granularity in ("weight", "block")
        return self.criterion in ("taylor", "obs")

    def _plan(self) -> PrunePlan:
        assert self.plan is not None
        return self.plan if isinstance(self.plan, PrunePlan) else PrunePlan.load(self.plan)

    def planner(self, program: Program, calibration: Iterable[object] | None) -> Planner:
        """What plans for a program.

        Raises:
            InputError: the calibration data does not fit.
        """
        return Planner(program, self, calibration if self.ranks_by_data() else None)

    def run(self, rewriter: Rewriter) -> None:
        """Plans, unless a plan is given, and writes its zeros."""
        data = cast(Iterable[object], rewriter.calibration) if self.takes_calibration() else None
        if self.plan is None:
            planner = self.planner(rewriter.program, data)
            plan = planner.plan()
        else:
            plan = self._plan()
            planner = self._by_plan(plan).planner(rewriter.program, data)
        masks = dict(planner.masks(plan))
        rewriter.attach(planner.counted(plan))
        for left in plan.left_out:
            rewriter.refuse(
                _weight(rewriter, left.weight), f"{left.weight} can't be pruned: {left.reason}", rule="prune"
            )
        made = {n: zeroed(rewriter.program.weights[n], gone) for n, gone in masks.items()}
        if self.compensate and data is not None:
            refit = compensated(planner.program, masks, planner.coupling.demand.constants.products, data)
            made |= refit
            for name in sorted(planner.readers(plan) - refit.keys()):
                why = "it is shared, in groups or recurrent: its zeros stand, nothing makes up for them"
                rewriter.refuse(_weight(rewriter, name), f"{name} is not refit: {why}", rule="prune")
        for name, tensor in made.items():
            _write(rewriter, name, tensor)

    def _by_plan(self, plan: PrunePlan) -> "Prune":
        """The options that a plan was made by, as far as it is applied by them."""
        structured = plan.granularity in ("channel", "head")
        return Prune(
            granularity=cast(Literal["channel"], plan.granularity),
            criterion="l2" if structured else self._criterion_of(plan),
            loss=self.loss if structured or callable(self.loss) else cast(Literal["energy"], plan.loss),
            seed=plan.seed,
            pattern=plan.pattern,
            tile=plan.tile,
        )

    def _criterion_of(self, plan: PrunePlan) -> str | Criterion:
        """What ranked a plan's elements, given anew where it is no name: a plan runs no code."""
        given = self.criterion
        name = given if isinstance(given, str) else getattr(given, "__name__", "own")
        if name == plan.criterion:
            return given
        if in_a_file(plan.criterion):
            raise InputError(
                f"the plan is by {plan.criterion}, which a plan does not run: give criterion= too"
            )
        return plan.criterion


def _weight(rewriter: Rewriter, name: str) -> Node:
    return next(n for n in rewriter.program.weight_nodes() if n.target == name)


def _write(rewriter: Rewriter, name: str, tensor: torch.Tensor) -> None:
    """Puts a tensor in a weight's place, unless it is the same already."""
    old = _weight(rewriter, name)
    if torch.equal(tensor, rewriter.program.weights[name]):
        return
    order = {n: i for i, n in enumerate(rewriter.program.graph.nodes)}
    first = min(old.users, key=lambda n: order[n])
    with rewriter.rewrite("prune", first):
        new = rewriter.constant(tensor, name=name, successor_of=old)
        rewriter.replace(old, new)
