"""`insert-fake-quant{scheme=int4-weights}`: matrices of 4 bits with a scale a block, and the files that hold them."""

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.lowering import lower
from fxopt.ops import bind, fake_quantize, round_blocks
from fxopt.passes.quantize._rounding import block_numbers
from fxopt.passes.quantize.gptq import Gptq
from fxopt.passes.quantize.insert_fake_quant import InsertFakeQuant
from fxopt.pipeline import PassManager, PipelineResult
from fxopt.program import Program
from tests.passes.helpers import calls, program, rand, reasons


def run(before: Program, **options: object) -> PipelineResult:
    return PassManager.of([InsertFakeQuant(scheme="int4-weights", **options)]).run(before)


def linear(inputs: int = 64) -> Program:
    x = rand(8, inputs)
    return program(F.linear, x, dynamic=True, weight=rand(5, inputs, seed=1), bias=rand(5, seed=2))


def test_a_weight_has_a_scale_a_block() -> None:
    before = linear()
    after = run(before).program
    assert calls(after) == ["fake_quantize", "reshape", "linear"]
    assert after.weights["weight"].shape == (5, 2, 32)
    assert torch.equal(after.weights["weight"].flatten(1), before.weights["weight"])
    (rounding,) = (n for n in after.calls() if n.target is fake_quantize)
    assert (bind(rounding)["quant_min"], bind(rounding)["quant_max"]) == (-8, 7)
    assert (after(rand(8, 64)) - before(rand(8, 64))).abs().max() < 3


def test_asymmetric_integers_are_of_four_bits() -> None:
    (rounding,) = (n for n in run(linear(), symmetric=False).program.calls() if n.target is fake_quantize)
    assert (bind(rounding)["quant_min"], bind(rounding)["quant_max"]) == (0, 15)


def test_scales_cover_each_block() -> None:
    blocks = torch.tensor([[[-8.0, 7.0], [-4.0, 7.0], [-8.0, 1.0], [2.0, 1.0], [0.0, 0.0]]])
    scale, zero_point = block_numbers(blocks, symmetric=True)
    assert scale.flatten().tolist() == pytest.approx([1, 1, 1, 2 / 7, 2**-60])
    assert zero_point.item() == 0
    scale, zero_point = block_numbers(blocks, symmetric=False)
    assert scale.flatten().tolist() == pytest.approx([1, 11 / 15, 9 / 15, 2 / 15, 2**-60])
    assert zero_point.flatten().tolist() == [8, 5, 13, 0, 0]


def test_zero_points_for_blocks_of_one_sign() -> None:
    before = program(F.linear, rand(8, 64), weight=rand(5, 64, seed=1).abs() + 1)
    even, uneven = (run(before, symmetric=s).program for s in (True, False))
    errors = [(p(rand(8, 64)) - before(rand(8, 64))).square().sum() for p in (even, uneven)]
    assert errors[1] < 0.5 * errors[0]
    assert uneven.weights["weight_zero_point"].shape == (5, 2, 1)


@pytest.mark.parametrize("block", [32, 64, 128])
def test_blocks(block: int) -> None:
    assert run(linear(128), block=block).program.weights["weight_scale"].shape == (5, 128 // block, 1)


def test_what_a_kernel_reads_is_rounded_once_for_all_readers() -> None:
    before = program(
        lambda x, w, v: F.linear(x, w) + F.linear(x, v), rand(8, 64), w=rand(5, 64), v=rand(5, 64, seed=1)
    )
    after = run(before, placement="onnx:onnxruntime").program
    assert calls(after).count("round_blocks") == 1
    (rounding,) = (n for n in after.calls() if n.target is round_blocks)
    assert rounding.args[1].meta["val"].shape == (8, 2)
    assert rounding.args[2] == 127
    for placement in ("eager", "torchscript", "generic"):
        assert "round_blocks" not in calls(run(before, placement=placement).program)


def test_a_table() -> None:
    ids = torch.arange(6).reshape(2, 3)
    before = program(nn.Embedding(10, 64), ids)
    after = run(before, placement="onnx:onnxruntime").program
    assert calls(after) == ["fake_quantize", "reshape", "embedding"]
    assert (after(ids) - before(ids)).abs().max() < 0.3


@pytest.mark.parametrize(
    ("function", "weights", "why"),
    [
        (F.linear, {"weight": rand(5, 40)}, "its 40 inputs are no multiple of blocks of 32"),
        (lambda x, w: x @ w, {"w": rand(40, 32)}, "its weight is no matrix of a linear layer"),
        (lambda x, w: w @ x.t(), {"w": rand(5, 40)}, "its weight is no matrix of a linear layer"),
        (
            lambda x, w: F.conv1d(x[:, None], w),
            {"w": rand(5, 1, 32)},
            "its weight is no matrix of a linear layer",
        ),
    ],
)
def test_what_stays_in_float(function, weights: dict[str, torch.Tensor], why: str) -> None:
    result = run(program(function, rand(8, 40), **weights))
    assert not result.passes[0].changed
    assert reasons(result) == [f"it stays in float: {why}"]


def test_ignored() -> None:
    assert reasons(run(linear(), ignore=("linear",))) == ["it stays in float: it matches ignore=linear"]


def test_gptq_follows() -> None:
    mixed = rand(64, 64, seed=5)
    data = [rand(64, 64, seed=s) @ mixed for s in range(2)]
    before = linear()
    first = run(before).program
    after = PassManager.of([Gptq()]).run(first, calibration=data).program
    errors = [sum(float((p(x) - before(x)).square().sum()) for x in data) for p in (first, after)]
    assert errors[1] < 0.8 * errors[0]
    assert after.weights["weight"].shape == (5, 2, 32)


# Files


class Net(nn.Module):
    """A table, a layer of matrices by rows, one with one row only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.wide, self.last = nn.Embedding(50, 96), nn.Linear(96, 128), nn.Linear(128, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.last(self.wide(self.table(ids).tanh()).relu().mean(1))


IDS = torch.randint(0, 50, (4, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("symmetric", ["true", "false"])
@pytest.mark.parametrize("target", ["onnx", "torchscript", "eager"])
def test_files_agree_with_the_simulation(target: str, symmetric: str) -> None:
    before = fxopt.trace(Net().eval(), (IDS,), dynamic_shapes=({0: "batch"},))
    after = fxopt.run_pipeline(before, f"int4-weights{{symmetric={symmetric}}}", target=target)
    assert lower(after, target).report.ok


@pytest.mark.parametrize("symmetric", ["true", "false"])
def test_onnx_holds_four_bits_and_its_kernels_read_them(symmetric: str, tmp_path) -> None:
    before = fxopt.trace(Net().eval(), (IDS,), dynamic_shapes=({0: "batch"},))
    after = fxopt.run_pipeline(before, f"int4-weights{{symmetric={symmetric}}}", target="onnx")
    lower(after, "onnx", path=str(tmp_path / "net.onnx"))
    model = onnx.load(tmp_path / "net.onnx")
    kinds = [n.op_type for n in model.graph.node if n.domain == "com.microsoft"]
    assert sorted(kinds) == ["GatherBlockQuantized", "MatMulNBits", "MatMulNBits"]
    levels = [a.i for n in model.graph.node for a in n.attribute if a.name == "accuracy_level"]
    assert levels == [4, 4]
    assert ("com.microsoft", 1) in {(o.domain, o.version) for o in model.opset_import}
    sizes = {
        tuple(t.dims): t.data_type for t in model.graph.initializer if t.data_type == onnx.TensorProto.UINT8
    }
    assert {(50, 48), (128, 3, 16), (3, 4, 16)} <= set(sizes)
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert max(len(t.raw_data) // 4 for t in floats) <= 128 * 3, "scales and biases"


def test_a_program_for_another_target_computes_in_float_on_onnx() -> None:
    before = linear()
    after = run(before, placement="generic").program
    artifact = lower(after, "onnx")
    assert artifact.report.ok


def test_a_matrix_that_more_than_layers_read() -> None:
    def net(x, w):
        return F.linear(x, w) + w.sum()

    after = run(program(net, rand(8, 64), w=rand(5, 64))).program
    assert lower(after, "onnx").report.ok


@pytest.mark.parametrize("target", ["onnx", "torchscript", "eager"])
def test_blocks_are_rounded_where_no_kernel_does_it(target: str) -> None:
    def net(x):
        return round_blocks(x, x.reshape(-1, 2, 3).abs().amax(-1), 127)

    before = program(net, rand(4, 6), dynamic=True)
    assert lower(before, target).report.ok
    zeros = torch.zeros(2, 6)
    assert torch.equal(before(zeros), zeros)
