"""Reports as text."""

import io

import pytest
from rich.console import Console, RenderableType

from fxopt.report import (
    ArtifactReport,
    GraphSummary,
    PassReport,
    Refusal,
    Report,
    Verdict,
    VerifyReport,
)
from fxopt.reporting import pass_table, refusal_table, size_text, summary, verdict_line


def rendered(what: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=110).print(what)
    return out.getvalue()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_000, "1.2 MB"), (5 * 10**12, "5000.0 GB")],
)
def test_sizes(size: int, text: str):
    assert size_text(size) == text


def test_verdict_line_without_a_ratio():
    assert verdict_line(VerifyReport(Verdict.UNDECIDED, reason="no reference")) == "undecided: no reference"


def test_summary_says_everything_once():
    report = Report(
        model="net[bold]",
        target="onnx",
        pipeline="O1",
        before=GraphSummary(9, {"aten.conv2d": 2, "aten.batch_norm": 2}, 4, 2000),
        after=GraphSummary(7, {"aten.conv2d": 2}, 4, 1500),
        artifact=ArtifactReport("onnx", "out/model.onnx", 1234),
        verification=VerifyReport(Verdict.DIFFERENT, reason="output y differs", ratio=80.0),
        warnings=["a weight is NaN"],
        notes=["onnxsim was not used"],
        timings={"trace": 0.5},
    )
    text = rendered(summary(report))
    parts = [
        "net[bold]",
        "O1",
        "9 -> 7 nodes",
        "2.0 kB -> 1.5 kB",
        "aten.batch_norm 2 -> 0",
        "out/model.onnx, onnx, 1.2 kB",
        "different: output y differs (error ratio 80)",
        "trace 0.50 s",
        "warning: a weight is NaN",
        "note: onnxsim was not used",
    ]
    for part in parts:
        assert text.count(part) == 1, part
    assert "aten.conv2d" not in text  # what did not change is left out


def test_summary_of_an_empty_report():
    assert "model" in rendered(summary(Report()))


def test_passes():
    passed = PassReport("fuse-conv-bn", 0.0123, True, 2, 7, 9, (Refusal("r", "bn1", "why"),))
    row = rendered(pass_table((passed,))).splitlines()[1].split()
    assert row == ["fuse-conv-bn", "0.012", "2", "1", "9", "7"]


def test_refusals():
    passed = PassReport(
        "fuse-conv-bn", refusals=(Refusal("fold", "bn1", "conv has 2 users", "net.py:3 layer1"),)
    )
    text = rendered(refusal_table(passed))
    assert "0 rewrites, 1 refusals" in text
    assert text.splitlines()[-1].split() == ["fold", "bn1", "net.py:3", "layer1", "conv", "has", "2", "users"]
    assert "refusals" in rendered(refusal_table(PassReport("x")))
