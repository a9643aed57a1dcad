"""Factorisations and solvers against LAPACK's, alone and in batches, and as files."""

import pytest
import torch

from tests.lowering.onnx.recipes.harness import agrees, lowers

aten = torch.ops.aten
GENERATOR = torch.Generator().manual_seed(0)


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


@pytest.fixture(params=[(5, 5), (2, 3, 4, 4), (0, 0), (1, 1)], ids=str)
def a(request: pytest.FixtureRequest) -> torch.Tensor:
    return _draw(*request.param)


@pytest.fixture
def b(a: torch.Tensor) -> torch.Tensor:
    return _draw(*a.shape[:-1], 3)


def _positive(a: torch.Tensor) -> torch.Tensor:
    return a @ a.mT + torch.eye(a.shape[-1], dtype=a.dtype)


def test_cholesky(a: torch.Tensor, b: torch.Tensor) -> None:
    matrix = _positive(a)
    factor = torch.linalg.cholesky(matrix)
    for upper in (False, True):
        agrees(aten.linalg_cholesky.default, matrix, upper=upper)
        agrees(aten.cholesky_solve.default, b, factor.mT if upper else factor, upper)
        agrees(aten.cholesky_inverse.default, factor.mT if upper else factor, upper)


@pytest.mark.parametrize("upper", [False, True])
def test_triangular_systems(a: torch.Tensor, b: torch.Tensor, upper: bool) -> None:
    matrix = a + 4 * torch.eye(a.shape[-1], dtype=a.dtype)
    agrees(aten.linalg_solve_triangular.default, matrix, b, upper=upper)
    agrees(aten.linalg_solve_triangular.default, matrix, b.mT, upper=upper, left=False, unitriangular=True)


def test_lu(a: torch.Tensor, b: torch.Tensor) -> None:
    for matrix in (a, a[..., :3], a[..., :3, :]):
        agrees(aten.linalg_lu.default, matrix)
        agrees(aten.linalg_lu_factor_ex.default, matrix)
    factors = torch.linalg.lu_factor(a)
    agrees(aten.lu_unpack.default, *factors)
    agrees(aten.linalg_lu_solve.default, *factors, b)
    agrees(aten.linalg_lu_solve.default, *factors, b.mT, left=False, adjoint=True)


def test_a_singular_matrix_is_said_by_lapacks_info() -> None:
    singular = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    agrees(aten.linalg_lu_factor_ex.default, singular)
    agrees(aten.linalg_det.default, singular)
    agrees(aten.linalg_slogdet.default, singular)


def test_solve_invert_and_determinants(a: torch.Tensor, b: torch.Tensor) -> None:
    agrees(aten.linalg_solve.default, a, b)
    agrees(aten.linalg_solve.default, a, b.mT, left=False)
    agrees(aten.linalg_inv_ex.default, a)
    agrees(aten.linalg_det.default, a)
    agrees(aten.linalg_slogdet.default, a)


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_matrix_exp(size: float) -> None:
    agrees(aten.linalg_matrix_exp.default, size * _draw(2, 4, 4) - size * torch.eye(4), rtol=1e-9)


@pytest.mark.parametrize("function", [torch.linalg.inv, torch.linalg.det, torch.linalg.lu, torch.linalg.matrix_exp,
                                      lambda x: torch.linalg.solve(x, x[..., :2]),
                                      lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(4))])  # fmt: skip
def test_files(function: object) -> None:
    lowers(function, _draw(3, 4, 4).float(), fixed=False)
