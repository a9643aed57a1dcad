"""Whether two results are those of one function, rounding aside.

>>> difference(torch.ones(3), torch.ones(3) + 1e-6), difference(torch.ones(3), torch.ones(2))
('', 'torch.float32 (3,) against torch.float32 (2,)')
"""

import math

import torch

__all__ = ["difference"]

_ROUNDING = 1e-3
"""Relative L2 difference above which two runs of one function are not rounding: capture can only differ by
kernel choice (torch's fused encoder path: 3e-6), a burned-in size differs by its whole value."""
_FLIPS = 1e-3
"""Share of an integer result that rounding may flip (a comparison or argmax at a tie)."""
_CHUNK = 1 << 20


def difference(a: object, b: object) -> str:
    """What is different about two leaves of a result; empty if nothing but rounding is."""
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
    return _float_difference(a, b)


def _float_difference(a: torch.Tensor, b: torch.Tensor) -> str:
    """Relative error over the finite values, in pieces: a result may be large."""
    error = scale = 0.0
    x, y = a.detach().reshape(-1), b.detach().reshape(-1)
    for first, second in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True):
        finite = torch.isfinite(first)
        if not torch.allclose(first[~finite], second[~finite], equal_nan=True):
            return "not finite at other places"
        reference = first[finite].double()
        error += float((second[finite].double() - reference).square().sum())
        scale += float(reference.square().sum())
    relative = math.sqrt(error / scale) if scale else math.sqrt(error)
    return f"relative error {relative:.1e}" if relative > max(_ROUNDING, 8 * torch.finfo(a.dtype).eps) else ""
