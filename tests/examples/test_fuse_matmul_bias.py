"""The first how-to: a user's pass outside of the package, from Python, by --plugin, with check_pass."""

import re
from pathlib import Path

import pytest
import torch

import fxopt
from fxopt.pipeline import load_plugin, registry

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples" / "fuse_matmul_bias.py"


def test_the_pages_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's blocks run in order, in one namespace."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    page = (ROOT / "docs" / "write-a-pass.md").read_text()
    space: dict[str, object] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks[1:]:  # the first is the example's file
        exec(compile(block, "write-a-pass.md", "exec"), space)
    changed = space["faster"]
    assert isinstance(changed, fxopt.Program)
    assert [n.name for n in changed.calls()] == ["linear", "relu"]
    double = space["DropDoubleRelu"]
    assert isinstance(double, type) and issubclass(double, fxopt.Pass)
    assert fxopt.testing.check_pass(double(), examples=10, targets=())["fired"] > 0
    assert blocks[0].split("@fxopt.register_pass")[1].strip() in FILE.read_text()


def test_it_is_thirty_lines() -> None:
    assert len([line for line in FILE.read_text().splitlines() if line.strip()]) <= 30


def test_it_works_as_a_plugin() -> None:
    load_plugin(str(FILE))
    assert "fuse-matmul-bias" in registry
    cls = registry.get("fuse-matmul-bias")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(3, 2))
            self.b = torch.nn.Parameter(torch.ones(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b + x @ self.w

    program = fxopt.trace(Net().eval(), (torch.zeros(5, 3),))
    result = fxopt.PassManager.parse("fuse-matmul-bias").run(program)
    assert [n.name for n in result.program.calls()] == ["linear"]
    assert cls().pass_name() == "fuse-matmul-bias"


def test_check_pass_holds_it_to_its_contract() -> None:
    load_plugin(str(FILE))
    counts = fxopt.testing.check_pass(registry.get("fuse-matmul-bias")(), examples=30)
    assert counts["fired"] >= 3
