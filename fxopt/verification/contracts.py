"""`check_programs`: whether a program that a pass made keeps the pass's contract.

>>> import torch
>>> from fxopt.frontend import trace
>>> program = trace(torch.nn.Linear(4, 2).eval(), (torch.zeros(3, 4),))
>>> check_programs(program, program.copy(), "exact").reason
'1 output agrees on 4 inputs, bit for bit'
"""

from collections.abc import Callable, Iterable

from fxopt.program import Program
from fxopt.report import VerifyReport
from fxopt.verification.doubling import NoFloat64Error, double_program
from fxopt.verification.evaluator import evaluate_double
from fxopt.verification.subjects import Run, subject_of
from fxopt.verification.verify import verify_runs

__all__ = ["check_programs"]


def check_programs(
    before: Program,
    after: Program,
    contract: str = "equivalent",
    *,
    transform: Callable[[Program], Program] | None = None,
    inputs: Iterable[object] | None = None,
    seed: int = 0,
) -> VerifyReport:
    """Checks a rewritten program against the original.

    Args:
        before: the original.
        after: the rewritten one.
        contract: "exact": the same bits under the reference evaluator. "equivalent": the rounding oracle on
            both programs, and, with `transform`, the algebra oracle in float64. "approximate": shapes and
            dtypes only (undecided).
        transform: the rewrite. It is run on `double_program(before)` (it may edit that in place), since a
            folded weight that was rounded to float32 hides in float64 what the rewrite did: without it only
            rounding is judged.
        inputs: argument tuples; by default drawn from the signature.
        seed: of the drawn inputs.

    Raises:
        Exception: what `transform` raises.
    """
    algebra: Run | None = None
    if transform is not None and contract == "equivalent":
        try:
            twin = double_program(before)
        except NoFloat64Error:
            pass  # there is no algebra to check; verify_runs finds the same and notes it
        else:
            rewritten = transform(twin)
            algebra = lambda tensors: evaluate_double(rewritten, tensors)  # noqa: E731
    return verify_runs(
        subject_of(before), subject_of(after), inputs=inputs, contract=contract, seed=seed, algebra=algebra
    )
