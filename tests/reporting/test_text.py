"""Reports as text."""

import io

import pytest
from rich.console import Console, RenderableType

from fxopt.report import (
    AppliedRewrite,
    ArtifactReport,
    CostReport,
    Coverage,
    GraphSummary,
    LayerReport,
    MetricReport,
    PassReport,
    PrecisionReport,
    Refusal,
    Report,
    Verdict,
    VerifyReport,
)
from fxopt.reporting import change_table, explanation, pass_table, size_text, summary

GREEN = "\x1b[32m"


def rendered(what: RenderableType, *, color: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=110, force_terminal=color, color_system="standard" if color else None).print(what)
    return out.getvalue()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_000, "1.2 MB"), (5 * 10**12, "5000.0 GB")],
)
def test_sizes(size: int, text: str):
    assert size_text(size) == text


def test_summary_says_everything_once():
    report = Report(
        model="net[bold]",
        target="onnx",
        pipeline="O1",
        passes=(PassReport("fuse-conv-bn", changed=True), PassReport("fold-constants")),
        before=GraphSummary(9, {"aten.conv2d": 2, "aten.batch_norm": 2}, 4, 2000),
        after=GraphSummary(7, {"aten.conv2d": 2}, 4, 1500),
        artifact=ArtifactReport(
            "onnx", "out/model.onnx", 1234, 20, Coverage(7, 6, {"aten.fft.default": "onnxscript"})
        ),
        verification=VerifyReport(Verdict.DIFFERENT, reason="output y differs", ratio=80.0),
        metric=MetricReport(0.9, 0.875, 0.05),
        warnings=["a weight is NaN"],
        notes=["onnxsim was not used"],
        timings={"trace": 0.5},
    )
    text = rendered(summary(report))
    parts = [
        "net[bold]",
        "O1: fuse-conv-bn",
        "2.0 kB  1.5 kB",
        "out/model.onnx, onnx opset 20, 1.2 kB",
        "7 ops, 85.7% by own rules; 1 not: aten.fft.default (onnxscript)",
        "0.9 -> 0.875 (may fall by 0.05)",
        "different: output y differs",
        "trace 0.50 s",
        "warning: a weight is NaN",
        "note: onnxsim was not used",
    ]
    for part in parts:
        assert text.count(part) == 1, part
    rows = [line.split() for line in text.splitlines()]
    assert ["aten.batch_norm", "2", "0"] in rows
    assert ["other", "ops", "2", "2"] in rows
    assert ["all", "ops", "9", "7"] in rows
    assert "aten.conv2d" not in text  # what did not change is left out


def test_the_verdict_says_what_the_file_was_held_to():
    report = Report(verification=VerifyReport(Verdict.EQUIVALENT, "why"), held_to="the program after prune")
    assert "equivalent to the program after prune: why" in rendered(summary(report))


def test_summary_of_an_empty_report():
    assert "model" in rendered(summary(Report()))


def test_only_what_fell_is_green():
    costs = [CostReport(2_500_000, 10, 10, 70), CostReport(2_500_000, 10, 30, 50)]
    before, after = (
        GraphSummary(4, {"aten.add": 1, "aten.mul": 3}, 1, 8, costs[0]),
        GraphSummary(4, {"aten.add": 3, "aten.mul": 1}, 1, 8, costs[1]),
    )
    lines = rendered(change_table(before, after), color=True).splitlines()
    green = {line.split("  ")[0].strip() for line in lines if GREEN in line}
    assert green == {"aten.mul", "peak memory"}
    plain = [line.split() for line in rendered(change_table(before, after)).splitlines()]
    assert ["FLOPs", "of", "a", "run", "2.50", "M", "2.50", "M"] in plain
    assert ["memory", "moved", "20", "B", "40", "B"] in plain


def test_passes():
    absent = Refusal("r", "", "the program has no aten.mm")
    passed = PassReport(
        "fuse-conv-bn", 0.0123, True, 2, 7, 9, (Refusal("r", "bn1", "why"), absent), ops=3, ops_before=4
    )
    lines = rendered(pass_table((passed,))).splitlines()
    assert lines[1].split() == ["fuse-conv-bn", "0.012", "2", "1", "4", "3", "3075.0"]
    assert lines[2].startswith("0.012 s in 1 pass runs")
    empty = rendered(pass_table((PassReport("O1", 0.5),))).splitlines()
    assert empty[1].split() == ["O1", "0.500", "0", "0", "0", "0"]


def test_an_explanation_says_where_a_pass_fired_and_where_not():
    absent = Refusal("fold-mm", "", "the program has no aten.mm")
    first = PassReport(
        "fuse-conv-bn",
        refusals=(Refusal("fold", "bn0", "for now"), absent),
        applied=(AppliedRewrite("fold", "bn1", "net.py:3 layer1"),),
    )
    last = PassReport(
        "fuse-conv-bn", refusals=(Refusal("fold", "bn2", "conv has 2 users", "net.py:4"), absent)
    )
    text = rendered(explanation("fuse-conv-bn", [first, last]))
    assert text.startswith("fuse-conv-bn: 1 rewrite, 1 near miss\n")
    rows = [line.split() for line in text.splitlines()]
    assert ["fold", "bn1", "net.py:3", "layer1"] in rows
    assert ["fold", "bn2", "net.py:4", "conv", "has", "2", "users"] in rows
    assert "for now" not in text  # a later run of the pass got further
    assert "aten.mm" not in text  # of no interest where the pass fired
    assert "the program has no aten.mm" in rendered(explanation("fuse-conv-bn", [last]))
    assert "0 rewrites, 0 near misses" in rendered(explanation("x", []))


def test_a_long_explanation_is_cut():
    applied = tuple(AppliedRewrite("fold", f"bn{i}") for i in range(100))
    text = rendered(explanation("x", [PassReport("x", applied=applied)]))
    assert "... and 60 more, in report.json" in text
    assert len(text.splitlines()) < 50


def test_the_worst_layers_of_a_quantized_program():
    layers = [LayerReport(f"layer{i}", "conv2d", 8, 8, sqnr=30.0 + i, weight_bytes=1500) for i in range(11)]
    layers.append(LayerReport("head", "linear", 32, 4, 12.34, 0.5, -1.0, 2.5, 0.001))
    report = Report("Net", layers=tuple(layers))
    lines = rendered(summary(report)).splitlines()
    (head,) = [i for i, line in enumerate(lines) if line.startswith("head")]
    assert lines[head].split() == [
        "head",
        "32,",
        "4",
        "12.3",
        "dB",
        "50.0%",
        "-1",
        "to",
        "2.5",
        "0.10%",
        "0",
        "B",
    ]
    assert lines[head + 1].split() == ["layer0", "8,", "8", "30.0", "dB", "1.5", "kB"], (
        "then by what their results lose"
    )
    assert [line.split()[0] for line in lines[head + 1 : head + 10]] == [f"layer{i}" for i in range(9)]
    assert lines[head + 10].strip() == "... and 2 more, in report.json"
    few = rendered(summary(Report("Net", layers=tuple(layers[:10]))))
    assert "layer9" in few and "more" not in few


def test_how_precisions_were_chosen():
    found = PrecisionReport("an SQNR of at least 30 dB", True, 31.5, ("head=float",))
    assert "an SQNR of at least 30 dB: met (31.5) with head=float" in rendered(
        summary(Report(precision=found))
    )
    none = PrecisionReport("an SQNR of at least 30 dB", False, 12.0)
    assert "not met (12) with nothing changed" in rendered(summary(Report(precision=none)))
