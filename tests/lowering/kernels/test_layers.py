"""One set of numbers: each layer of eager, TorchScript and ONNX files gives the simulation's integers."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxopt
from fxopt.lowering.kernels import packing, plan
from fxopt.lowering.kernels.packing import why_not
from fxopt.passes.quantize.insert_fake_quant import InsertFakeQuant
from fxopt.rewriting import Const
from fxopt.testing import programs
from fxopt.verification import sample_inputs
from tests import zoo
from tests.lowering.kernels.layers import Difference, Layers, is_rounding
from tests.passes.helpers import rand

TARGETS = ("eager", "torchscript", "onnx")
CHEAP = ("mlp", "digits", "tied_encoder")


class Everything(nn.Module):
    """Every integer kernel: of many groups too, which the wrong one saturates."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.deep = nn.Conv2d(3, 128, 3), nn.Conv2d(128, 128, 3, groups=128, padding=1)
        self.second, self.third = nn.Conv2d(128, 16, 3, bias=False), nn.Conv2d(32, 16, 1)
        self.last, self.end = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.max_pool2d(F.relu6(self.deep(self.first(x).relu())), 2)
        z = self.second(y)
        z = self.third(torch.cat([(z + z.abs()).relu(), z * z.sigmoid()], 1))
        return self.end(self.last(z.mean((2, 3))).relu())


def quantized(module: nn.Module, *args: torch.Tensor, target: str = "torchscript") -> fxopt.Program:
    traced = fxopt.trace(module.eval(), args)
    return fxopt.run_pipeline(traced, "int8", calibration=[args], target=target)


X = rand(4, 3, 20, 20)


@pytest.fixture(scope="module")
def layers() -> Layers:
    return Layers.of(quantized(Everything(), X), X)


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_gives_the_simulation_s_integers(layers: Layers, target: str) -> None:
    found = layers.difference(target)
    assert found.ok, found
    assert sum(found.counts) > 100_000


@pytest.mark.parametrize("name", CHEAP)
def test_the_zoo_s_small_models(name: str) -> None:
    _check_zoo(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names(*CHEAP))
def test_the_zoo(name: str) -> None:
    _check_zoo(name)


def _check_zoo(name: str) -> None:
    module, args = zoo.model(name)
    apart = Layers.of(quantized(module, *args), *args)
    for target in TARGETS:
        found = apart.difference(target)
        assert found.ok, (target, found)


@pytest.mark.slow
@settings(max_examples=25)
@given(st.data())
def test_drawn_programs(data: st.DataObject) -> None:
    """Among random ops: what is linear, its surroundings, and everything in between."""
    motifs = [_convolution, *InsertFakeQuant.motifs]
    drawn = data.draw(programs(families=FAMILIES, motifs=motifs, max_ops=10))
    batches = [tuple(s.tensors) for s in sample_inputs(drawn.signature, seed=0)]
    program = fxopt.run_pipeline(drawn, "int8", calibration=batches, target="torchscript")
    apart = Layers.of(program, *batches[0])
    for target in TARGETS:
        found = apart.difference(target)
        assert found.ok, (target, found)


def _convolution(x: torch.Tensor, w: Const, b: Const) -> torch.Tensor:
    return F.conv2d(x, w, b).relu()


FAMILIES = (
    "linear", "conv", "matmul", "binary", "cat", "pool", "global_pool", "unary", "clamp", "reshape", "permute", "flatten",
    "slicing", "select", "squeeze", "unsqueeze", "expand", "upsample", "pixel_shuffle", "gelu", "embedding", "scaled_add",
)  # fmt: skip


# What is wrong on purpose: each is a mistake that a kernel's caller could make.
kernels = pytest.mark.skipif(any(map(why_not, ("linear", "conv2d"))), reason="needs integer kernels")


def _packs(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[dict[str, torch.Tensor], packing.Packed], None]
) -> None:
    right = packing.pack

    def wrong(packed, weights, **options):  # type: ignore[no-untyped-def]
        spoilt = dict(weights)
        spoil(spoilt, packed)
        return right(packed, spoilt, **options)

    for module in ("eager.flat", "torchscript.module"):
        monkeypatch.setattr(f"fxopt.lowering.{module}.pack", wrong)


def _scale(weights: dict[str, torch.Tensor], packed: packing.Packed) -> None:
    weights[packed.scale] = weights[packed.scale] * 1.05


def _axis(weights: dict[str, torch.Tensor], packed: packing.Packed) -> None:
    weights[packed.scale] = weights[packed.scale].flip(0)


def _bias(weights: dict[str, torch.Tensor], packed: packing.Packed) -> None:
    if packed.bias_scale:
        weights[packed.bias_scale] = weights[packed.bias_scale] * 2


@kernels
@pytest.mark.parametrize("target", ["eager", "torchscript"])
@pytest.mark.parametrize("spoil", [_scale, _axis, _bias])
def test_weights_packed_wrongly_are_seen(
    layers: Layers, spoil: Callable[..., None], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _packs(monkeypatch, spoil)
    assert not layers.difference(target).ok


@kernels
@pytest.mark.parametrize("target", ["eager", "torchscript"])
@pytest.mark.parametrize("wrong", ["zero_point", "scale"])
def test_wrong_numbers_of_activations_are_seen(
    layers: Layers, wrong: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = plan.numbers_of

    def spoilt(node, weights):  # type: ignore[no-untyped-def]
        found = right(node, weights)
        if found is None or wrong == "scale":
            return found and replace(found, scale=found.scale * 1.05)
        return replace(found, zero_point=found.zero_point + 1)

    monkeypatch.setattr(plan, "numbers_of", spoilt)
    assert not layers.difference(target).ok


@kernels
def test_a_kernel_that_saturates_is_seen(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    """fbgemm's for many groups, which torch's x86 engine takes for more than 100 of them."""
    monkeypatch.setattr("fxopt.lowering.torchscript.emit._MOST_GROUPS", 128)
    found = layers.difference("torchscript")
    assert not found.ok
    assert found.steps > 10


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("wrong", ["scale", "bias"])
def test_a_program_with_wrong_numbers_is_seen(layers: Layers, wrong: str, target: str) -> None:
    """The same for every target: what one layer's result is rounded by, or its bias, is a little off.

    Another zero point, the same for who rounds and who reads, is the same program.
    """
    spoilt = layers.program.copy()
    if wrong == "bias":
        name = next(n for n in spoilt.weights if n.endswith("bias_scale"))
        spoilt.weights[name] = spoilt.weights[name] * 2
    else:
        node = next(n for n in spoilt.calls() if is_rounding(n))
        spoilt.weights["wrong"] = spoilt.weights[str(node.args[1].target)] * 1.05
        with spoilt.graph.inserting_before(node):
            other = spoilt.graph.get_attr("wrong")
        other.meta.update(node.args[1].meta)
        node.update_arg(1, other)
    assert not layers.difference(target, spoilt).ok


@pytest.mark.parametrize(
    ("found", "ok"),
    [
        (Difference(1, (1, 2), (9, 2000), 1e-4), True),
        (Difference(2, (0,), (9,), 0), False),
        (Difference(1, (2, 0), (1999, 9), 0), False),
        (Difference(0, (0,), (9,), 1e-3), False),
    ],
)
def test_what_counts_as_the_same(found: Difference, ok: bool) -> None:
    assert found.ok is ok
