"""`fxopt run` in one process."""

import json
from pathlib import Path

import numpy as np
import pytest

import fxopt
from fxopt.cli import main
from tests.distributed.models import ids, words


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact, data, and data with a bad record, in the working folder."""
    monkeypatch.chdir(tmp_path)
    fxopt.lower(words(), "onnx", path="words.onnx", verify=False)
    x = ids(20).numpy()
    np.savez("x.npz", ids=x)
    x[4] = 10
    np.savez("bad.npz", ids=x)
    Path("calls.py").write_text(
        "import torch\n\n\ndef calls():\n    return [torch.ones(2, 3, dtype=torch.int64)] * 4\n"
    )


def test_a_data_set_goes_through(files: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "run",
                "words.onnx",
                "--data",
                "x.npz",
                "--output",
                "y.npz",
                "--device",
                "cpu",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.startswith("y.npz: 20 records in ")
    assert np.array_equal(np.load("y.npz")["twice"], np.load("x.npz")["ids"] * 2)


def test_records_that_were_set_aside_are_told_and_make_exit_code_1(
    files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "words.onnx", "--data", "bad.npz", "--output", "y.npz"]) == 1
    said = capsys.readouterr().out
    assert "; 1 were set aside, see y.rejected.json; record 4: words.onnx can't be run with" in said
    assert said.count("\n") == 1
    assert main(["run", "words.onnx", "--data", "bad.npz", "--output", "y.npz", "--json"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert (summary["output"], summary["records"], list(summary["rejected"])) == ("y.npz", 20, ["4"])
    assert main(["run", "words.onnx", "--data", "x.npz", "--output", "y.npz", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_calls_of_a_function(files: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "words.onnx", "--data", "calls.py:calls", "--output", "y.npz"]) == 0
    assert np.load("y.npz")["twice"].shape == (4, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["words.onnx", "--data", "x.csv", "--output", "y.npz"],
            "--data x.csv: expected an .npz, or FILE.py:FUNCTION",
        ),
        (["words.onnx", "--data", "none.npz", "--output", "y.npz"], "can't read none.npz"),
        (["words.onnx", "--data", "x.npz", "--output", "no/y.npz"], "the folder no does not exist"),
        (["words.onnx", "--data", "x.npz", "--output", "y.npz", "--batch", "0"], "records from 1 up"),
        (
            ["words.onnx", "--data", "x.npz", "--output", "y.npz", "--device", "tpu:3"],
            "the device 'tpu:3' is not here",
        ),
        (["no.onnx", "--data", "x.npz", "--output", "y.npz"], "no.onnx"),
        (["words.onnx", "--data", "x.npz"], "Missing option '--output'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_left(
    files: None, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = sorted(Path().iterdir())
    assert main(["run", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("fxopt: error: ")
    assert told.count("\n") == 1
    assert message in told
    assert [f for f in sorted(Path().iterdir()) if f not in before and f.name != "__pycache__"] == []
