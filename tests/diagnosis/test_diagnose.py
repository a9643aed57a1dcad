"""The whole chain: bisected, reduced, in a folder whose script repeats the failure."""

import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

import fxopt
from fxopt.diagnosis import (
    Check,
    CommandCheck,
    FailureReproducer,
    SlowerCheck,
    TargetCheck,
    check_values,
    diagnose,
)
from fxopt.errors import PassError, VerificationError
from fxopt.pipeline import Pass, registry
from fxopt.program import Program
from tests.diagnosis.broken_passes import CrashInRewrite, Fickle, GeluByTanh, Net, Slows, WrongThird, net


def test_a_wrong_pass_ends_in_a_folder(tmp_path: Path):
    found = diagnose(net(), [GeluByTanh()], check_values, folder=tmp_path)
    assert found is not None and found.reduction is not None and found.folder is not None
    assert {p.name for p in found.folder.iterdir()} >= {
        "program.fxopt", "reproduce.py", "report.txt", "pipeline.txt", "inputs.safetensors", "passing.fxopt",
    }  # fmt: skip
    text = (found.folder / "report.txt").read_text()
    for part in (
        "gelu-by-tanh",
        "broken_passes.py",
        "approximate='tanh'",
        "Largest absolute error",
        "Inputs that",
    ):
        assert part in text
    program = fxopt.load(str(found.folder / "program.fxopt"))
    assert isinstance(program, Program) and len(list(program.calls())) == 1
    assert load_file(found.folder / "inputs.safetensors").keys() == {s.name for s in program.signature.inputs}


@pytest.mark.slow
def test_the_script_repeats_it(tmp_path: Path):
    found = diagnose(net(), [GeluByTanh()], check_values, folder=tmp_path)
    assert found is not None and found.folder is not None
    done = subprocess.run(
        [sys.executable, str(found.folder / "reproduce.py")],
        capture_output=True, text=True, check=False, timeout=120,
        cwd=Path(__file__).parents[2], env={**__import__("os").environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert done.returncode == 1
    assert "VerificationError: pass 'gelu-by-tanh' changed the function" in done.stderr


@pytest.mark.parametrize(
    ("item", "check", "error", "text"),
    [
        (GeluByTanh(), check_values, VerificationError, r"'gelu-by-tanh' changed the function:.*\Z"),
        (GeluByTanh(), TargetCheck("eager"), VerificationError, "is not equivalent to"),
        (CrashInRewrite(), check_values, PassError, r"KeyError: 'tanh of size \d+'[^;]*\Z"),
        (Slows(), SlowerCheck(2.0), AssertionError, r"it takes [\d.]+ times as long as before"),
        (Fickle(), check_values, AssertionError, r"add\(%tanh, 0\)"),
        (GeluByTanh(), CommandCheck("true"), SystemExit, r"true finds .*after\.fxopt"),
    ],
    ids=["values", "file", "crash", "slower", "another at each run", "command"],
)
def test_each_script_fails_as_it_did_and_leaves_no_folder(
    item: Pass,
    check: Check,
    error: type[BaseException],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    found = diagnose(net(), [item], check, folder=tmp_path / "failures", seconds=2)
    assert found is not None and found.folder is not None
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(registry, "_passes", registry.all())
    with pytest.raises(error, match=text):
        runpy.run_path(str(found.folder / "reproduce.py"))
    assert not list(temporary.iterdir())


def test_a_run_that_fails_diagnoses_itself(tmp_path: Path):
    watch = FailureReproducer(tmp_path)
    with pytest.raises(VerificationError, match=r"rewrite 3: rule 'relu' .* reduced from 15 to"):
        fxopt.run_pipeline(net(), [WrongThird()], check_each=True, instruments=[watch])
    assert watch.written is not None and (watch.written / "report.txt").is_file()


def test_a_crash_leaves_the_same_folder(tmp_path: Path):
    with pytest.raises(PassError, match="reduced from 15 to 2 calls"):
        fxopt.run_pipeline(net(), [CrashInRewrite()], instruments=[FailureReproducer(tmp_path)])
    (folder,) = tmp_path.iterdir()
    assert "KeyError" in (folder / "error.txt").read_text()
    assert "The pass fails on it" in (folder / "report.txt").read_text()


def test_optimize_diagnoses_a_file_that_differs(tmp_path: Path):
    import torch

    torch.manual_seed(0)
    with pytest.raises(VerificationError, match="pass 'gelu-by-tanh'") as error:
        fxopt.optimize(
            Net().eval(),
            (torch.randn(3, 24),),
            pipeline=[GeluByTanh()],
            target="torchscript",
            reproduce=tmp_path,
        )
    assert "reduced from 15 to 1 call" in str(error.value)
    assert len(list(tmp_path.iterdir())) == 1
