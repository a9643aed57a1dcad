"""Whether two programs, models or artifacts compute the same: float64 reference, two oracles, input sampling.

Knows callables and specs only: no file, no target.
"""

from fxopt.verification.budget import Change, budget_report, largest_change
from fxopt.verification.contracts import check_programs
from fxopt.verification.doubling import NoFloat64Error, as_double, double_program
from fxopt.verification.evaluator import evaluate, evaluate_double, evaluate_perturbed
from fxopt.verification.modules import call_problem, module_subject
from fxopt.verification.oracles import compare_algebra, compare_exact, compare_noise, compare_rounding
from fxopt.verification.sampling import Sample, arguments_of, call_of, given_samples, sample_inputs
from fxopt.verification.sizes import size_sets
from fxopt.verification.subjects import (
    Run,
    Subject,
    open_signature,
    subject_of,
)
from fxopt.verification.verify import inputs_difference, verify_runs

__all__ = [
    "Change",
    "NoFloat64Error",
    "Run",
    "Sample",
    "Subject",
    "arguments_of",
    "as_double",
    "budget_report",
    "call_of",
    "call_problem",
    "check_programs",
    "compare_algebra",
    "compare_exact",
    "compare_noise",
    "compare_rounding",
    "double_program",
    "evaluate",
    "evaluate_double",
    "evaluate_perturbed",
    "given_samples",
    "inputs_difference",
    "largest_change",
    "module_subject",
    "open_signature",
    "sample_inputs",
    "size_sets",
    "subject_of",
    "verify_runs",
]
