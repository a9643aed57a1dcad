"""What one does with pruning from Python: plan it."""

from collections.abc import Iterable

from fxopt.errors import InputError
from fxopt.passes.prune._plan import PrunePlan
from fxopt.passes.prune.prune import Prune
from fxopt.program import Program, expect_program

__all__ = ["plan_pruning"]


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
    if item.takes_calibration() and calibration is None:
        raise InputError(f"criterion={item.criterion} needs calibration data: pass calibration=")
    return item.planner(program, calibration).plan()
