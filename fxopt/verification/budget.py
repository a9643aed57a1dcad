"""How far a pass that changes the function on purpose moves the outputs: what its budget is held to.

A share of the output's own norm, the largest over outputs and inputs: calibration data where there are some, since
what such a pass leaves of a model is right for the data that it was made for, else drawn ones.

>>> from fxopt.frontend import trace
>>> program = trace(torch.nn.Linear(4, 2).eval(), (torch.zeros(3, 4),))
>>> half = program.copy()
>>> for name, weight in program.weights.items():
...     half.weights[name] = weight / 2
>>> f"{largest_change(program, half).share:.2f}"
'0.50'
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from fxopt.errors import InputError
from fxopt.program import Program
from fxopt.report import Verdict, VerifyReport
from fxopt.verification.evaluator import evaluate
from fxopt.verification.measure import kinds, measured_error, outer_difference, plain_tensor
from fxopt.verification.sampling import batch_tensors, sample_inputs

__all__ = ["Change", "budget_report", "largest_change"]


@dataclass(frozen=True)
class Change:
    """The largest change of an output.

    Attributes:
        share: of the output's own L2 norm; of integers the share that differs; infinite where other values are
            finite, or nothing was zero before.
        output: its name; empty if nothing changed.
        case: on which input.
    """

    share: float = 0.0
    output: str = ""
    case: str = ""


def largest_change(
    before: Program, after: Program, data: Iterable[object] | None = None, *, seed: int = 0
) -> Change:
    """Runs both programs.

    Args:
        before: the program as it was.
        after: with the same inputs and outputs.
        data: batches, as passes are calibrated with; by default inputs are drawn.
        seed: of drawn inputs.

    Raises:
        InputError: data that do not fit, or none.
    """
    names = [s.name for s in before.signature.computed_outputs]
    worst: Change | None = None
    for case, tensors in _samples(before, data, seed):
        old, new = (evaluate(p, [t.clone() for t in tensors]) for p in (before, after))
        for name, a, b in zip(names, old, new, strict=True):
            share = _share(a, b)
            if worst is None or share > worst.share:
                worst = Change(share, name if share else "", case)
    if worst is None:
        raise InputError("there are no inputs to measure a change on")
    return worst


def budget_report(change: Change, budget: float) -> VerifyReport | None:
    """What is to be said of a change that is larger than the budget; None if it is not."""
    if change.share <= budget:
        return None
    reason = (
        f"at {change.case}: output {change.output!r} moved by {100 * change.share:.3g}% of its norm; "
        f"the budget is {100 * budget:.3g}%"
    )
    return VerifyReport(Verdict.DIFFERENT, reason, oracle="budget", inputs_tried=(change.case,))


def _samples(
    program: Program, data: Iterable[object] | None, seed: int
) -> Iterator[tuple[str, list[torch.Tensor]]]:
    if data is not None:
        for i, item in enumerate(data):
            yield f"batch {i} of the calibration data", batch_tensors(program.signature, item)
        return
    for sample in sample_inputs(program.signature, seed=seed):
        if sample.is_ordinary:
            yield sample.label, sample.tensors


def _share(old: object, new: object) -> float:
    if outer_difference(old, new):
        return math.inf
    if not isinstance(old, torch.Tensor) or not isinstance(new, torch.Tensor):
        return 0.0 if old == new else math.inf
    a, b = plain_tensor(old), plain_tensor(new)
    if not a.dtype.is_floating_point:
        return float((a != b).double().mean()) if a.numel() else 0.0
    if bool((kinds(a) != kinds(b)).any()):
        return math.inf
    moved, norm = measured_error(b, a).l2, measured_error(a, torch.zeros_like(a)).l2
    return moved / norm if norm else math.inf if moved else 0.0
