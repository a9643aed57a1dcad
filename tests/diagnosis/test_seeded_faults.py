"""Seeded wrong passes: each found by `check_pass`, bisected to its rewrite and reduced, in one command."""

from pathlib import Path

import pytest

import fxopt
from fxopt.diagnosis import call_count
from fxopt.pipeline import Pass
from fxopt.program import Program
from fxopt.testing import CheckFailure, check_pass
from tests.testing.wrong_passes import (
    PAIRS,
    AroundTheRewriter,
    ChangesWeights,
    NotDeterministic,
    StaleMetadata,
)

WITHOUT_A_REWRITE = {StaleMetadata, AroundTheRewriter, ChangesWeights}
"""What they do wrong, they do outside of any rewrite."""
MOST_CALLS = 5
LARGER: dict[type[Pass], int] = {}
"""Whose smallest failing program has more calls, at most 10."""


def test_there_are_enough():
    assert len(PAIRS) >= 16 and all(n <= 10 for n in LARGER.values()) and len(LARGER) < len(PAIRS) / 4


@pytest.mark.parametrize("wrong", PAIRS, ids=lambda cls: cls.__name__)
def test_found_bisected_and_reduced(wrong: type[Pass], tmp_path: Path):
    with pytest.raises(CheckFailure) as failure:
        check_pass(wrong(), examples=300, targets=(), shrink=False, reproduce=tmp_path)
    text = str(failure.value)
    assert f"pass {wrong.pass_name()!r} (number 1 of 1)" in text, text
    if wrong not in WITHOUT_A_REWRITE | {NotDeterministic}:
        assert ", rewrite " in text
    (folder,) = tmp_path.iterdir()
    program = fxopt.load(str(folder / "program.fxopt")) if wrong.__name__ != "FoldImpure" else None
    if isinstance(program, Program):
        assert call_count(program) <= LARGER.get(wrong, MOST_CALLS)
    assert (folder / "report.txt").read_text().startswith(f"pass {wrong.pass_name()!r}")
