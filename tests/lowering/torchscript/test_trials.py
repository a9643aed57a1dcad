"""A TorchScript file of integer kernels refuses a machine whose kernels saturate; an eager file computes in float."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fxopt
from fxopt.lowering import lower
from fxopt.lowering.kernels.packing import why_not
from tests.passes.helpers import rand

pytestmark = pytest.mark.skipif(any(map(why_not, ("linear", "conv2d"))), reason="needs integer kernels")
WITHOUT_VNNI = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}


def quantized(module: nn.Module, x: torch.Tensor, scheme: str = "int8") -> fxopt.Program:
    data = [(x,)] if scheme == "int8" else None
    return fxopt.run_pipeline(
        fxopt.trace(module.eval(), (x,)), scheme, calibration=data, target="torchscript"
    )


def run(code: str, path: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(path)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


X = torch.full((1, 64, 3, 3), 1.0)


def net() -> nn.Module:
    """Sums of 576 products of 255 by 127, which overflow 16 bits."""
    layer = nn.Conv2d(64, 16, 3, bias=False)
    nn.init.ones_(layer.weight)
    return layer


def test_a_machine_that_saturates_is_refused(tmp_path: Path) -> None:
    lower(quantized(net(), X), "torchscript", path=tmp_path / "net.pt")
    code = "import sys, torch; print(torch.jit.load(sys.argv[1])(torch.ones(1, 64, 3, 3))[0].mean().item())"
    done = run(code, tmp_path / "net.pt", dict(os.environ))
    assert float(done.stdout) == pytest.approx(576, rel=0.01)
    done = run(code, tmp_path / "net.pt", WITHOUT_VNNI)
    assert done.returncode != 0
    assert "this machine's integer kernels saturate: they need AVX512-VNNI" in done.stderr


def test_an_eager_file_computes_in_float_there(tmp_path: Path) -> None:
    lower(quantized(net(), X), "eager", path=tmp_path / "net.fxopt")
    code = "import sys, torch, fxopt; print(fxopt.load(sys.argv[1])(torch.ones(1, 64, 3, 3)).mean().item())"
    for environment in (dict(os.environ), WITHOUT_VNNI):
        assert float(run(code, tmp_path / "net.fxopt", environment).stdout) == pytest.approx(576, rel=0.01)


def test_each_kind_of_kernel_is_tried_once_a_file() -> None:
    mixed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 4))
    artifact = lower(quantized(mixed, rand(2, 3, 6, 6)), "torchscript", verify=False)
    code = str(artifact.module.code)
    assert [code.count(f"self.trial_{kind}_1 = True") for kind in ("conv2d", "linear")] == [1, 1]
    assert not artifact.module.trial_linear_1
    artifact(rand(2, 3, 6, 6))
    assert artifact.module.trial_linear_1, "not tried again"


def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    program = quantized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), rand(2, 3, 6, 6))
    paths = [tmp_path / name for name in ("a.pt", "b.pt")]
    for path in paths:
        lower(program, "torchscript", path=path, verify=False)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("target", ["eager", "torchscript"])
def test_what_runs_on_integers_is_in_the_notes(target: str) -> None:
    program = quantized(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)), rand(2, 8))
    assert lower(program, target).notes == ("integer kernels: 2 of 2 products",)
    program = quantized(nn.Linear(8, 8), rand(2, 8), "int8-weights")
    notes = lower(program, target).notes
    assert notes[0] == "integer kernels: 0 of 1 products"
    assert notes[1].startswith("stays in float, what it reads is not rounded to 0 to 255: ")


def test_an_eager_file_packs_again_where_it_is_moved() -> None:
    artifact = lower(quantized(nn.Linear(8, 8), rand(2, 8)), "eager")
    there = artifact.to("cpu")
    assert any(name.endswith("_packed") for name in there._function.__globals__)
    assert torch.equal(there(rand(2, 8)), artifact(rand(2, 8)))
    assert not any(name.endswith("_packed") for name in artifact.to("meta")._function.__globals__)


def test_many_groups_stay_in_float() -> None:
    layer = nn.Conv2d(101, 101, 3, groups=101)
    x = rand(1, 101, 5, 5)
    program = quantized(layer, x)
    assert lower(program, "eager").notes == ("integer kernels: 1 of 1 products",)
    assert "saturates" in lower(program, "torchscript").notes[1]
    smaller = quantized(nn.Conv2d(100, 100, 3, groups=100), rand(1, 100, 5, 5))
    assert lower(smaller, "torchscript").notes == ("integer kernels: 1 of 1 products",)
