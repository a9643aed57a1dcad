"""A report as tables and lines for a terminal or a log.

>>> from rich.console import Console
>>> Console(width=40).print(change_table(GraphSummary(9), GraphSummary(7)))  # doctest: +NORMALIZE_WHITESPACE
          before  after
all ops        9      7
weights      0 B    0 B
"""

from collections.abc import Callable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fxopt.report import GraphSummary, LayerReport, PassReport, Report, Verdict, size_text

__all__ = ["change_table", "explanation", "layer_table", "pass_table", "size_text", "summary"]

_COLORS = {Verdict.EQUIVALENT: "green", Verdict.DIFFERENT: "bold red", Verdict.UNDECIDED: "yellow"}
_FELL = "green"
_MOST_LAYERS = 10
_MOST_ROWS = 40
"""Places that an explanation lists before it only counts them."""


def summary(report: Report) -> RenderableType:
    """The whole report: what went in, what changed, what came out and how it was judged."""
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim")
    lines.add_column(overflow="fold")
    for name, text, style in _facts(report):
        lines.add_row(name, Text(text, style=style))
    parts: list[RenderableType] = [lines]
    if report.before and report.after:
        parts[:0] = [change_table(report.before, report.after), Text()]
    if report.layers:
        parts += [Text(), layer_table(report.layers)]
    parts += [Text(f"warning: {line}", style="yellow") for line in report.warnings]
    parts += [Text(f"note: {line}", style="dim") for line in report.notes]
    return Group(*parts)


def _facts(report: Report) -> Iterator[tuple[str, str, str]]:
    """Name, text and style of each line."""
    yield "model", report.model, ""
    if report.pipeline is not None:
        fired = list(dict.fromkeys(p.name for p in report.passes if p.changed))
        yield "pipeline", f"{report.pipeline or '(no passes)'}: {', '.join(fired) or 'nothing changed'}", ""
    artifact = report.artifact
    if artifact:
        opset = f" opset {artifact.opset}" if artifact.opset else ""
        where = artifact.path or "in memory"
        yield "artifact", f"{where}, {artifact.target}{opset}, {size_text(artifact.size)}", ""
        if artifact.coverage:
            yield "coverage", str(artifact.coverage), "yellow" if artifact.coverage.others else ""
    if report.metric:
        budget = f" (may fall by {report.metric.max_drop:g})" if report.metric.max_drop is not None else ""
        yield "metric", f"{report.metric.before:.6g} -> {report.metric.after:.6g}{budget}", ""
    if report.precision:
        yield "precision", str(report.precision), "" if report.precision.met else "yellow"
    if report.verification:
        yield "verdict", report.judgement, _COLORS[report.verdict]
    if report.timings:
        yield "time", ", ".join(f"{step} {seconds:.2f} s" for step, seconds in report.timings.items()), ""


def change_table(before: GraphSummary, after: GraphSummary) -> Table:
    """Ops whose number changed, all ops, weights and costs, before and after; green where it fell."""
    table = _table("", "before", "after")
    names = sorted(before.ops | after.ops)
    for op in names:
        counts = before.ops.get(op, 0), after.ops.get(op, 0)
        if counts[0] != counts[1]:
            _add_change(table, op, counts, str)
    same = sum(n for op, n in before.ops.items() if after.ops.get(op) == n)
    if same:
        table.add_row("other ops", str(same), str(same))
    _add_change(table, "all ops", (before.nodes, after.nodes), str)
    _add_change(table, "weights", (before.weight_bytes, after.weight_bytes), size_text)
    if before.cost and after.cost:
        _add_change(table, "FLOPs of a run", (before.cost.flops, after.cost.flops), _count_text)
        moved = [c.bytes_read + c.bytes_written for c in (before.cost, after.cost)]
        _add_change(table, "memory moved", (moved[0], moved[1]), size_text)
        _add_change(table, "peak memory", (before.cost.peak_bytes, after.cost.peak_bytes), size_text)
    return table


def _add_change(table: Table, name: str, values: tuple[int, int], text: Callable[[int], str]) -> None:
    style = _FELL if values[1] < values[0] else ""
    table.add_row(Text(name), text(values[0]), Text(text(values[1]), style=style))


def _count_text(count: int) -> str:
    """`512`, `1.50 M`, `3.20 G`."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)


def layer_table(layers: Sequence[LayerReport]) -> RenderableType:
    """What rounding does to each layer, those first that it does most to: the ten worst."""
    order = sorted(layers, key=lambda one: (-one.share if one.share == one.share else 0.0, one.sqnr))
    timed = any(one.seconds == one.seconds for one in layers)
    columns = ("rounded layer", "bits", "SQNR", "of the error", "range", "clipped", "weight")
    table = _table(*columns, *(["time"] if timed else []))
    for one in order[:_MOST_LAYERS]:
        spread = f"{one.low:.3g} to {one.high:.3g}" if one.low == one.low else ""
        clipped = f"{one.clipped:.2%}" if one.clipped == one.clipped else ""
        share = f"{one.share:.1%}" if one.share == one.share else ""
        cells = (one.bits, f"{one.sqnr:.1f} dB", share, spread, clipped, size_text(one.weight_bytes))
        took = f"{1e3 * one.seconds:.3f} ms" if one.seconds == one.seconds else ""
        table.add_row(Text(one.name), *cells, *([took] if timed else []))
    more = len(layers) - _MOST_LAYERS
    return Group(table, Text(f"... and {more} more, in report.json", style="dim")) if more > 0 else table


def pass_table(passes: Sequence[PassReport]) -> RenderableType:
    """Time, rewrites and ops of each pass as it ran, its time for each op before, and the whole time."""
    table = _table("pass", "seconds", "rewrites", "refusals", "ops before", "ops after", "us an op")
    for one in passes:
        near = sum(1 for r in one.refusals if r.node)
        style = "" if one.changed else "dim"
        ops = Text(str(one.ops), style=_FELL if one.ops < one.ops_before else "")
        rate = f"{1e6 * one.seconds / one.ops_before:.1f}" if one.ops_before else ""
        cells = (f"{one.seconds:.3f}", str(one.rewrites), str(near), str(one.ops_before), ops, rate)
        table.add_row(Text(one.name), *cells, style=style)
    return Group(table, Text(f"{sum(p.seconds for p in passes):.3f} s in {len(passes)} pass runs"))


def explanation(name: str, runs: Sequence[PassReport]) -> RenderableType:
    """Where a pass fired, and where it nearly did and why it did not.

    Args:
        name: of the pass.
        runs: its runs, in order; what the last one refused is what stands refused.
    """
    applied = [rewrite for run in runs for rewrite in run.applied]
    refused = [r for r in (runs[-1].refusals if runs else ()) if r.node]
    parts: list[RenderableType] = [
        Text(f"{name}: {_times(len(applied), 'rewrite')}, {_times(len(refused), 'near miss', 'near misses')}")
    ]
    if applied:
        table = _table("fired", "at", "where")
        for rewrite in applied[:_MOST_ROWS]:
            table.add_row(*map(Text, (rewrite.rule, rewrite.node, rewrite.where)))
        parts += [table, *_more(len(applied))]
    if refused:
        table = _table("did not fire", "at", "where", "because")
        for refusal in refused[:_MOST_ROWS]:
            table.add_row(*map(Text, (refusal.rule, refusal.node, refusal.where, refusal.reason)))
        parts += [table, *_more(len(refused))]
    absent = dict.fromkeys(r.reason for r in (runs[-1].refusals if runs else ()) if not r.node)
    if absent and not applied:
        parts.append(Text("; ".join(absent), style="dim"))
    return Group(*parts)


def _more(count: int) -> list[Text]:
    return [Text(f"... and {count - _MOST_ROWS} more, in report.json")] if count > _MOST_ROWS else []


def _times(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _table(*columns: str) -> Table:
    """A table without lines; columns of numbers are to the right."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    numbers = {"before", "after", "seconds", "rewrites", "refusals", "ops before", "ops after"}
    numbers |= {"SQNR", "of the error", "clipped", "weight", "time"}
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    return table
