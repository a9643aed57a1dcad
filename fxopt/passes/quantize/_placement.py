"""Where a runtime wants values rounded: data, one `Placement` a runtime.

>>> placement_of("onnx:onnxruntime").weights.signed
True
"""

from dataclasses import dataclass, replace

from fxopt.analysis.ranges import Grid
from fxopt.errors import PipelineError, nearest

__all__ = ["Placement", "placement_names", "placement_of", "register_placement"]


_BYTES, _SIGNED = Grid(8, signed=False), Grid(8, signed=True, narrow=True)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which calls a runtime has integer kernels for, and the numbers that they take.

    Ops are named as in `aten.<name>`; contractions of weights are taken from the op table's roles. A value is rounded
    where an integer kernel reads it. Between an integer kernel and an activation of `absorbed` that alone reads
    its result and clips at zero nothing is rounded: clipping is part of the rounding.
    """

    name: str
    activations: Grid = _BYTES
    symmetric: bool = False
    """Activations have a zero point of 0; by default one that covers their range."""
    weights: Grid = _SIGNED
    per_channel: bool = True
    """A scale for each output channel of a weight."""
    bias: bool = True
    """Biases are 32-bit integers, in units of input scale times weight scale."""
    rounds_result: frozenset[str] = frozenset()
    """Products whose integer kernel gives integers only, so that their result is rounded whoever reads it."""
    left_out: frozenset[str] = frozenset()
    """Contractions without an integer kernel."""
    requantising: frozenset[str] = frozenset()
    """Ops whose integer kernels take and give values of different scales."""
    skips: frozenset[str] = frozenset()
    """Sums that a product's kernel adds to its own result, which then is not rounded before: the last of those summed."""
    covering: frozenset[str] = frozenset()
    """Ops of one value whose integer kernels do not pay: `coverage=full` runs them too."""
    same_scale: frozenset[str] = frozenset()
    """Ops that move values or choose among them: their result has their input's scale."""
    absorbed: frozenset[str] = frozenset({"relu", "relu6", "hardtanh", "clamp", "clamp_min"})
    product_of_activations: bool = False
    """Products of two activations are integer ones too."""
    dynamic: frozenset[str] = frozenset({"linear", "matmul", "mm", "addmm"})
    """Products with a matrix whose kernel rounds what it reads by the range that it has at each call."""
    rounds_blocks: bool = False
    """Products with a matrix of 4 bits round what they read to 8 bits, by the largest magnitude of each block."""
    tables: frozenset[str] = frozenset({"embedding"})
    """Ops that look rows of a weight up, which is stored as integers by a scale a row."""


_MOVES = frozenset(
    {
        "reshape", "flatten", "permute", "transpose", "unsqueeze", "squeeze", "slice", "select", "expand",
        "split", "split_with_sizes", "chunk",
        "max_pool1d", "max_pool2d", "max_pool3d",
        "pixel_shuffle", "channel_shuffle", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    }
)  # fmt: skip
_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d", "convolution"})
_TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})

_PLACEMENTS: dict[str, Placement] = {}


def register_placement(placement: Placement) -> Placement:
    """Adds a placement, or replaces the one of its name."""
    _PLACEMENTS[placement.name] = placement
    return placement


def placement_names() -> list[str]:
    """The names, sorted."""
    return sorted(_PLACEMENTS)


def placement_of(name: str) -> Placement:
    """The placement of a name, the generic one for an empty name.

    Raises:
        PipelineError: there is none; names the nearest.
    """
    found = _PLACEMENTS.get(name or _GENERIC.name)
    if found is None:
        close = nearest(name, _PLACEMENTS)
        hint = f"; did you mean {close!r}?" if close else ""
        raise PipelineError(f"no placement {name!r}{hint} (placements: {', '.join(placement_names())})")
    return found


# onnxruntime 1.32, CPU: which Q/DQ patterns its graph transformers fuse; a test reads the optimised graphs. u8
# activations with s8 weights (s8 activations leave half of the convolutions in float on x86), int32 biases, sums
# and pools between rounded values. GELU, norms and softmax have no kernel that pays (that of softmax gives other
# integers than the simulation, too); nor has a transposed convolution any.
_ONNXRUNTIME = register_placement(
    Placement(
        name="onnx:onnxruntime",
        rounds_result=_CONVOLUTIONS,
        left_out=_TRANSPOSED,
        requantising=frozenset({"add", "mul", "cat", "avg_pool2d", "adaptive_avg_pool2d"}),
        covering=frozenset({"sigmoid", "leaky_relu"}),
        same_scale=_MOVES,
        rounds_blocks=True,
    )
)
# torch.ops.quantized on x86: no kernel takes the average of integers to integers of another scale, nor the nearest
# of one dimension. Which machines have kernels that do not saturate, the lowering finds out.
for _name in ("eager", "torchscript"):
    register_placement(
        replace(
            _ONNXRUNTIME,
            name=_name,
            requantising=frozenset({"add", "mul", "cat"}),
            covering=frozenset(),
            same_scale=_MOVES - {"upsample_nearest1d"},
            rounds_blocks=False,
        )
    )
_S8 = Grid(8, signed=True)
# onnxruntime on ARM: s8 kernels for everything that it has u8 kernels for. With a zero point of 0 the integers do not
# begin where a relu clips, so that none is part of a rounding: it is a kernel of its own, between two roundings.
register_placement(
    replace(
        _ONNXRUNTIME,
        name="onnx:mobile",
        activations=_S8,
        symmetric=True,
        requantising=_ONNXRUNTIME.requantising | {"relu", "relu6", "hardtanh"},
        absorbed=frozenset(),
        dynamic=frozenset(),
        rounds_blocks=False,
    )
)
# TensorRT, by its documentation (docs.nvidia.com, "Working with Quantized Types", placement of Q/DQ): inputs of
# products, and of one side of the sums that they are part of; no results, no biases; what moves values is left to it.
register_placement(
    Placement(
        name="onnx:tensorrt",
        activations=_S8,
        symmetric=True,
        bias=False,
        requantising=frozenset({"add", "avg_pool2d", "adaptive_avg_pool2d"}),
        skips=frozenset({"add"}),
        dynamic=frozenset(),
    )
)
_GENERIC = register_placement(replace(_ONNXRUNTIME, name="generic", rounds_blocks=False))
