"""How long the parts of an artifact take, and on what they compute.

>>> NodeTime("conv2d_1", "QLinearConv", 1e-3).kind, NodeTime("", "DequantizeLinear", 1e-5).kind
('integers', 'rounding')
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["ROUNDS", "NodeTime", "medians"]

ROUNDS = 20
"""How often an artifact is run for the times of its parts."""

_INTEGERS = ("QLinear", "QGemm", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulNBits", "quantized.")
_ROUNDING = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "aten.quantize_per_tensor",
    "aten.dequantize",
}
_MOVES = {
    "Cast", "Concat", "Expand", "Flatten", "Gather", "MaxPool", "NhwcMaxPool", "Reshape", "Shape", "Slice", "Split",
    "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


@dataclass(frozen=True)
class NodeTime:
    """A kernel of an artifact: the call of the program that it is named after, and its seconds in a run."""

    name: str
    """ "" for what the runtime added."""
    kernel: str
    seconds: float

    @property
    def kind(self) -> Literal["integers", "rounding", "moves", "floats"]:
        """What it does, by its name."""
        if self.kernel.startswith(_INTEGERS):
            return "integers"
        if self.kernel.rpartition(".")[0] in _ROUNDING or self.kernel in _ROUNDING:
            return "rounding"
        return "moves" if self.kernel in _MOVES else "floats"


def medians(laps: Iterable[tuple[str, str, str, float]]) -> list[NodeTime]:
    """Times by kernel, in the order of the first run.

    Args:
        laps: what tells the kernel from others, its call, its op, seconds; of several runs.
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    for key, name, kernel, seconds in laps:
        found.setdefault((key, name, kernel), []).append(seconds)
    return [NodeTime(name, kernel, statistics.median(s)) for (_, name, kernel), s in found.items()]
