"""Whether two results are those of one function, rounding aside.

>>> difference(torch.ones(3), torch.ones(3) + 1e-6), difference(torch.ones(3), torch.ones(2))
('', 'torch.float32 (3,) against torch.float32 (2,)')
"""

import math

import torch

__all__ = ["ROUNDING", "SURELY_ROUNDING", "difference", "rounding_of"]

ROUNDING = 1e-3
"""Relative L2 difference above which two runs of one function are not rounding: capture can only differ by
kernel choice (torch's fused encoder path: 3e-6), a burned-in size differs by its whole value."""
SURELY_ROUNDING = 1e-5
"""Relative L2 difference up to which it is rounding in any case; between this and `ROUNDING` it is one or the other."""
_FLIPS = 1e-3
"""Share of an integer result that rounding may flip (a comparison or argmax at a tie)."""
_CHUNK = 1 << 20


def difference(a: object, b: object, *, rounding: float = ROUNDING) -> str:
    """What is different about two leaves of a result; empty if nothing but rounding is.

    Args:
        a: what it should be.
        b: what it is.
        rounding: relative L2 difference that rounding may make, 8 units of the dtype in any case.
    """
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        same = type(a) is type(b) and (a == b or (a != a and b != b))
        return "" if same else f"{a!r} against {b!r}"
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype} {tuple(a.shape)} against {b.dtype} {tuple(b.shape)}"
    if a.is_complex():
        a, b = torch.view_as_real(a.detach().resolve_conj()), torch.view_as_real(b.detach().resolve_conj())
    if torch.equal(a, b):
        return ""
    if not a.is_floating_point():
        other = int((a != b).sum())
        return f"{other} of {a.numel()} values" if other > _FLIPS * a.numel() else ""
    relative = _relative(a, b)
    if math.isinf(relative):
        return "not finite at other places"
    return f"relative error {relative:.1e}" if relative > max(rounding, 8 * torch.finfo(a.dtype).eps) else ""


def rounding_of(a: object, b: object) -> float:
    """The relative L2 difference of two results of one function; 0 of what is not made of real numbers."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.is_floating_point():
        return _relative(a, b)
    return 0.0


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Over the finite values, in pieces: a result may be large; infinity where others are not finite."""
    error = scale = 0.0
    x, y = a.detach().reshape(-1), b.detach().reshape(-1)
    for first, second in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True):
        finite = torch.isfinite(first)
        if not torch.allclose(first[~finite], second[~finite], equal_nan=True):
            return math.inf
        reference = first[finite].double()
        error += float((second[finite].double() - reference).square().sum())
        scale += float(reference.square().sum())
    return math.sqrt(error / scale) if scale else math.sqrt(error)
