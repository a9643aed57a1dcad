"""Report: JSON round trip, files, what it says when nothing was verified."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxopt.errors import ArtifactError
from fxopt.report import (
    AppliedRewrite,
    ArtifactReport,
    CostReport,
    Counterexample,
    Coverage,
    GraphSummary,
    MetricReport,
    OutputComparison,
    PassReport,
    Refusal,
    Report,
    Verdict,
    VerifyReport,
)

TEXT = st.text(max_size=8) | st.sampled_from(["", '"', "\\", "é\n", "null", "Infinity"])
# One NaN object: dataclasses compare by identity first, and NaN is not equal to itself.
NUMBERS = st.floats(allow_nan=False) | st.just(math.nan) | st.sampled_from([math.inf, -math.inf, 1e-07, -0.0])
COUNTS = st.integers(0, 2**40)
OPTIONAL_TEXT = st.none() | TEXT

refusals = st.builds(Refusal, TEXT, TEXT, TEXT, TEXT)
passes = st.builds(
    PassReport, TEXT, NUMBERS, st.booleans(), COUNTS, COUNTS, COUNTS,
    st.lists(refusals, max_size=2).map(tuple), st.dictionaries(TEXT, COUNTS, max_size=2), COUNTS, COUNTS,
    st.lists(st.builds(AppliedRewrite, TEXT, TEXT, TEXT, COUNTS, COUNTS), max_size=2).map(tuple),
)  # fmt: skip
by_name = st.dictionaries(TEXT, COUNTS, max_size=2)
texts = st.lists(TEXT, max_size=2).map(tuple)
indices = st.lists(COUNTS, max_size=2).map(tuple)
costs = st.none() | st.builds(CostReport, COUNTS, COUNTS, COUNTS, COUNTS)
summaries = st.none() | st.builds(GraphSummary, COUNTS, by_name, COUNTS, COUNTS, costs)
coverages = st.none() | st.builds(Coverage, COUNTS, COUNTS, st.dictionaries(TEXT, TEXT, max_size=2))
opsets = st.none() | st.integers(7, 30)
outputs = st.builds(OutputComparison, TEXT, st.sampled_from(Verdict), NUMBERS, NUMBERS, NUMBERS, TEXT, TEXT)
counterexamples = st.builds(Counterexample, TEXT, TEXT, indices, NUMBERS, NUMBERS)
verifications = st.builds(
    VerifyReport, st.sampled_from(Verdict), TEXT, NUMBERS, NUMBERS, st.lists(outputs, max_size=2).map(tuple),
    texts, TEXT, st.none() | counterexamples, texts, NUMBERS,
)  # fmt: skip
reports = st.builds(
    Report, TEXT, OPTIONAL_TEXT, OPTIONAL_TEXT, st.lists(passes, max_size=2).map(tuple), summaries, summaries,
    st.none() | st.builds(ArtifactReport, TEXT, OPTIONAL_TEXT, COUNTS, opsets, coverages),
    st.none() | verifications, st.lists(TEXT, max_size=2), st.lists(TEXT, max_size=2),
    st.dictionaries(TEXT, NUMBERS, max_size=2), metric=st.none() | st.builds(MetricReport, NUMBERS, NUMBERS),
    versions=st.dictionaries(TEXT, TEXT, max_size=1), held_to=TEXT,
)  # fmt: skip


@given(reports)
def test_json_round_trip(report: Report):
    assert Report.from_json(json.loads(report.dumps())) == report


@given(reports)
def test_json_is_strict(report: Report):
    def refuse(constant: str) -> object:
        raise AssertionError(f"{constant} is no JSON")

    json.loads(report.dumps(), parse_constant=refuse)


def test_file_round_trip(tmp_path: Path):
    report = Report(model="m", verification=VerifyReport(Verdict.DIFFERENT, ratio=math.inf))
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == report
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "report.json"
    Report(model="old").save(path)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(ArtifactError, match="No space left"):
        Report(model="new").save(path)
    monkeypatch.undo()
    assert Report.load(path).model == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_an_unwritable_folder_is_one_line(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"can't write .*report\.json: No such file or directory"):
        Report().save(tmp_path / "missing" / "report.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "can't read"),
        ("[]", "expected a JSON object, found list"),
        ('{"schema": 99}', "schema version 99"),
        ('{"passes": [{"seconds": 1.0}]}', "not a PassReport"),
        ('{"model": 3}', "expected str, found 3"),
        ('{"verification": {"verdict": "perhaps"}}', "'perhaps' is not a valid Verdict"),
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, text: str, message: str):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=message):
        Report.load(path)


def test_later_fields_are_left_out():
    assert Report.from_json({"model": "m", "from_the_future": 1}) == Report(model="m")


@pytest.mark.parametrize(
    ("verdict", "ok"), [(Verdict.EQUIVALENT, True), (Verdict.DIFFERENT, False), (Verdict.UNDECIDED, False)]
)
def test_only_equivalent_is_ok(verdict: Verdict, ok: bool):
    report = Report(verification=VerifyReport(verdict, ratio=2.0, max_abs_error=1e-6))
    assert report.ok is report.verification.ok is ok
    assert report.verdict == verdict.value
    assert (report.ratio, report.max_abs_error) == (2.0, 1e-6)


def test_nothing_verified_is_undecided():
    assert Report().verdict is Verdict.UNDECIDED
    assert not Report().ok
    assert math.isnan(Report().ratio)
    assert Report().counterexample is None


def test_a_counterexample_keeps_its_tensors_in_memory_only():
    example = Counterexample("batch=3", "logits", (0, 1), 1.0, 2.0, inputs={"x": object()})
    report = Report(verification=VerifyReport(Verdict.DIFFERENT, counterexample=example))
    assert report.counterexample is example
    assert "inputs" not in report.to_json()["verification"]["counterexample"]


@pytest.mark.parametrize(
    ("verdict", "held_to", "text"),
    [
        (Verdict.EQUIVALENT, "", "equivalent: why"),
        (Verdict.EQUIVALENT, "the program after prune", "equivalent to the program after prune: why"),
        (Verdict.DIFFERENT, "the program after prune", "different from the program after prune: why"),
        (Verdict.UNDECIDED, "the program after prune", "undecided against the program after prune: why"),
    ],
)
def test_the_judgement_says_what_the_file_was_held_to(verdict: Verdict, held_to: str, text: str):
    report = Report("Net", verification=VerifyReport(verdict, reason="why"), held_to=held_to)
    assert report.judgement == str(report).splitlines()[-1] == text
