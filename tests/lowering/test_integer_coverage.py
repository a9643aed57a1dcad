"""`int8{coverage=full}`: what is left in float of the zoo's models in onnxruntime's optimised graph."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fxopt
from fxopt.program import Program
from tests import zoo
from tests.lowering.test_integers import kernels
from tests.passes.helpers import program, rand

MOVES = {"Transpose", "Reshape", "Split", "NhwcMaxPool", "MaxPool", "Flatten"}
"""Ops that compute nothing: of integers they are what they are of floats."""


def full(name: str) -> Program:
    module, args = zoo.model(name)
    before = fxopt.trace(module, args, dynamic_shapes=zoo.dynamic_batch(args))
    return fxopt.run_pipeline(before, "int8{coverage=full}", calibration=[args], target="onnx")


def floats(program: Program, folder: Path) -> set[str]:
    """The ops that neither compute with integers nor move values, nor are the roundings of inputs and outputs."""
    found = kernels(program, folder)
    assert found["QuantizeLinear"] == len(program.signature.tensor_inputs)
    assert found["DequantizeLinear"] == len(program.signature.computed_outputs)
    named = set(found) - MOVES - {"QuantizeLinear", "DequantizeLinear"}
    return {op for op in named if not op.startswith(("QLinear", "QGemm"))}


@pytest.mark.parametrize("name", ["mlp", "digits"])
def test_no_float_computes(name: str, tmp_path: Path) -> None:
    assert floats(full(name), tmp_path) == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet", "shufflenetv2", "mobilenetv2", "resnet10"])
def test_no_float_computes_in_a_convolutional_net(name: str, tmp_path: Path) -> None:
    assert floats(full(name), tmp_path) == set()


def test_what_has_no_integer_kernel_in_a_convolutional_net(tmp_path: Path) -> None:
    """Group norms, SiLU and transposed convolutions: onnxruntime has no integer kernel for them."""
    found = kernels(full("unet"), tmp_path)
    left = {op for op in set(found) - MOVES if not op.startswith("QLinear")}
    assert left == {
        "QuantizeLinear",
        "DequantizeLinear",
        "InstanceNormalization",
        "QuickGelu",
        "ConvTranspose",
    }


@pytest.mark.parametrize(
    ("function", "kernel"),
    [
        (torch.sigmoid, "QLinearSigmoid"),
        (F.leaky_relu, "QLinearLeakyRelu"),
        (lambda y: y + y, "QLinearAdd"),
        (lambda y: y * y, "QLinearMul"),
        (lambda y: torch.cat([y, y], 1), "QLinearConcat"),
        (lambda y: torch.cat(y.split(2, 1)[::-1], 1), "Split"),
    ],
)
def test_kernels(function, kernel: str, tmp_path: Path) -> None:
    before = program(lambda x, w: function(F.linear(x, w)), rand(8, 6), w=rand(6, 6, seed=1), dynamic=True)
    data = [rand(8, 6)]
    after = fxopt.run_pipeline(before, "int8{coverage=full}", calibration=data, target="onnx")
    assert floats(after, tmp_path) == set()
    assert kernels(after, tmp_path)[kernel] == 1


@pytest.mark.parametrize(
    ("name", "share"), [("digits", "on integers: 4 of 4 calls"), ("mlp", "on integers: 2 of 2 calls")]
)
def test_the_share_is_told(name: str, share: str) -> None:
    assert [n for n in fxopt.lower(full(name), "onnx", verify=False).notes if n.startswith(share)]


def test_the_share_of_a_program_that_is_partly_float() -> None:
    def net(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.linear(F.layer_norm(F.linear(x, w).relu(), [6]).reshape(-1, 3), v)

    before = program(net, rand(8, 6), w=rand(6, 6, seed=1), v=rand(2, 3, seed=2))
    after = fxopt.run_pipeline(before, "int8", calibration=[rand(8, 6)], target="onnx")
    assert "on integers: 2 of 3 calls that compute" in fxopt.lower(after, "onnx", verify=False).notes
    weights = fxopt.run_pipeline(before, "int8-weights", target="onnx")
    assert not [n for n in fxopt.lower(weights, "onnx", verify=False).notes if n.startswith("on integers")]
