"""Matrix factorisations and what they solve, unrolled over a fixed number of rows and computed in float64.

LAPACK's conventions hold: partial pivoting takes the first of equals, the diagonal of R has the sign opposite to
the column's, pivots count from 1. What torch raises (a singular matrix) is infinite or NaN in the file: ONNX has
no errors.

>>> a = torch.tensor([[4.0, 2.0], [2.0, 3.0]])
>>> torch.equal(cholesky(a), torch.linalg.cholesky(a))
True
"""

import math

import torch
from torch import Tensor

from fxopt.lowering.onnx.recipes import RecipeError, in_double, recipe, sized

__all__ = ["LIMIT", "row_numbers"]

LIMIT = 64
"""Rows up to which a factorisation is unrolled: ten ONNX nodes a row."""


def row_numbers(count: int) -> Tensor:
    """0, 1, ..., i64[count]."""
    return torch.arange(count)


def _triangle(a: Tensor, *, upper: bool) -> Tensor:
    return a.triu() if upper else a.tril()


# Cholesky


@recipe("aten.cholesky.default", "aten.linalg_cholesky.default")
def cholesky(a: Tensor, upper: bool = False) -> Tensor:
    """The lower (or upper) factor; only that triangle of the matrix is read."""
    wide, dtype = in_double(a.mT if upper else a)
    factor = _lower_factor(wide).to(dtype)
    return factor.mT if upper else factor


def _lower_factor(a: Tensor) -> Tensor:
    """Column after column: what is left of it, over the root of its head."""
    size = sized(a, -1, LIMIT)
    factor = torch.zeros_like(a)
    for k in range(size):
        column = a[..., k] - (factor * factor[..., k : k + 1, :]).sum(-1)
        column = column / column[..., k : k + 1].sqrt()
        column = torch.where(row_numbers(size) >= k, column, torch.zeros_like(column))
        factor = torch.where(row_numbers(size) == k, column.unsqueeze(-1), factor)
    return factor


@recipe("aten.cholesky_solve.default")
def cholesky_solve(b: Tensor, factor: Tensor, upper: bool = False) -> Tensor:
    wide, dtype = in_double(factor)
    lower = (wide.mT if upper else wide).tril()
    half = _substitute(lower, b.double(), upper=False)
    return _substitute(lower.mT, half, upper=True).to(dtype)


@recipe("aten.cholesky_inverse.default")
def cholesky_inverse(factor: Tensor, upper: bool = False) -> Tensor:
    identity = torch.eye(sized(factor, -1), dtype=factor.dtype)
    return cholesky_solve(identity.expand(factor.shape), factor, upper)


# Triangular systems


def _substitute(a: Tensor, b: Tensor, *, upper: bool, unit: bool = False) -> Tensor:
    """Solves a x = b for a triangular matrix, row after row."""
    size = sized(a, -1, LIMIT)
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    b = b.expand(*batch, *b.shape[-2:])
    x = torch.zeros_like(b)
    for k in reversed(range(size)) if upper else range(size):
        row = b[..., k : k + 1, :] - a[..., k : k + 1, :] @ x
        row = row if unit else row / a[..., k : k + 1, k : k + 1]
        x = torch.where((row_numbers(size) == k).unsqueeze(-1), row, x)
    return x


@recipe("aten.linalg_solve_triangular.default")
def solve_triangular(
    a: Tensor, b: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    wide, dtype = in_double(a)
    triangle = _triangle(wide, upper=upper)
    if left:
        return _substitute(triangle, b.double(), upper=upper, unit=unitriangular).to(dtype)
    return _substitute(triangle.mT, b.double().mT, upper=not upper, unit=unitriangular).mT.to(dtype)


@recipe("aten.triangular_solve.default")
def triangular_solve(
    b: Tensor, a: Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> tuple[Tensor, Tensor]:
    wide, dtype = in_double(_triangle(a, upper=upper))
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    matrix = wide.mT if transpose else wide
    x = _substitute(matrix, b.double(), upper=upper != transpose, unit=unitriangular)
    return x.to(dtype), a.expand(*batch, *a.shape[-2:]).clone()


# LU


def _factorised(a: Tensor) -> tuple[Tensor, Tensor]:
    """L below and U on and above the diagonal, f64[*, m, n], and the pivots from 0, i64[*, min(m, n)]."""
    height, width = sized(a, -2, LIMIT), sized(a, -1, LIMIT)
    rows, columns = row_numbers(height), row_numbers(width)
    pivots = []
    for k in range(min(height, width)):
        size = torch.where(rows >= k, a[..., k].abs(), torch.full_like(a[..., k], -1.0))
        pivot = size.argmax(-1, keepdim=True)
        pivots.append(pivot)
        a = _swapped(a, k, pivot)
        head = a[..., k : k + 1, k : k + 1]
        below = (rows > k).unsqueeze(-1)
        share = a[..., k : k + 1] / torch.where(head == 0, torch.ones_like(head), head)
        share = torch.where(below, share, torch.zeros_like(share))
        rest = a - share * torch.where(
            columns > k, a[..., k : k + 1, :], torch.zeros_like(a[..., k : k + 1, :])
        )
        a = torch.where(below & (columns == k), share, rest)
    return a, torch.cat([a.new_zeros(*a.shape[:-2], 0, dtype=torch.int64), *pivots], -1)


def _swapped(a: Tensor, k: int, pivot: Tensor) -> Tensor:
    """Rows `k` and `pivot`, i64[*, 1], exchanged."""
    rows = row_numbers(sized(a, -2))
    order = torch.where(rows == k, pivot, torch.where(rows == pivot, torch.full_like(pivot, k), rows))
    return torch.gather(a, -2, order.unsqueeze(-1).expand(a.shape))


def _permutation(pivots: Tensor, size: int) -> Tensor:
    """The matrix P of a = P L U, f64[*, size, size]."""
    matrix = torch.eye(size, dtype=torch.float64).expand(*pivots.shape[:-1], size, size)
    for k in range(sized(pivots, -1)):
        matrix = _swapped(matrix, k, pivots[..., k : k + 1])
    return matrix.mT


def _parts(lu: Tensor) -> tuple[Tensor, Tensor]:
    """L with its ones, and U."""
    height, width = sized(lu, -2), sized(lu, -1)
    rank = min(height, width)
    lower = lu[..., :rank].tril(-1) + torch.eye(height, rank, dtype=lu.dtype)
    return lower, lu[..., :rank, :].triu()


def _only_pivoted(pivot: bool) -> None:
    if not pivot:
        raise RecipeError("without pivoting")


@recipe("aten.linalg_lu_factor.default")
def lu_factor(a: Tensor, *, pivot: bool = True) -> tuple[Tensor, Tensor]:
    _only_pivoted(pivot)
    wide, dtype = in_double(a)
    lu, pivots = _factorised(wide)
    return lu.to(dtype), (pivots + 1).to(torch.int32)


@recipe("aten.linalg_lu_factor_ex.default")
def lu_factor_ex(a: Tensor, *, pivot: bool = True, check_errors: bool = False) -> tuple[Tensor, ...]:
    _only_pivoted(pivot)
    wide, dtype = in_double(a)
    lu, pivots = _factorised(wide)
    return lu.to(dtype), (pivots + 1).to(torch.int32), _first_zero(lu)


@recipe("aten._lu_with_info.default")
def lu_with_info(a: Tensor, pivot: bool = True, check_errors: bool = True) -> tuple[Tensor, ...]:
    return lu_factor_ex(a, pivot=pivot)


def _first_zero(lu: Tensor) -> Tensor:
    """LAPACK's info: the first pivot that is 0, counted from 1; 0 if there is none."""
    if not min(sized(lu, -1), sized(lu, -2)):
        return torch.zeros(lu.shape[:-2], dtype=torch.int32)
    zero = (torch.diagonal(lu, dim1=-2, dim2=-1) == 0).to(torch.int32)
    return (zero.amax(-1) * (zero.argmax(-1) + 1)).to(torch.int32)


@recipe("aten.linalg_lu.default")
def lu(a: Tensor, *, pivot: bool = True) -> tuple[Tensor, ...]:
    _only_pivoted(pivot)
    wide, dtype = in_double(a)
    packed, pivots = _factorised(wide)
    permutation = _permutation(pivots, sized(a, -2))
    return tuple(t.to(dtype) for t in (permutation, *_parts(packed)))


@recipe("aten.lu_unpack.default")
def lu_unpack(
    packed: Tensor, pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True
) -> tuple[Tensor, ...]:
    if not (unpack_data and unpack_pivots):
        raise RecipeError("parts left out")
    permutation = _permutation(pivots.long() - 1, sized(packed, -2)).to(packed.dtype)
    return permutation, *_parts(packed)


def _solved(lu: Tensor, pivots: Tensor, b: Tensor, *, adjoint: bool = False) -> Tensor:
    """Solves a x = b, or aT x = b, by the factors of a."""
    lower, upper = _parts(lu)
    permutation = _permutation(pivots, sized(lu, -1))
    if adjoint:
        half = _substitute(upper.mT, b, upper=False)
        return permutation @ _substitute(lower.mT, half, upper=True, unit=True)
    half = _substitute(lower, permutation.mT @ b, upper=False, unit=True)
    return _substitute(upper, half, upper=True)


@recipe("aten.lu_solve.default")
def lu_solve(b: Tensor, lu: Tensor, pivots: Tensor) -> Tensor:
    return linalg_lu_solve(lu, pivots, b)


@recipe("aten.linalg_lu_solve.default")
def linalg_lu_solve(
    lu: Tensor, pivots: Tensor, b: Tensor, *, left: bool = True, adjoint: bool = False
) -> Tensor:
    wide, dtype = in_double(lu)
    right = b.double() if left else b.double().mT
    x = _solved(wide, pivots.long() - 1, right, adjoint=adjoint if left else not adjoint)
    return (x if left else x.mT).to(dtype)


def _solve(a: Tensor, b: Tensor, left: bool) -> Tensor:
    wide, dtype = in_double(a)
    vector = b.dim() == 1 or (b.dim() == a.dim() - 1 and tuple(b.shape) == tuple(a.shape[:-1]))
    right = b.double().unsqueeze(-1) if vector else b.double()
    factors = _factorised(wide if left else wide.mT)
    x = _solved(*factors, right if left or vector else right.mT)
    x = x if left or vector else x.mT
    return (x.squeeze(-1) if vector else x).to(dtype)


def _info(a: Tensor) -> Tensor:
    return _first_zero(_factorised(in_double(a)[0])[0])


@recipe("aten.linalg_solve.default")
def solve(a: Tensor, b: Tensor, *, left: bool = True) -> Tensor:
    return _solve(a, b, left)


@recipe("aten.linalg_solve_ex.default")
def solve_ex(a: Tensor, b: Tensor, *, left: bool = True, check_errors: bool = False) -> tuple[Tensor, Tensor]:
    return _solve(a, b, left), _info(a)


@recipe("aten._linalg_solve_ex.default")
def solve_ex_parts(
    a: Tensor, b: Tensor, *, left: bool = True, check_errors: bool = False
) -> tuple[Tensor | None, ...]:
    return _solve(a, b, left), None, None, _info(a)


def _inverse(a: Tensor) -> Tensor:
    return _solve(a, torch.eye(sized(a, -1), dtype=a.dtype).expand(a.shape), True)


@recipe("aten.linalg_inv.default", "aten.inverse.default")
def inverse(a: Tensor) -> Tensor:
    return _inverse(a)


@recipe("aten.linalg_inv_ex.default")
def inverse_ex(a: Tensor, *, check_errors: bool = False) -> tuple[Tensor, Tensor]:
    return _inverse(a), _info(a)


def _determinant(a: Tensor) -> tuple[Tensor, Tensor]:
    """The product of the signs of rows' exchanges, and the diagonal of U."""
    lu, pivots = _factorised(a)
    moved = (pivots != row_numbers(sized(pivots, -1))).to(a.dtype)
    return (1 - 2 * moved).prod(-1), torch.diagonal(lu, dim1=-2, dim2=-1)


@recipe("aten.linalg_det.default", "aten.det.default")
def det(a: Tensor) -> Tensor:
    wide, dtype = in_double(a)
    sign, diagonal = _determinant(wide)
    return (sign * diagonal.prod(-1)).to(dtype)


@recipe("aten.linalg_slogdet.default", "aten.slogdet.default")
def slogdet(a: Tensor) -> tuple[Tensor, Tensor]:
    wide, dtype = in_double(a)
    sign, diagonal = _determinant(wide)
    return (sign * diagonal.sign().prod(-1)).to(dtype), diagonal.abs().log().sum(-1).to(dtype)


@recipe("aten.logdet.default")
def logdet(a: Tensor) -> Tensor:
    sign, size = slogdet(a)
    return torch.where(sign < 0, torch.full_like(size, math.nan), size)


# Functions of matrices

_TAYLOR, _SQUARINGS = 16, 20


@recipe("aten.matrix_exp.default", "aten.linalg_matrix_exp.default")
def matrix_exp(a: Tensor) -> Tensor:
    """Taylor's series of a / 2^s, squared s times; s by the norm, up to 20."""
    wide, dtype = in_double(a)
    norm = wide.abs().sum(-2).amax(-1).unsqueeze(-1).unsqueeze(-1)
    squarings = torch.ceil(torch.log2(norm.clamp(min=1.0))) + 1
    scaled = wide / torch.exp2(squarings)
    identity = torch.eye(sized(a, -1), dtype=torch.float64).expand(a.shape)
    total = identity
    for k in range(_TAYLOR, 0, -1):
        total = identity + scaled @ total / k
    for step in range(_SQUARINGS):
        total = torch.where(squarings > step, total @ total, total)
    return total.to(dtype)
