"""`lower-precision`: what is computed in 16-bit floats, and what is not."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.errors import InputError, PipelineError
from fxopt.lowering import lower
from fxopt.passes.quantize.lower_precision import LowerPrecision, _follows
from fxopt.pipeline import PassManager, PipelineResult
from fxopt.program import Program
from fxopt.testing import check_pass
from tests import zoo
from tests.passes.helpers import calls, program, rand, reasons

DATA = [rand(8, 6, seed=s) for s in range(3)]
TARGETS = ("eager", "torchscript", "onnx")


def run(before: Program, data: object = DATA, **options: object) -> PipelineResult:
    return PassManager.of([LowerPrecision(**options)]).run(before, calibration=data)


def kinds(after: Program) -> list[str]:
    """The ops in order, each with the dtype that it gives."""
    return [
        f"{name}:{str(n.meta['val'].dtype)[6:]}" for name, n in zip(calls(after), after.calls(), strict=True)
    ]


def layers(x, w, b, v):
    return F.linear(F.linear(x, w, b).relu(), v)


def test_what_is_computed_between_two_layers_stays_wide() -> None:
    """Neither what a type is asked for nor what is computed follows; what moves values does."""
    before = program(
        lambda x, w, v: F.linear(F.linear(x, w).softmax(1).reshape(5, 8).to(torch.float32).t().exp(), v),
        rand(8, 6), w=rand(5, 6, seed=1), v=rand(4, 5, seed=2),
    )  # fmt: skip
    found = kinds(run(before).program)
    assert "softmax:float32" in found and "exp:float32" in found


def test_what_follows() -> None:
    before = program(lambda x: (x.exp(), x.softmax(1), x.t(), x.relu(), x.chunk(2)[0]), rand(4, 4))
    follows = {name: _follows(n) for name, n in zip(calls(before), before.calls(), strict=True)}
    assert not follows["exp"] and not follows["softmax"] and not follows["getitem"]
    assert follows["relu"] and follows["permute"]


def test_complex_values_are_no_float32() -> None:
    before = program(lambda x, w: F.linear(torch.fft.rfft(x).abs(), w), rand(8, 6), w=rand(5, 4, seed=1))
    assert {"fft_rfft:complex64", "abs:float32"} <= set(kinds(run(before).program))


@pytest.mark.parametrize(
    ("largest", "dtype"), [(30000.0, "float16"), (65504 / 2, "float16"), (33000.0, "float32")]
)
def test_half_of_what_the_type_holds_may_be_used(largest: float, dtype: str) -> None:
    before = program(F.linear, rand(8, 6) * 1e-6, weight=torch.full((5, 6), largest))
    result = run(before, [rand(8, 6) * 1e-6])
    assert f"linear:{dtype}" in kinds(result.program)
    assert reasons(result) == ([] if dtype == "float16" else ["it stays in float32: weight is up to 3.3e+04"])


def two_layers() -> Program:
    return program(layers, rand(8, 6), w=rand(5, 6, seed=1), b=rand(5, seed=2), v=rand(4, 5, seed=3))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_products_and_what_stands_between_them(dtype: str) -> None:
    before = two_layers()
    after = run(before, dtype=dtype).program
    assert kinds(after) == [
        f"to:{dtype}",
        f"linear:{dtype}",
        f"relu:{dtype}",
        f"linear:{dtype}",
        "to:float32",
    ]
    assert {t.dtype for t in after.weights.values()} == {getattr(torch, dtype)}
    wanted, got = before(DATA[0]), after(DATA[0])
    assert got.dtype is torch.float32
    assert (wanted - got).abs().max() < (0.01 if dtype == "float16" else 0.1)


def test_softmax_and_norms_stay_in_float32() -> None:
    def block(x, w, v):
        return F.linear(F.layer_norm(F.linear(x, w).softmax(-1), [6]), v)

    after = run(program(block, rand(8, 6), w=rand(6, 6, seed=1), v=rand(3, 6, seed=2))).program
    assert kinds(after) == [
        "to:float16", "linear:float16", "to:float32", "softmax:float32", "layer_norm:float32",
        "to:float16", "linear:float16", "to:float32",
    ]  # fmt: skip


def test_a_residual_is_added_in_half_precision() -> None:
    def residual(x, w, v):
        return F.linear(x + F.linear(x, w), v)

    after = run(program(residual, rand(8, 6), w=rand(6, 6, seed=1), v=rand(3, 6, seed=2))).program
    assert kinds(after) == ["to:float16", "linear:float16", "add:float16", "linear:float16", "to:float32"]


def test_what_reads_no_product_stays() -> None:
    before = program(lambda x: (x + 1).relu(), rand(8, 6))
    assert str(run(before).program) == str(before)


def test_a_table_is_stored_in_half_precision() -> None:
    ids = torch.arange(6).reshape(2, 3)
    after = run(program(nn.Embedding(10, 4), ids), [ids]).program
    assert kinds(after) == ["embedding:float16", "to:float32"]


def test_a_table_that_a_product_reads_too_is_looked_up_in_float32() -> None:
    """onnxruntime dies on the float16 form of it."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return F.linear(self.table(ids), self.table.weight)

    ids = torch.arange(6).reshape(2, 3)
    after = run(program(Tied(), ids), [ids]).program
    assert kinds(after) == ["embedding:float32", "to:float16", "linear:float16", "to:float32"]
    assert lower(after, "onnx").report.ok


def test_a_weight_that_float32_reads_too_stays_beside() -> None:
    def both(x, w):
        return F.linear(x, w), F.layer_norm(x, [6], w[0])

    after = run(program(both, rand(8, 6), w=rand(6, 6, seed=1))).program
    assert {t.dtype for t in after.weights.values()} == {torch.float16, torch.float32}


# What would overflow


def test_values_that_float16_does_not_hold() -> None:
    before = program(layers, rand(8, 6), w=rand(5, 6) * 1e4, b=rand(5), v=rand(4, 5))
    loud = [x * 100 for x in DATA]
    result = run(before, loud)
    assert not result.passes[0].changed
    assert "is up to" in reasons(result)[0]
    assert run(before, loud, dtype="bfloat16").passes[0].changed
    assert run(before, [x / 100 for x in DATA]).passes[0].changed


def test_weights_that_float16_does_not_hold() -> None:
    result = run(program(F.linear, rand(8, 6), weight=rand(5, 6) * 1e6), [x * 1e-9 for x in DATA])
    assert "weight is up to" in reasons(result)[0]


@pytest.mark.parametrize("literal", [1e9, 1e-9])
def test_literals_that_float16_does_not_hold(literal: float) -> None:
    after = run(
        program(lambda x, w: F.linear(x, w) * literal, rand(8, 6), w=rand(5, 6)), [x * 1e-5 for x in DATA]
    )
    assert kinds(after.program)[-2:] == ["to:float32", "mul:float32"]


def test_nothing_is_infinite_on_the_data() -> None:
    """Each layer alone would hold; their sum does not."""

    def net(x, w, v):
        y = F.linear(x, w)
        return F.linear(y + y + y, v)

    w = torch.full((6, 6), 1700.0)
    data = [torch.full((8, 6), 3.0)]
    before = program(net, data[0], w=w, v=rand(3, 6) * 1e-4)
    after = run(before, data).program
    assert after(data[0]).isfinite().all()
    wide = run(before, [d * 1e-3 for d in data]).program
    assert not wide(data[0]).isfinite().all(), "data that shows less than the model will see"


def test_infinite_values_are_no_error_and_stay() -> None:
    def masked(x, w):
        return F.linear(x, w).masked_fill(x[:, :5] > 0, -math.inf).softmax(-1)

    after = run(program(masked, rand(8, 6), w=rand(5, 6))).program
    assert after(DATA[0]).isfinite().all()


# Options


def test_calibration_is_asked_for_only_where_it_counts() -> None:
    with pytest.raises(PipelineError, match="needs calibration data"):
        fxopt.run_pipeline(two_layers(), "fp16")
    for text in ("bf16", "fp16{observe=false}"):
        assert "half-precision" in fxopt.run_pipeline(two_layers(), text).properties
    with pytest.raises(InputError, match="calibration data is empty"):
        run(two_layers(), [])


def test_layers_left_out() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    result = run(program(model, rand(8, 6)), ignore=("2",))
    assert reasons(result) == ["it stays in float32: it matches ignore=2"]
    assert kinds(result.program)[-1] == "linear:float32"


def test_it_runs_once_and_not_with_integers() -> None:
    after = run(two_layers()).program
    with pytest.raises(PipelineError, match="half-precision"):
        run(after)
    with pytest.raises(PipelineError, match="quantized"):
        run(fxopt.run_pipeline(two_layers(), "int8-weights"))


# The contract, and files


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_drawn_programs(dtype: str) -> None:
    check_pass(LowerPrecision(dtype=dtype), examples=25)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pipeline", ["fp16", "bf16"])
def test_files_are_half_the_size(pipeline: str, target: str) -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)).eval()
    before = fxopt.trace(model, (rand(4, 256),))
    after = fxopt.run_pipeline(before, pipeline, calibration=[rand(4, 256)] if pipeline == "fp16" else None)
    artifact = lower(after, target)
    assert artifact.report.ok, artifact.report.reason
    assert artifact.size < 0.52 * lower(before, target).size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pipeline"),
    [
        *((n, "fp16") for n in ("tied_encoder", "lstm", "bert", "llama", "resnet10")),
        ("unet", "bf16"),
        ("gpt2", "bf16"),
    ],
)
def test_the_zoo(name: str, pipeline: str) -> None:
    module, args = zoo.model(name)
    before = fxopt.trace(module, args, dynamic_shapes=zoo.dynamic_batch(args))
    after = fxopt.run_pipeline(before, pipeline, calibration=[args] if pipeline == "fp16" else None)
    artifact = lower(after, "onnx")
    assert artifact.report.ok, artifact.report.reason
