"""A report as tables and lines for a terminal or a log.

>>> size_text(90_900_000)
'90.9 MB'
>>> verdict_line(VerifyReport(Verdict.EQUIVALENT, reason="3 outputs within rounding", ratio=1.04))
'equivalent: 3 outputs within rounding (error ratio 1.04)'
"""

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fxopt.report import GraphSummary, PassReport, Report, Verdict, VerifyReport

__all__ = ["pass_table", "refusal_table", "size_text", "summary", "verdict_line"]

_COLORS = {Verdict.EQUIVALENT: "green", Verdict.DIFFERENT: "bold red", Verdict.UNDECIDED: "yellow"}


def size_text(size: int) -> str:
    """A number of bytes in decimal units: `512 B`, `1.5 kB`, `90.9 MB`."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB"):  # the unit at which the loop stops is the answer
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


def verdict_line(report: VerifyReport) -> str:
    """The verdict, why, and the error ratio where one was measured."""
    ratio = "" if math.isnan(report.ratio) else f" (error ratio {report.ratio:.3g})"
    reason = f": {report.reason}" if report.reason else ""
    return f"{report.verdict}{reason}{ratio}"


def summary(report: Report) -> RenderableType:
    """The whole report in a few lines: what went in, what changed, what came out and how it was judged."""
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim")
    lines.add_column(overflow="fold")
    lines.add_row("model", Text(report.model))
    if report.pipeline is not None:
        lines.add_row("pipeline", Text(report.pipeline))
    if report.before and report.after:
        lines.add_row("graph", Text(_change(report.before, report.after)))
    if report.artifact:
        where = report.artifact.path or "in memory"
        lines.add_row(
            "artifact", Text(f"{where}, {report.artifact.target}, {size_text(report.artifact.size)}")
        )
    if report.verification:
        lines.add_row("verdict", Text(verdict_line(report.verification), style=_COLORS[report.verdict]))
    if report.timings:
        steps = (f"{step} {seconds:.2f} s" for step, seconds in report.timings.items())
        lines.add_row("time", Text(", ".join(steps)))
    remarks = [Text(f"warning: {line}", style="yellow") for line in report.warnings]
    remarks += [Text(f"note: {line}", style="dim") for line in report.notes]
    return Group(lines, *remarks)


def pass_table(passes: tuple[PassReport, ...]) -> Table:
    """Time, rewrites and nodes of each pass."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("pass", "seconds", "rewrites", "refusals", "nodes before", "nodes after"):
        table.add_column(name, justify="left" if name == "pass" else "right")
    for one in passes:
        counts = (one.rewrites, len(one.refusals), one.nodes_before, one.nodes)
        table.add_row(Text(one.name), f"{one.seconds:.3f}", *map(str, counts))
    return table


def refusal_table(passed: PassReport) -> RenderableType:
    """Where a pass nearly fired, and why it did not."""
    head = f"{passed.name}: {passed.rewrites} rewrites, {len(passed.refusals)} refusals"
    if not passed.refusals:
        return Text(head)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("rule", "node", "where", "reason"):
        table.add_column(name, overflow="fold")
    for refusal in passed.refusals:
        table.add_row(*map(Text, (refusal.rule, refusal.node, refusal.where, refusal.reason)))
    return Group(Text(head), table)


def _change(before: GraphSummary, after: GraphSummary) -> str:
    parts = [f"{before.nodes} -> {after.nodes} nodes"]
    parts.append(f"{size_text(before.weight_bytes)} -> {size_text(after.weight_bytes)} of weights")
    parts += [
        f"{op} {before.ops.get(op, 0)} -> {after.ops.get(op, 0)}"
        for op in sorted(before.ops | after.ops)
        if before.ops.get(op, 0) != after.ops.get(op, 0)
    ]
    return ", ".join(parts)
