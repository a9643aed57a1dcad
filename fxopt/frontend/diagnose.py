"""What torch raises while it traces, as one line: the user's own line, what is wrong, what to change."""

import re
import traceback
from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from fxopt.errors import TraceError
from fxopt.frontend.frames import innermost, place_of, traceback_frames

__all__ = ["NUMBER_OUT_OF_TENSOR", "dtype_advice", "first_line", "trace_error"]

NUMBER_OUT_OF_TENSOR = (
    "a branch, Python number or size depends on the values of a tensor "
    "(if, while, int(), .item(), x[mask]): "
    "keep it a tensor (torch.where, a mask), or make it a number before tracing"
)
_NUMPY = "numpy in forward cannot be traced: use torch functions"
_PACKING = ("pack_padded_sequence", "pad_packed_sequence", "pack_sequence", "unpack_sequence")
_PACKED = (
    "the lengths of a packed sequence are values of a tensor, sizes of what follows: "
    "run the layer on the padded batch and mask its result by the lengths"
)
_LEAK_TEXT = "found a fake tensor in the exported program constant's list"
_LEAK = "a tensor is read in a way that torch can't trace (x.data): use x itself, or x.detach()"
_SPEAKS_OF_DTYPES = re.compile(r"type|double|float|half", re.IGNORECASE)
_NUMPY_TEXTS = (".numpy() is not supported", "expected np.ndarray", "Numpy is not available")


def first_line(error: BaseException, limit: int = 300) -> str:
    """The type and first line of an exception's text, with torch's stand-in class under its everyday name."""
    lines = str(error).strip().splitlines()
    if lines and "Constraints violated" in lines[0]:
        lines = [line.strip(" -") for line in lines if line.startswith("  - ")] or lines
    text = (lines[0] if lines else "").replace("FakeTensor", "Tensor")
    text = text if len(text) <= limit else f"{text[:limit]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _chain(error: BaseException, outside: BaseException | None) -> Iterator[BaseException]:
    """The exception and its causes, outermost first; not what the caller was handling when all this began."""
    seen: set[int] = {id(outside)}
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _is_packed(error: BaseException) -> bool:
    """Whether it comes from packing, or from a recurrent layer that was given packed lengths in place of a size."""
    frames = traceback.extract_tb(error.__traceback__)
    given = any(f.filename == nn.modules.rnn.__file__ for f in frames) and "but got FakeTensor" in str(error)
    return given or any(f.name in _PACKING for f in frames)


def _advice(chain: list[BaseException]) -> str:
    for error in chain:
        if _is_packed(error):
            return _PACKED
        if isinstance(error, UnsupportedOperatorException):
            return (
                f"the op {error.func} has no fake implementation: give it one (torch.library.register_fake)"
            )
        if isinstance(
            error, (GuardOnDataDependentSymNode, DataDependentOutputException, DynamicOutputShapeException)
        ):
            return NUMBER_OUT_OF_TENSOR
        if any(text in str(error) for text in _NUMPY_TEXTS):
            return _NUMPY
        if _LEAK_TEXT in str(error):
            return _LEAK
        if "in output, which is not a known type" in str(error):
            kind = str(error).split("Found ", 1)[-1].split(" in output", 1)[0]
            name = kind.removeprefix("<class '").removesuffix("'>").rpartition(".")[2]
            return (
                f"it returns {'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}, which torch can't look into: "
                "return tensors in tuples, lists or dicts, or register the class "
                "(torch.utils._pytree.register_pytree_node, torch.export.register_dataclass)"
                + ", or call the model with use_cache=False"
                * ("Cache" in name)
            )
    return ""


def trace_error(error: Exception, outside: BaseException | None = None) -> TraceError:
    """The one line for an exception out of torch.export: where in the user's code, what, what to do.

    Args:
        error: what was raised.
        outside: the exception that the caller was handling then, if any.
    """
    chain = list(_chain(error, outside))
    for cause in reversed(chain):
        place = place_of(traceback_frames(cause))
        if place:
            return TraceError(f"the model can't be traced at {place}: {_advice(chain) or first_line(cause)}")
    layer = innermost(traceback_frames(error))
    place = f" at {layer}" if layer is not None else ""
    return TraceError(f"the model can't be traced{place}: {_advice(chain) or first_line(error)}")


def dtype_advice(error: Exception, model: nn.Module, inputs: Mapping[str, object]) -> str:
    """What to do about an example of another float dtype than the weights, if that is what failed; else empty.

    >>> dtype_advice(RuntimeError("double != float"), nn.Linear(2, 2), {"x": torch.ones(2).double()})
    "; 'x' is float64, the weights are float32: pass x.to(torch.float32)"
    """
    weights = (*model.parameters(), *model.buffers())
    own = dict.fromkeys(t.dtype for t in weights if t.is_floating_point())
    given = {n: t.dtype for n, t in inputs.items() if isinstance(t, torch.Tensor) and t.is_floating_point()}
    other = next(((name, dtype) for name, dtype in given.items() if dtype not in own), None)
    if len(own) != 1 or other is None or not _SPEAKS_OF_DTYPES.search(str(error)):
        return ""
    name, dtype, (wanted,) = *other, own
    kinds = f"{str(dtype).removeprefix('torch.')}, the weights are {str(wanted).removeprefix('torch.')}"
    return f"; {name!r} is {kinds}: pass {name}.to({wanted})"
