"""A comparison of times as a table for a terminal or a log.

>>> time_text(0.0000314), time_text(0.0176), time_text(2.5)
('31.4 us', '17.6 ms', '2.50 s')
"""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fxopt.measure import BenchReport, Measurement, Spread
from fxopt.reporting.text import size_text

__all__ = ["bench_table", "time_text"]


def time_text(seconds: float) -> str:
    """Seconds with three digits: `31.4 us`, `17.6 ms`, `2.50 s`."""
    for unit, scale in (("us", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * scale:
            return f"{_three_digits(seconds / scale)} {unit}"
    return f"{_three_digits(seconds)} s"


def _three_digits(value: float) -> str:
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def bench_table(report: BenchReport) -> RenderableType:
    """A row a side: time, speed against the first with its interval, size, memory; how it was measured below."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("side", "kind", "time", "processor time", "speed", "size", "peak memory", "opens in"):
        left = name in {"side", "kind"}
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=name != "side")
    for index, side in enumerate(report.sides):
        table.add_row(
            Text(side.name),
            side.kind,
            _spread_text(side.wall),
            _spread_text(side.cpu),
            "1" if index == 0 else _speed_text(side),
            size_text(side.size) if side.size else "-",
            size_text(side.peak_memory) if side.peak_memory else "-",
            time_text(side.load_seconds),
            style=_style(side) if index else "",
        )
    lines = [Text(line, style="dim") for line in _method(report)]
    return Group(table, *lines, *(Text(f"note: {note}", style="yellow") for note in report.notes))


def _spread_text(times: Spread) -> str:
    """The median, and the median deviation from it in percent."""
    return f"{time_text(times.median)} ±{100 * times.mad / times.median:.0f}%" if times.median else "0"


def _speed_text(side: Measurement) -> str:
    speed = side.speed
    return f"{speed.value:.2f}x ({speed.low:.2f} to {speed.high:.2f})"


def _style(side: Measurement) -> str:
    if not side.speed.decided:
        return ""
    return "green" if side.speed.value > 1 else "red"


def _method(report: BenchReport) -> list[str]:
    threads = "1 thread" if report.threads == 1 else f"{report.threads} threads"
    what = "processor time" if report.clock == "cpu" else "time"
    return [
        f"inputs: {', '.join(report.inputs) or 'none'}",
        f"{threads}, {report.rounds} rounds in {report.starts} starts of each process; medians ± median deviation",
        f"speed: how many times as fast as the first, by {what}; in brackets the range that holds it with 95 %",
    ]
