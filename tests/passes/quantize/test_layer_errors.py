"""What each layer's rounding does: against programs in which nothing else is rounded."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxopt.ops import bind, fake_quantize
from fxopt.passes.quantize import LayerError, layer_errors
from fxopt.passes.quantize.insert_fake_quant import InsertFakeQuant
from fxopt.pipeline import PassManager
from fxopt.program import Program
from tests.passes.helpers import program, rand

DATA = [rand(16, 6, seed=s) for s in range(2)]


class Net(nn.Module):
    """Linear but for rounding: the first-order part is all that there is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


def rounded(before: Program, data: object = DATA, **options: object) -> Program:
    return PassManager.of([InsertFakeQuant(**options)]).run(before, calibration=data).program


def relative_error(before: Program, after: Program) -> float:
    pairs = [(before(x), after(x)) for x in DATA]
    return sum(float((w - g).square().sum() / w.square().sum()) for w, g in pairs)


@pytest.mark.parametrize(("layer", "other"), [("a", "b"), ("b", "a")])
def test_the_error_at_the_outputs_is_that_of_the_layer_alone(layer: str, other: str) -> None:
    before = program(Net(), DATA[0])
    found = {e.module: e for e in layer_errors(rounded(before), DATA * 50)}
    alone = relative_error(before, rounded(before, layers=(f"{other}=float",)))
    assert found[layer].output / 50 == pytest.approx(alone, rel=0.15), "800 random directions"
    weights = relative_error(before, rounded(before, layers=(f"{other}=float", f"{layer}=int8-weights")))
    assert weights < 0.8 * alone
    assert found[layer].output_of_weights / 50 == pytest.approx(weights, rel=0.15)


class Functional(nn.Module):
    """Products that no module makes, one of which adds a bias before it multiplies."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Parameter(torch.randn(32, 6)), nn.Parameter(torch.randn(32))
        self.c, self.d = nn.Parameter(torch.randn(32, 4)), nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.d, F.linear(x, self.a, self.b).relu(), self.c)


@pytest.mark.parametrize("scheme", ["int8", "int8-weights", "int8-dynamic"])
def test_a_layer_at_the_root_goes_by_its_weight(scheme: str) -> None:
    before = program(Functional(), DATA[0])
    found = layer_errors(rounded(before, scheme=scheme), DATA)
    assert [(e.module, e.weight, e.name) for e in found] == [("", "a", "a"), ("", "c", "c")]
    (one,) = layer_errors(rounded(program(nn.Linear(6, 32), DATA[0]), scheme=scheme), DATA)
    assert one.name == "weight"


def test_a_weight_by_block_has_its_name() -> None:
    (one,) = layer_errors(
        rounded(program(nn.Linear(32, 6), rand(4, 32)), scheme="int4-weights"), [rand(4, 32)]
    )
    assert one.name == "weight"


def test_a_product_of_two_values_at_the_root_has_no_name() -> None:
    before = program(lambda x, w: (y := F.linear(x, w)) @ y.t(), DATA[0], w=rand(4, 6))
    after = rounded(before)
    assert [e.name for e in layer_errors(after, DATA)] == ["w"]


def test_the_noise_of_a_result() -> None:
    before = program(Net(), DATA[0])
    found = {e.module: e for e in layer_errors(rounded(before), DATA, outputs=False)}
    after = rounded(before, layers=("a=float",))
    wanted = sum(float((before(x) - after(x)).square().sum()) for x in DATA)
    assert found["b"].noise == pytest.approx(wanted, rel=1e-3)
    assert found["b"].signal == pytest.approx(sum(float(before(x).square().sum()) for x in DATA))
    assert found["b"].output == found["b"].output_of_weights == 0


def test_bits_sizes_and_ranges() -> None:
    a, b = layer_errors(rounded(program(Net(), DATA[0]), layers=("b=int8-weights",)), DATA, outputs=False)
    assert (a.module, a.bits, b.module, b.bits) == ("a", (8, 8), "b", (32, 8))
    assert (a.weight_bytes, b.weight_bytes) == (192, 96)
    assert a.flops == 2 * 16 * 6 * 32
    seen = torch.cat(DATA)
    assert (a.low, a.high, a.values) == (float(seen.min()), float(seen.max()), seen.numel())
    assert (b.low, b.high, b.values) == (0, 0, 0), "it reads floats"


def test_clipped_values_are_counted() -> None:
    before = program(Net(), DATA[0])
    after = rounded(before, observer="minmax")
    assert layer_errors(after, DATA, outputs=False)[0].clipped == 0
    larger = torch.zeros(16, 6)
    larger[0, :3] = 100.0
    larger[1, :2] = -100.0
    assert layer_errors(after, [larger], outputs=False)[0].clipped == 5


def by_4_bits() -> Program:
    model = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4))
    return program(model, rand(4, 32))


def test_weights_of_blocks() -> None:
    (found,) = layer_errors(rounded(by_4_bits(), scheme="int4-weights", placement="generic"), [rand(4, 32)])
    assert (found.module, found.bits, found.weight_bytes) == ("0", (32, 4), 128)
    assert found.output == pytest.approx(found.output_of_weights) and found.output > 0
    (found,) = layer_errors(
        rounded(by_4_bits(), scheme="int4-weights", placement="onnx:onnxruntime"), [rand(4, 32)]
    )
    assert found.output != found.output_of_weights, "the kernel rounds what it reads too"


def convolutions(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.conv2d(F.conv2d(x, w).relu(), v)


def test_the_rounding_of_a_last_result_is_its_layers() -> None:
    x = rand(2, 3, 6, 6)
    after = rounded(program(convolutions, x, w=rand(4, 3, 3, 3), v=rand(2, 4, 3, 3)), [x])
    one, last = layer_errors(after, [x])
    (rounding,) = (n for n in after.output_nodes())
    assert rounding.target is fake_quantize
    step = float(after.weights[str(bind(rounding)["scale"].target)])
    size = float(after(x).square().sum())
    assert last.output > 0.4 * 32 * step**2 / 12 / size
    assert one.output > 0


def test_a_norm_that_is_folded_in_gives_no_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    x = rand(2, 3, 6, 6)
    after = PassManager.parse("int8").run(program(model, x), calibration=[x]).program
    assert [e.module for e in layer_errors(after, [x])] == ["0"]


def test_outputs_that_are_no_floats() -> None:
    def best(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.linear(x, w).argmax(-1)

    (found,) = layer_errors(rounded(program(best, DATA[0], w=rand(3, 6))), DATA)
    assert isinstance(found, LayerError) and found.output == 0 < found.noise and found.module == ""


def test_an_empty_batch_counts_for_nothing() -> None:
    after = rounded(program(Net(), DATA[0], dynamic=True))
    first = layer_errors(after, [*DATA, torch.zeros(0, 6)])
    second = layer_errors(after, DATA)
    assert [(e.noise, e.values, e.low) for e in first] == [(e.noise, e.values, e.low) for e in second]
