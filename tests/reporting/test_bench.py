"""The table of a comparison."""

import io

import pytest
from rich.console import Console

from fxopt.measure import BenchReport, Measurement, Ratio, Spread
from fxopt.reporting.bench import bench_table, time_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1e-7, "0.10 us"), (9.994e-6, "9.99 us"), (99.94e-6, "99.9 us"), (999.4e-6, "999 us"),
        (999.6e-6, "1.00 ms"), (0.9996, "1.00 s"), (75.0, "75.0 s"),
    ],
)  # fmt: skip
def test_times_have_three_digits(seconds: float, text: str):
    assert time_text(seconds) == text


def shown(report: BenchReport) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(bench_table(report))
    return console.export_text()


def side(name: str, speed: Ratio) -> Measurement:
    times = Spread(2e-3, 1e-4, 1.9e-3, 2.1e-3, 1.8e-3)
    return Measurement(name, "onnx", times, times, speed, 20_000_000, 300_000_000, 0.05, 100)


def test_a_row_a_side_and_how_it_was_measured():
    sides = (side("a.onnx", Ratio(1, 1, 1)), side("b[0].onnx", Ratio(1.5, 1.4, 1.6)))
    text = shown(BenchReport(sides, 45, 3, ("x: f32[2]",), notes=("busy",)))
    first, second, *rest = text.splitlines()[1:]
    assert first.split() == [
        "a.onnx",
        "onnx",
        "2.00",
        "ms",
        "±5%",
        "2.00",
        "ms",
        "±5%",
        "1",
        "20.0",
        "MB",
        "300.0",
        "MB",
        "50.0",
        "ms",
    ]
    assert "b[0].onnx" in second
    assert "1.50x (1.40 to 1.60)" in second
    assert "inputs: x: f32[2]" in rest[0]
    assert "1 thread, 45 rounds in 3 starts" in rest[1]
    assert "by processor time" in rest[2]
    assert rest[3].strip() == "note: busy"


def test_long_names_are_whole_and_figures_stand_in_one_line():
    names = [f"a/folder/of/some/length/model-{i}/model.onnx" for i in range(2)]
    console = Console(width=110, record=True, file=io.StringIO())
    report = BenchReport(tuple(side(n, Ratio(12.15, 11.25, 12.69)) for n in names), 45, 3, ("x: f32[2]",))
    console.print(bench_table(report))
    lines = console.export_text().splitlines()
    assert sum("12.15x (11.25 to 12.69)" in line for line in lines) == 1
    column = "".join(line[: lines[0].index("kind")].strip() for line in lines[1:-3])
    assert column == "".join(names)
