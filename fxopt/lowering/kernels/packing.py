"""Weights in the layout that torch's integer kernels read, and whether this machine's kernels compute right.

x86 kernels without AVX512-VNNI add pairs of products in 16 bits, which 8-bit activations overflow: they saturate,
silently. So each kind of kernel is tried on a product that would show it, once a process.

>>> why_not("linear") in ("", "its kernel saturates")
True
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from functools import cache

import torch

from fxopt.lowering.kernels.values import Packed

__all__ = ["Probe", "pack", "probe", "quietly", "why_not"]

_PROBED = 64
"""Products in one sum of the probe."""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without torch's warning that quantized tensors may leave it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*quantized tensor", UserWarning)
        warnings.filterwarnings("ignore", "(?s).*TypedStorage", UserWarning)
        yield


@contextlib.contextmanager
def _engine(name: str) -> Iterator[None]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def pack(packed: Packed, weights: Mapping[str, torch.Tensor], *, engine: str = "x86") -> torch.ScriptObject:
    """The weight and bias of a product in a kernel's own layout.

    Args:
        packed: what of the weights.
        weights: by name.
        engine: whose kernels. For a product with a matrix it is always "x86", the only one that gives floats.
    """
    integers = weights[packed.weight].detach()
    integers = (integers.t() if packed.transposed else integers).contiguous()
    channels = len(integers)
    scale = weights[packed.scale].detach().double().flatten().expand(channels).contiguous()
    bias = None
    if packed.bias:
        bias = weights[packed.bias].detach()
        bias = bias * weights[packed.bias_scale].detach() if packed.bias_scale else bias
        bias = bias.float()
    with quietly(), _engine("x86" if packed.kind == "linear" else engine), torch.no_grad():
        zeros = torch.zeros(channels, dtype=torch.int64)
        quantized = torch._make_per_channel_quantized_tensor(integers, scale, zeros, 0)
        prepack = getattr(torch.ops.quantized, f"{packed.kind}_prepack")
        geometry = (*map(list, packed.geometry), packed.groups) if packed.geometry else ()
        made: torch.ScriptObject = prepack(quantized, bias, *geometry)
        return made


class Probe:
    """A product whose sums are wrong where a kernel saturates: `result(1, 0)` of ones, each times 127 of them.

    Attributes:
        kind: of the kernel.
        packed: what to pack.
        weights: for it.
        shape: of the input, of ones that are rounded by a scale of 1/255.
        scale: of the result, whose zero point is 0.
        wanted: each of its integers.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        rank = 0 if kind == "linear" else int(kind[4])
        self.weights = {
            "weight": torch.full((16, _PROBED, *[1] * rank), 127, dtype=torch.int8),
            "scale": torch.tensor(1 / 127),
        }
        ones, zeros = (1,) * rank, (0,) * rank
        geometry = (ones, zeros, ones) if rank else ()
        self.packed = Packed(kind, "weight", "scale", geometry=geometry)
        self.shape = [1, _PROBED, *[1] * rank]
        self.scale, self.wanted = _PROBED / 200, 200


@cache
def probe(kind: str) -> Probe:
    """The probe of a kind of kernel."""
    return Probe(kind)


@cache
def why_not(kind: str, engine: str = "x86") -> str:
    """Why a kind of kernel is of no use on this machine; "" if it is.

    Args:
        kind: of `Packed`.
        engine: whose kernels.
    """
    if not {"x86", engine} <= set(torch.backends.quantized.supported_engines):
        return "this build of torch has no integer kernels for x86"
    tried = probe(kind)
    with quietly():
        ones = torch.quantize_per_tensor(torch.ones(tried.shape), 1 / 255, 0, torch.quint8)
        kernel = getattr(torch.ops.quantized, kind)
        result = kernel(ones, pack(tried.packed, tried.weights, engine=engine), tried.scale, 0)
    right = bool((result.int_repr() == tried.wanted).all())
    return "" if right else "its kernel saturates on this machine"
