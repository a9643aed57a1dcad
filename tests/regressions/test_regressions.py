"""What the fuzzer found, as small programs: none may fail again."""

import json
from pathlib import Path

import pytest

import fxopt
import fxopt.passes
from fxopt.diagnosis import TargetCheck, Trial, check_values, passes_in_time
from fxopt.pipeline import PassManager
from fxopt.program import Program

FILES = sorted(Path(__file__).parent.glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_it_does_not_fail_again(file: Path):
    about = json.loads(file.read_text(encoding="utf-8"))
    program = fxopt.load(str(file.with_suffix(".fxopt")))
    assert isinstance(program, Program)
    trial = Trial(passes_in_time(PassManager.parse(about["pipeline"]), program))
    check = check_values if about["target"] is None else TargetCheck(about["target"])
    found = check(program, trial)
    assert found is None, found


def test_each_program_has_its_story():
    folder = Path(__file__).parent
    assert {f.stem for f in FILES} == {f.stem for f in folder.glob("*.fxopt")}
