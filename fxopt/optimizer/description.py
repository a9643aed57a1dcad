"""What was done to a model, entered into its report.

>>> report = Report("Net")
>>> Clock(report).lap("trace")
>>> list(report.timings)
['trace']
"""

import contextlib
import operator
import time
import warnings
from collections import Counter
from collections.abc import Iterator

import torch
from torch.fx import Node

from fxopt.analysis.cost import Cost
from fxopt.ops import op_key
from fxopt.pipeline import PipelineResult
from fxopt.pipeline.silence import why_silent
from fxopt.program import Program
from fxopt.program.signature import STATE
from fxopt.report import CostReport, GraphSummary, Report

__all__ = ["Clock", "describe_model", "describe_passes", "no_state", "noting_warnings"]


class Clock:
    """Times the steps of a run for its report."""

    def __init__(self, report: Report) -> None:
        self.report, self.start = report, time.perf_counter()

    def lap(self, name: str) -> None:
        """Notes the seconds since the last lap."""
        now = time.perf_counter()
        self.report.timings[name] = now - self.start
        self.start = now


@contextlib.contextmanager
def noting_warnings(report: Report) -> Iterator[None]:
    """Warnings stand in the report, and go on to whoever listens."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        report.warnings.append(str(warning.message))
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def describe_model(report: Report, program: Program) -> None:
    """Enters what went in."""
    report.model = program.name
    report.before = _summary(program)
    report.notes += [
        f"in this file {symbol.limits}: the model refuses other sizes, or takes them in another way"
        for symbol in program.signature.symbols.values()
        if symbol.limits
    ]
    report.notes += [f"assumed not to raise: {place}" for place in program.assumptions]


def no_state(program: Program) -> list[str]:
    """A line about a state that was asked for and is not there."""
    if any(spec.name.startswith(STATE) for spec in program.signature.tensor_inputs):
        return []
    return ["the model writes to no buffer: there is no state among its inputs"]


def describe_passes(report: Report, result: PipelineResult, unused: str) -> None:
    """Enters what the pipeline did, why it did nothing, and what was given for nothing."""
    report.passes = result.passes
    report.held_to = result.held_to
    report.after = _summary(result.program)
    report.notes += [note for note in (why_silent(result.passes), unused, result.on_purpose) if note]


def _summary(program: Program) -> GraphSummary:
    ops = Counter(map(_op_name, program.calls()))
    cost = Cost.compute(program).at()
    return GraphSummary(
        sum(ops.values()),
        dict(sorted(ops.items())),
        len(program.weights),
        cost.weight_bytes,
        CostReport(cost.flops, cost.bytes_read, cost.bytes_written, cost.peak_bytes),
    )


def _op_name(node: Node) -> str:
    """`aten.conv2d` for any of its overloads; a function on sizes by its own name."""
    key = op_key(node.target)
    if isinstance(node.target, torch._ops.OpOverload):
        return key.rsplit(".", 1)[0]
    return "getitem" if node.target is operator.getitem else key.removeprefix("_")
