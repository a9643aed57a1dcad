"""What the README shows can be run as it stands."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from fxopt.cli.app import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).relu()


def test_the_python_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {"model": Net().eval(), "x": torch.randn(2, 4)}
    exec(code, names)
    assert names["report"].ok
    assert names["artifact"](torch.randn(5, 4)).shape == (5, 2)
    assert Path("model.onnx").is_file()


def test_the_verbs_exist():
    verbs = {command.callback.__name__ for command in app.registered_commands}
    shown = set(re.findall(r"^fxopt (\w+)", README, re.MULTILINE))
    assert shown
    assert shown <= verbs


def test_the_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert set(re.findall(r"make ([a-z]+)\b", text)) - {"an"} <= targets


def test_the_files_that_it_names_exist():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
