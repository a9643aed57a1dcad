"""Which pass and rewrite went wrong, the smallest program that shows it, and where two programs part."""

from fxopt.diagnosis.bisect import Bisection, bisect, bisect_pass
from fxopt.diagnosis.checks import (
    Check,
    CommandCheck,
    EachCheck,
    SlowerCheck,
    TargetCheck,
    check_values,
    effects_difference,
)
from fxopt.diagnosis.diagnose import Diagnosis, diagnose, explain
from fxopt.diagnosis.instrument import FailureReproducer
from fxopt.diagnosis.onnx_slice import OnnxSlice, slice_onnx
from fxopt.diagnosis.reduce import Reduction, call_count, reduce_program
from fxopt.diagnosis.symptom import Symptom
from fxopt.diagnosis.trial import Trial, TrialError, passes_in_time

__all__ = [
    "Bisection",
    "Check",
    "CommandCheck",
    "Diagnosis",
    "EachCheck",
    "FailureReproducer",
    "OnnxSlice",
    "Reduction",
    "SlowerCheck",
    "Symptom",
    "TargetCheck",
    "Trial",
    "TrialError",
    "bisect",
    "bisect_pass",
    "call_count",
    "check_values",
    "diagnose",
    "effects_difference",
    "explain",
    "passes_in_time",
    "reduce_program",
    "slice_onnx",
]
