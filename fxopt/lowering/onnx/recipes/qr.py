"""QR by Householder's reflections, unrolled over a fixed number of columns, in LAPACK's packed form.

>>> a = torch.tensor([[3.0, 1.0], [4.0, 2.0]])
>>> linalg_qr(a)[1][0].tolist() == torch.linalg.qr(a)[1][0].tolist()
True
"""

import torch
from torch import Tensor

from fxopt.lowering.onnx.recipes import in_double, recipe, sized
from fxopt.lowering.onnx.recipes.linalg import LIMIT, row_numbers

__all__: list[str] = []


def _reflections(a: Tensor) -> tuple[Tensor, Tensor]:
    """LAPACK's geqrf: R on and above the diagonal, the reflections' vectors below, and their factors tau."""
    height, width = sized(a, -2, LIMIT), sized(a, -1, LIMIT)
    rows, columns = row_numbers(height), row_numbers(width)
    taus = []
    for k in range(min(height, width)):
        column = torch.where(rows > k, a[..., k], torch.zeros_like(a[..., k]))
        head = a[..., k, k].unsqueeze(-1)
        tail = (column * column).sum(-1, keepdim=True)
        flat = tail == 0
        length = torch.sqrt(head * head + tail)
        beta = torch.where(flat, head, torch.where(head < 0, length, -length))
        safe = torch.where(flat, torch.ones_like(beta), beta)
        tau = torch.where(flat, torch.zeros_like(beta), (safe - head) / safe)
        vector = column / torch.where(flat, torch.ones_like(head), head - beta)
        taus.append(tau)
        whole = torch.where(rows == k, torch.ones_like(vector), vector).unsqueeze(-1)
        reflected = a - tau.unsqueeze(-1) * whole * (whole * a).sum(-2, keepdim=True)
        a = torch.where(columns > k, reflected, a)
        own = torch.where(rows > k, vector, torch.where(rows == k, beta, a[..., k]))
        a = torch.where(columns == k, own.unsqueeze(-1), a)
    return a, torch.cat([a.new_zeros(*a.shape[:-2], 0), *taus], -1)


def _product(vectors: Tensor, taus: Tensor, identity: Tensor) -> Tensor:
    """H_1 H_2 ... H_k times a matrix."""
    rows = row_numbers(sized(vectors, -2))
    result = identity
    for k in reversed(range(sized(taus, -1, LIMIT))):
        below = torch.where(rows > k, vectors[..., k], torch.zeros_like(vectors[..., k]))
        whole = torch.where(rows == k, torch.ones_like(below), below).unsqueeze(-1)
        tau = taus[..., k : k + 1].unsqueeze(-1)
        result = result - tau * whole * (whole * result).sum(-2, keepdim=True)
    return result


def _qr(a: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    height, width = sized(a, -2), sized(a, -1)
    packed, taus = _reflections(a)
    rank = height if mode == "complete" else min(height, width)
    identity = torch.eye(height, rank, dtype=a.dtype).expand(*a.shape[:-2], height, rank)
    return _product(packed, taus, identity), packed[..., :rank, :].triu()


@recipe("aten.linalg_qr.default")
def linalg_qr(a: Tensor, mode: str = "reduced") -> tuple[Tensor, Tensor]:
    wide, dtype = in_double(a)
    q, r = _qr(wide, mode)
    return (torch.zeros(0, dtype=dtype) if mode == "r" else q.to(dtype)), r.to(dtype)


@recipe("aten.qr.default")
def qr(a: Tensor, some: bool = True) -> tuple[Tensor, Tensor]:
    return linalg_qr(a, "reduced" if some else "complete")


@recipe("aten.geqrf.default")
def geqrf(a: Tensor) -> tuple[Tensor, Tensor]:
    wide, dtype = in_double(a)
    packed, taus = _reflections(wide)
    return packed.to(dtype), taus.to(dtype)


@recipe("aten.linalg_householder_product.default", "aten.orgqr.default")
def householder_product(vectors: Tensor, taus: Tensor) -> Tensor:
    wide, dtype = in_double(vectors)
    identity = torch.eye(sized(wide, -2), sized(wide, -1), dtype=torch.float64).expand(wide.shape)
    return _product(wide, taus.double(), identity).to(dtype)


@recipe("aten.ormqr.default")
def ormqr(vectors: Tensor, taus: Tensor, x: Tensor, left: bool = True, transpose: bool = False) -> Tensor:
    """Q x, QT x, x Q or x QT, where Q is the product of the reflections."""
    wide, dtype = in_double(vectors)
    height = sized(wide, -2)
    identity = torch.eye(height, dtype=torch.float64).expand(*wide.shape[:-2], height, height)
    q = _product(wide, taus.double(), identity)
    q = q.mT if transpose else q
    return (q @ x.double() if left else x.double() @ q).to(dtype)
