"""A comparison in lines: each output's errors, and the first node where the two sides part.

>>> from fxopt.report import Verdict
>>> verify_details(VerifyReport(Verdict.UNDECIDED, notes=("no float64 reference",)))
['note: no float64 reference']
"""

import math

from fxopt.report import OutputComparison, VerifyReport

__all__ = ["verify_details"]


def verify_details(report: VerifyReport) -> list[str]:
    """Each output's error against what is allowed, where it is worst, how errors spread; the first node apart."""
    lines = [line for output in report.outputs for line in _output_lines(output)]
    part = report.parting
    if part is not None:
        where = f" ({part.where})" if part.where else ""
        lines.append(f"the first node where they part: %{part.node} = {part.op}{where}: {part.reason}")
        if part.candidate:
            lines.append(f"  there the candidate has {part.candidate}")
        if part.after:
            lines.append(f"  what it is computed from agrees: {', '.join(f'%{n}' for n in part.after)}")
    return [*lines, *(f"note: {note}" for note in report.notes)]


def _output_lines(output: OutputComparison) -> list[str]:
    lines = [f"output {output.name!r}: {output.verdict}, {output.reason}"]
    if not math.isnan(output.abs_required):
        lines.append(
            f"  largest error {output.abs_required:.3g}, allowed {output.abs_tolerance:.3g}; "
            f"ratio {output.ratio:.3g}, allowed {output.tolerance:.3g}"
        )
    if output.index:
        lines.append(f"  worst at {list(output.index)}: {output.actual:.9g}, expected {output.expected:.9g}")
    if output.histogram:
        lines.append("  values by difference: " + ", ".join(f"{k}: {n}" for k, n in output.histogram.items()))
    return lines
