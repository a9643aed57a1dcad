"""What one does with pruning from Python: plan it, or do it step by step with training in between."""

import dataclasses
import logging
from collections.abc import Callable, Iterable
from typing import Literal

from fxopt.errors import InputError
from fxopt.passes.prune._plan import PrunePlan
from fxopt.passes.prune.prune import Prune
from fxopt.pipeline import Pass, PassManager
from fxopt.program import Program, expect_program

__all__ = ["plan_pruning", "prune_in_steps"]

log = logging.getLogger(__name__)

_STEPWISE = ("ratio", "params", "flops")


def plan_pruning(
    program: Program, *, calibration: Iterable[object] | None = None, **options: object
) -> PrunePlan:
    """What `prune` would take away of a program, without doing it.

    Args:
        program: best after `clean`; it stays as it is.
        calibration: for `criterion="taylor"`: tensors or tuples of the program's arguments and then the target.
        options: the pass's: criterion, granularity, ratio, threshold, params, flops, latency, size, scope, ...

    Returns:
        Groups, importance, what goes, and what that leaves: as table (`str`), JSON (`save`), to edit
        (`with_removed`) and to apply (`prune{plan=FILE}`, or `Prune(plan=plan)` in a list of passes).

    Raises:
        InputError: an option that can't be, a budget that can't be met (the least possible is said), NaN.
    """
    expect_program(program, "plan_pruning")
    item = Prune(**options)  # type: ignore[arg-type]  # the class names what it takes and checks it
    if item.ranks_by_data() and calibration is None:
        raise InputError(f"criterion={item.criterion} needs calibration data: pass calibration=")
    return item.planner(program, calibration).plan()


def prune_in_steps(
    program: Program,
    between: Callable[[Program], Program],
    *,
    steps: int = 5,
    schedule: Literal["cubic", "linear"] = "cubic",
    calibration: Iterable[object] | None = None,
    **options: object,
) -> Program:
    """Prunes a little, lets the caller train, and so on: more survives than of one large step.

    Args:
        program: best after `clean`; it stays as it is.
        between: called after each step with what is left (of channels and heads what is dead is gone; of elements
            and blocks the weights hold zeros); returns it trained, such as
            `lambda p: fxopt.finetune(p, data, loss=loss)`.
        steps: how many.
        schedule: "cubic" takes most in the first steps (Zhu and Gupta 2017), "linear" the same in each.
        calibration: as in `plan_pruning`.
        options: of `prune`; the goal (ratio, params or flops) is that of all steps together.

    Raises:
        InputError: another goal, no steps; as `plan_pruning`.
    """
    expect_program(program, "prune_in_steps")
    item = Prune(**options)  # type: ignore[arg-type]  # the class names what it takes and checks it
    if item.goal not in _STEPWISE or item.plan is not None or steps < 1:
        raise InputError(f"prune_in_steps takes at least one step, and one goal of {', '.join(_STEPWISE)}")
    data = None if calibration is None else list(calibration)
    shrinks = item.granularity in ("channel", "head")
    kept = 1.0
    for step in range(1, steps + 1):
        done = step / steps if schedule == "linear" else 1 - (1 - step / steps) ** 3
        whole = 1 - item.amount if item.goal == "ratio" else item.amount
        left = 1 - (1 - whole) * done
        share = left / kept if shrinks and kept else left
        amount = 1 - share if item.goal == "ratio" else min(share, 1.0)
        passes: list[Pass] = [dataclasses.replace(item, **{item.goal: amount})]  # type: ignore[arg-type]
        passes += PassManager.parse("eliminate-dead-weights").passes() if shrinks else []
        result = PassManager.of(passes).run(program, calibration=data)
        (plan,) = (a for a in result.attachments if isinstance(a, PrunePlan))
        log.info("step %d of %d: %s", step, steps, plan.summary())
        kept *= _left(plan, item.goal)
        program = between(result.program)
    return program


def _left(plan: PrunePlan, goal: str) -> float:
    """The share of groups, parameters or operations that a step left: of whole groups not quite what was asked."""
    if goal == "ratio":
        groups = sum(x.groups for x in plan.layers)
        return 1 - sum(x.gone for x in plan.layers) / max(groups, 1)
    before, after = int(getattr(plan.before, goal)), int(getattr(plan.after, goal))
    return after / max(before, 1)
