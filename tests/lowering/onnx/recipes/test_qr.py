"""QR and its packed form against LAPACK's, and as a file."""

import pytest
import torch

from tests.lowering.onnx.recipes.harness import agrees, lowers

aten = torch.ops.aten
GENERATOR = torch.Generator().manual_seed(0)


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("mode", ["reduced", "complete", "r"])
@pytest.mark.parametrize("shape", [(5, 5), (2, 3, 4, 4), (0, 0), (1, 1)], ids=str)
def test_qr(shape: tuple[int, ...], mode: str) -> None:
    a = _draw(*shape)
    for matrix in (a, a[..., :3], a[..., :3, :]):
        agrees(aten.linalg_qr.default, matrix, mode)


def test_reflections() -> None:
    tall = _draw(2, 5, 3)
    packed, taus = torch.geqrf(tall)
    agrees(aten.geqrf.default, tall)
    agrees(aten.linalg_householder_product.default, packed, taus)
    for transpose in (False, True):
        agrees(aten.ormqr.default, packed, taus, _draw(2, 5, 4), True, transpose)
        agrees(aten.ormqr.default, packed, taus, _draw(2, 4, 5), False, transpose)


def test_a_file() -> None:
    lowers(torch.linalg.qr, _draw(3, 4, 4).float(), fixed=False)
