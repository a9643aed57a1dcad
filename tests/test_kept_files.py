"""Files that earlier versions wrote open for ever, and compute what they did."""

import json
from pathlib import Path

import pytest
import torch

import fxopt
from tests.data_files import FILES, FOLDER, example


@pytest.mark.parametrize("name", FILES)
def test_a_kept_file_opens_and_computes_what_it_did(name: str):
    opened = fxopt.load(FOLDER / name)
    expected = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
    image, mask = example()
    for result in (opened(image, mask, 2.0), opened(image, mask=mask, scale=2.0)):
        rows, count = result["rows"]
        torch.testing.assert_close(rows, torch.tensor(expected["rows"]))
        torch.testing.assert_close(result["sum"], torch.tensor(expected["sum"]))
        assert (count, result["kind"]) == (expected["count"], "kept")
    with pytest.raises(fxopt.InputError, match="fixed at 2"):
        opened(image, mask, 3.0)


def test_a_kept_program_can_be_rewritten_and_lowered(tmp_path: Path):
    program = fxopt.load(FOLDER / "program.fxopt")
    assert isinstance(program, fxopt.Program)
    assert list(program.ties.items()) == [("second.weight", "first.weight")]
    result = fxopt.optimize(program, target="eager", path=tmp_path / "m.fxopt")
    assert result.report.ok
    assert fxopt.verify(FOLDER / "model.onnx", tmp_path / "m.fxopt").ok


def test_the_kept_files_are_small():
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 50_000
