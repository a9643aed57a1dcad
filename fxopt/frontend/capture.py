"""Capture: a module becomes a `torch.export.ExportedProgram` in training IR, the module left as it was.

What torch raises while it traces is turned into one `TraceError` that names the user's own line and what to change there.
"""

import contextlib
import logging
import traceback
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from fxopt.errors import FxoptError, TraceError
from fxopt.frontend.inputs import Example

__all__ = ["capture", "inference_mode", "quiet_torch", "user_line"]

_ADVICE = (
    ("GuardOnDataDependentSymNode", "a branch or size depends on the values of a tensor: use torch.where, torch.cond or a fixed bound"),
    ("DataDependentOutputException", "a Python number is taken out of a tensor (.item(), int(), a data-dependent if): keep it a tensor or use torch.where"),
    ("DynamicOutputShapeException", "the size of a result depends on the values of a tensor: use a mask instead of selecting"),
    ("ConstraintViolationError", "a size given as dynamic is fixed by the model: give it as static, or remove what fixes it"),
    (".numpy()", "numpy in forward cannot be traced: use torch functions"),
    ("numpy", "numpy in forward cannot be traced: use torch functions"),
)


@contextlib.contextmanager
def inference_mode(model: nn.Module) -> Iterator[None]:
    """The module in eval mode and without gradients; its flags are restored. One warning if it was training."""
    training = [m for m in model.modules() if m.training]
    if model.training:
        warnings.warn(
            "the model is in training mode; it is traced and verified in eval mode", UserWarning, stacklevel=4
        )
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def user_line(frames: traceback.StackSummary | list[traceback.FrameSummary]) -> str:
    """`file:line` of the innermost frame outside torch and fxopt, with its source text."""
    for frame in reversed(frames):
        path = frame.filename.replace("\\", "/")
        if "/torch/" in path or "/fxopt/" in path or path.startswith("<"):
            continue
        source = f" ({frame.line.strip()})" if frame.line else ""
        return f"{path}:{frame.lineno}{source}"
    return ""


def capture(model: nn.Module, example: Example) -> torch.export.ExportedProgram:
    """Exports the model at the example.

    Raises:
        TraceError: torch.export can't capture it; names the user's line.
    """
    with quiet_torch():
        try:
            return torch.export.export(
                model, example.args, example.kwargs, dynamic_shapes=example.shapes(), strict=False
            )
        except FxoptError:
            raise
        except Exception as error:
            raise _trace_error(error, example) from error


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Keeps torch's logging of its own failures off the user's screen: the one error says it all."""
    loggers = [logging.getLogger(n) for n in ("torch", "torch._subclasses.fake_tensor", "torch.export", "torch._dynamo")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _trace_error(error: Exception, example: Example) -> TraceError:
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    where = next((w for e in reversed(chain) if (w := user_line(traceback.extract_tb(e.__traceback__)))), "")
    text = " ".join(f"{type(e).__name__} {e}" for e in chain)
    advice = next((a for key, a in _ADVICE if key in text), None)
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "Constraints violated" in text or "ConstraintViolationError" in text or "specialized" in text:
        names = sorted({n for axes in example.axes for n in axes.values()})
        detail = next((line.strip(" -") for line in str(error).splitlines() if "specialized" in line or "not all values" in line.lower()), first)
        return TraceError(
            f"a dynamic size of {', '.join(names)} is fixed by the model{_at(where)}: {detail}; "
            "make the model use x.shape instead of numbers, or trace with this size static"
        )
    return TraceError(f"the model can't be traced{_at(where)}: {advice or first}")


def _at(where: str) -> str:
    return f" at {where}" if where else ""
