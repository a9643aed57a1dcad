"""What was done to a model and how it turned out, as data.

>>> Report("Net").verdict.value
'undecided'
"""

from fxopt.json_data import JsonData
from fxopt.report.comparison import Counterexample, OutputComparison, Parting, Verdict, VerifyReport
from fxopt.report.layers import LayerReport, PrecisionReport, Trial
from fxopt.report.report import (
    SCHEMA_VERSION,
    AppliedRewrite,
    ArtifactReport,
    CostReport,
    Coverage,
    GraphSummary,
    MetricReport,
    PassReport,
    Refusal,
    Report,
    size_text,
)

__all__ = [
    "SCHEMA_VERSION",
    "AppliedRewrite",
    "ArtifactReport",
    "CostReport",
    "Counterexample",
    "Coverage",
    "GraphSummary",
    "JsonData",
    "LayerReport",
    "MetricReport",
    "OutputComparison",
    "Parting",
    "PassReport",
    "PrecisionReport",
    "Refusal",
    "Report",
    "Trial",
    "Verdict",
    "VerifyReport",
    "size_text",
]
