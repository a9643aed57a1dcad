"""Runs onnxsim in a process of its own: it prints, sets environment variables, and may corrupt its heap.

The worker takes the bytes of a model and returns those of the simplified one.
"""

import sys
from collections.abc import Callable, Sequence

from fxopt.lowering.wire import Packed, Value

__all__ = ["open_run", "prepare"]

_SKIPPED = ("fuse_matmul_add_bias_into_gemm_batched", "fuse_rope")
"""The first puts reshapes around every linear layer, which onnxruntime fuses by itself and better; the second
makes RotaryEmbedding nodes that hold for one batch size only."""
_LARGEST_FOLDED = "1MB"
"""Larger results stay computed: a folded transpose of a shared weight would be a second copy of it."""


def prepare() -> None:
    """Imports onnxsim, without torch, which it needs for nothing here and would import for seconds."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    import onnxsim  # noqa: F401


def open_run(path: str) -> Callable[[Sequence[Packed]], list[Value]]:
    """The function that simplifies; it opens no file.

    Raises:
        RuntimeError: (when run) ONNX's checker refuses what onnxsim made.
    """
    import onnx
    import onnxsim

    def run(values: Sequence[Packed]) -> list[Value]:
        model = onnx.load_from_string(bytes(values[0].data))
        simplified, right = onnxsim.simplify(
            model, certify=False, skipped_optimizers=list(_SKIPPED), tensor_size_threshold=_LARGEST_FOLDED
        )
        if not right:
            raise RuntimeError("ONNX's checker refuses its result")
        content = simplified.SerializeToString(deterministic=True)
        return [Packed("uint8", (len(content),), content)]

    return run
