"""The first bad pass and its first bad rewrite, in few runs."""

import sys
from pathlib import Path

import torch
from torch import nn

import fxopt.passes  # noqa: F401  (registers them)
from fxopt.diagnosis import (
    Check,
    CommandCheck,
    SlowerCheck,
    Symptom,
    TargetCheck,
    Trial,
    bisect,
    bisect_pass,
    check_values,
)
from fxopt.lowering import Emitted, get_target
from fxopt.passes.eliminate.eliminate_dead_code import EliminateDeadCode
from fxopt.passes.eliminate.eliminate_identities import EliminateIdentities
from fxopt.program import Program
from tests.diagnosis.broken_passes import (
    CrashInRewrite,
    CrashOutside,
    GeluByTanh,
    Slows,
    WrongThird,
    chain,
    net,
)

LOOKS_FOR_THE_BOUND = """
import sys, zipfile
file = zipfile.ZipFile(sys.argv[1])
sys.exit(not any(b"0.125" in file.read(n) for n in file.namelist() if n.endswith(".json")))
"""
RIGHT = (EliminateIdentities(), EliminateDeadCode())


def test_a_right_pipeline_has_no_bad_pass():
    assert bisect(net(), "O1", check_values) is None


def test_the_wrong_rewrite_is_found_by_its_number():
    program = net()
    found = bisect(program, (*RIGHT, *RIGHT, WrongThird(), *RIGHT), check_values)
    assert found is not None and found.rewrite is not None
    assert isinstance(found.item, WrongThird) and (found.index, found.count) == (5, 7)
    assert (found.rewrite.rule, found.number) == ("relu", 3)
    assert found.rewrite.root == [n.name for n in program.calls() if n.name.startswith("relu")][2]
    assert found.symptom.kind == "values" and len(found.trial.passes) == 1
    assert "number 5 of 7" in str(found) and "broken_passes.py" in str(found)


def test_it_takes_logarithmically_many_runs():
    calls = 0

    def counted(program: Program, trial: Trial) -> Symptom | None:
        nonlocal calls
        calls += 1
        return check_values(program, trial)

    program = chain(*[m for _ in range(8) for m in (nn.Linear(8, 8), nn.ReLU())])
    found = bisect(program, [*RIGHT * 10, WrongThird(), *RIGHT * 10], counted)
    assert found is not None and found.number == 3 and found.index == 21
    assert calls == found.runs <= 2 + 6 + 2 + 3


def test_a_crash_in_a_rewrite_names_it():
    found = bisect(net(), (*RIGHT, CrashInRewrite()), check_values)
    assert found is not None and found.rewrite is not None
    assert found.symptom.kind == "crash" and found.symptom.pass_name == "crash-in-rewrite"
    assert found.rewrite.rule == "relu" and found.number == 3
    assert found.rewrite.origins[0].file.endswith("broken_passes.py")


def test_a_crash_outside_of_a_rewrite_names_the_pass():
    found = bisect(net(), (*RIGHT, CrashOutside(), WrongThird()), check_values)
    assert found is not None and isinstance(found.item, CrashOutside) and found.rewrite is None
    assert "no tanh, please" in str(found)


def test_a_slower_result():
    found = bisect(net(), (*RIGHT, Slows()), SlowerCheck(2.0))
    assert found is not None and isinstance(found.item, Slows)
    assert found.rewrite is not None and found.rewrite.rule == "slow"
    assert bisect(net(), RIGHT, SlowerCheck(2.0)) is None


def test_what_a_command_says(tmp_path: Path):
    """The program's file is a zip; the command looks into it for the wrong bound."""
    command = tmp_path / "interesting.sh"
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{LOOKS_FOR_THE_BOUND}' \"$1\"\n")
    command.chmod(0o755)
    check: Check = CommandCheck(str(command))
    found = bisect_pass(net(), WrongThird(), check)
    assert found is not None and found.number == 3 and found.symptom.kind == "test"


def test_a_file_that_differs_without_any_pass():
    class Lossy(type(get_target("eager"))):  # type: ignore[misc]
        """Writes every softmax as a log-softmax."""

        def emit(self, program: Program, **options: object) -> Emitted:
            wrong = program.copy()
            for node in wrong.calls():
                if node.target == torch.ops.aten.softmax.int:
                    node.target = torch.ops.aten.log_softmax.int
            return super().emit(wrong, **options)

    found = bisect(net(), "O1", TargetCheck(Lossy()))
    assert found is not None and found.item is None
    assert found.symptom.kind == "target" and "without any pass" in str(found)
    assert bisect(net(), "O1", TargetCheck("eager")) is None


def test_a_wrong_pass_that_only_the_file_shows():
    found = bisect(net(), (*RIGHT, GeluByTanh()), TargetCheck("torchscript"))
    assert found is not None and isinstance(found.item, GeluByTanh)
    assert found.rewrite is not None and found.symptom.kind == "target"
