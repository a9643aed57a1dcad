"""The application: verbs, exit codes, one line for each mistake, and how quickly it answers."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

import fxopt
from fxopt.cli import app as module
from fxopt.cli import main
from fxopt.errors import ArtifactError, VerificationError

HELP = [sys.executable, "-m", "fxopt", "--help"]


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb `passes` raises the error."""

    class App:
        def main(self, **_: object) -> None:
            raise error

    monkeypatch.setattr(module, "get_command", lambda _: App())


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in ("demo", "optimize", "verify", "bench", "bisect", "reduce", "partition", "passes"):
        assert f"\n  {verb} " in text
    assert "..." not in text.partition("Commands:")[2]  # no summary is cut off
    assert main([]) == 0
    assert capsys.readouterr().out == text


def test_help_answers_at_once():
    """Processor time: the wall clock of a machine that runs other tests as well says little."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(HELP, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.3


@pytest.mark.parametrize("verb", [[], ["optimize"], ["verify"], ["bench"], ["passes"], ["demo"]])
def test_help_imports_nothing_heavy(verb: list[str]):
    code = (
        "import sys; from fxopt.cli import main; main(sys.argv[1:]);"
        "print('loaded', *sorted({'torch', 'onnx', 'numpy', 'rich', 'networkx'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, *verb, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded"


def test_version(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fxopt {fxopt.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimise"], "No such command 'optimise'. Did you mean 'optimize'? (see fxopt --help)"),
        (["--colour"], "No such option: --colour (see fxopt --help)"),
        (["optimize"], "Missing argument 'MODEL' (see fxopt optimize --help)"),
        (["optimize", "m", "--opsett", "3"], "No such option: --opsett (Possible options: --opset"),
        (["optimize", "m", "--opset", "x"], "Invalid value for '--opset'"),
        (["show", "m"], "`fxopt show` is not in this version yet; it has demo, optimize"),
        (["passes", "fuse-conv-bnn"], "unknown pass 'fuse-conv-bnn'; did you mean 'fuse-conv-bn'?"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str):
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("fxopt: error: ")
    assert output.err.count("\n") == 1
    assert message in output.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (VerificationError("output y differs"), 1),
        (ArtifactError("the file is corrupt"), 2),
        (OSError(28, "No space left on device"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
):
    fail_with(error, monkeypatch)
    assert main(["passes"]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_fault_of_fxopt_is_shown_in_full_and_is_no_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    fail_with(ZeroDivisionError("a bug"), monkeypatch)
    assert main(["passes"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_module_runs():
    done = subprocess.run(HELP, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: fxopt ")


def test_ctrl_c_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Raised below typer, which swallows it, as the user's does."""
    (tmp_path / "stopped_net.py").write_text("def build():\n    raise KeyboardInterrupt\n")
    assert main(["optimize", f"{tmp_path}/stopped_net.py:build", "--dry-run"]) == 130
    assert capsys.readouterr().err == "fxopt: error: interrupted\n"
