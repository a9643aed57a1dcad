"""Packed weights, and kernels that are found out to saturate."""

import os
import subprocess
import sys

import pytest
import torch

from fxopt.lowering.kernels.packing import Probe, pack, probe, quietly, why_not
from fxopt.lowering.kernels.values import Packed

KINDS = ("linear", "conv1d", "conv2d", "conv3d")
needs_kernels = pytest.mark.skipif(any(map(why_not, KINDS)), reason="needs integer kernels")


@needs_kernels
@pytest.mark.parametrize("engine", ["x86", "onednn"])
@pytest.mark.parametrize("kind", KINDS)
def test_this_machine_s_kernels_are_right(kind: str, engine: str) -> None:
    assert why_not(kind, engine) == ""


def test_an_engine_that_torch_was_built_without() -> None:
    assert why_not("linear", "none") == "this build of torch has no integer kernels for x86"


@needs_kernels
def test_the_engine_is_left_as_it_was() -> None:
    before = torch.backends.quantized.engine
    pack(probe("conv2d").packed, probe("conv2d").weights, engine="onednn")
    assert torch.backends.quantized.engine == before


@needs_kernels
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("channels", [1, 6])
def test_integers_scales_and_bias_are_the_program_s(transposed: bool, channels: int) -> None:
    integers = torch.arange(-9, 9, dtype=torch.int8).reshape(6, 3)
    scale = torch.rand(channels, 1) + 0.5
    weights = {
        "w": integers.t().contiguous() if transposed else integers,
        "s": scale.t() if transposed else scale,
        "b": torch.arange(6, dtype=torch.int32),
        "bs": torch.full((6,), 0.25),
    }
    packed = pack(Packed("linear", "w", "s", "b", "bs", transposed), weights)
    with quietly():
        weight, bias = torch.ops.quantized.linear_unpack(packed)
        assert torch.equal(weight.int_repr(), integers)
        assert torch.allclose(weight.q_per_channel_scales().float(), scale.flatten().expand(6))
        assert torch.equal(bias, torch.arange(6) * 0.25)
        floats = pack(Packed("linear", "w", "s", "bs", "", transposed), weights)
        assert torch.equal(torch.ops.quantized.linear_unpack(floats)[1], weights["bs"])


def test_the_probe_s_sums_overflow_16_bits_in_pairs_and_fit_32() -> None:
    """So that a kernel which saturates gives other integers."""
    for kind in KINDS:
        tried = Probe(kind)
        per_pair = 2 * 255 * 127
        assert per_pair > 2**15 - 1
        right = tried.shape[1] / tried.scale
        assert round(right) == tried.wanted < 255
        saturated = tried.shape[1] // 2 * (2**15 - 1) / (255 * 127) / tried.scale
        assert abs(saturated - tried.wanted) > 50


@needs_kernels
def test_kernels_without_vnni_are_found_out() -> None:
    code = (
        "from fxopt.lowering.kernels.packing import why_not\n"
        "print([why_not(k, e) for k in ('conv1d', 'conv2d', 'conv3d') for e in ('x86', 'onednn')])"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == str(["its kernel saturates on this machine"] * 6)
