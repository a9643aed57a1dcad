"""Bags, mantissas and real inverse transforms against torch's."""

import math

import pytest
import torch

from tests.lowering.onnx.recipes.harness import agrees, lowers

aten = torch.ops.aten
GENERATOR = torch.Generator().manual_seed(0)
Z = torch.randn(4, 5, 6, generator=GENERATOR)


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("include_last", [False, True])
@pytest.mark.parametrize("padding", [None, 2, -1])
def test_bags(mode: int, include_last: bool, padding: int | None) -> None:
    weight, at = torch.randn(10, 4, generator=GENERATOR), torch.tensor([1, 2, 9, 0, 0, 4])
    starts = torch.tensor([0, 2, 2, 6] if include_last else [0, 2, 2, 5])
    agrees(
        aten.embedding_bag.padding_idx, weight, at, starts, False, mode, False, None, include_last, padding
    )


def test_mantissas_and_exponents() -> None:
    ordinary = Z.reshape(-1) * torch.logspace(-38, 38, 120)
    special = torch.tensor([0.0, -0.0, 1.0, 2.0, 0.5, 1e-45, 3e38, math.inf, -math.inf, math.nan])
    agrees(aten.frexp.Tensor, torch.cat([ordinary, special]), rtol=0.0)


def test_powers_and_sigmoids() -> None:
    agrees(aten.logspace.default, -3, 2.5, 7, 2.0, dtype=torch.float32)
    agrees(aten.log_sigmoid_forward.default, 30 * Z)


@pytest.mark.parametrize("norm", [None, "ortho", "forward", "backward"])
def test_real_inverse_transforms(norm: str | None) -> None:
    for name in ("irfft", "hfft"):
        for n in (None, 4, 9, 14):
            agrees(getattr(aten, f"fft_{name}").default, Z, n, 1, norm)
        for s in (None, [3, 9], [8, 4]):
            agrees(getattr(aten, f"fft_{name}2").default, Z, s, [0, 2], norm)
        agrees(getattr(aten, f"fft_{name}n").default, Z, None, None, norm)
        agrees(getattr(aten, f"fft_{name}n").default, Z, [3, -1], [0, 1], norm)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_common_divisors(dtype: torch.dtype) -> None:
    info = torch.iinfo(dtype)
    x = torch.randint(max(info.min // 2, -(2**60)), min(info.max, 2**60), (200,), generator=GENERATOR).to(
        dtype
    )
    y = torch.randint(-40, 40, (200,), generator=GENERATOR).to(dtype)
    agrees(aten.gcd.default, torch.cat([x, y]), torch.cat([y, y.flip(0)]))
    agrees(aten.gcd.default, x[:100], x[100:])
    agrees(aten.lcm.default, y, y.flip(0))
    longest = [1, 1]
    while longest[-1] + longest[-2] <= info.max:
        longest.append(longest[-1] + longest[-2])
    agrees(aten.gcd.default, *torch.tensor(longest[-2:], dtype=dtype))


def test_numbers_in_files() -> None:
    lowers(lambda x: (torch.gcd(x, x + 12), torch.lcm(x, x - 3)), torch.arange(-9, 30))
    lowers(lambda x: (torch.vander(x), torch.vander(x, 3, True)), Z[0, 0])
    lowers(lambda x: x * (torch.bartlett_window(6) + torch.kaiser_window(6)), Z)


def test_files() -> None:
    pool = torch.nn.AdaptiveMaxPool1d(4, return_indices=True)
    lowers(lambda x: (*pool(x), torch.fft.irfft(x, 8), *torch.frexp(x)), Z)


def test_a_bag_in_a_file() -> None:
    bag = torch.nn.EmbeddingBag(10, 4, mode="max").eval()
    lowers(bag, torch.tensor([1, 2, 9, 0]), torch.tensor([0, 2]))
