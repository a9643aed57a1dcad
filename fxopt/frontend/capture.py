"""Capture: a module becomes a `torch.export.ExportedProgram` in training IR.

Sizes are left to torch's inference (`Dim.AUTO`): which of them it fixed, and where in the model, is read off
afterwards, so that one clear line says it. What torch raises becomes one `TraceError`.
"""

import contextlib
import functools
import inspect
import logging
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from fxopt.errors import FxoptError, InputError, TraceError
from fxopt.frontend.diagnose import dtype_advice, trace_error
from fxopt.frontend.frames import Owner, is_layer, owner
from fxopt.frontend.inputs import Example
from fxopt.frontend.numbers import known_numbers
from fxopt.frontend.promises import promised
from fxopt.frontend.untouched import inference_mode
from fxopt.program.recurrent import whole_layers

__all__ = ["capture", "inference_mode", "quiet_torch"]


def capture(model: nn.Module, example: Example, *, state: bool = False) -> torch.export.ExportedProgram:
    """Exports the model at the example.

    Args:
        model: in eval mode.
        example: a call of it.
        state: whether it may write to its buffers.

    Raises:
        TraceError: torch.export can't capture it; names the user's line.
    """
    outside = sys.exception()
    with (
        quiet_torch(),
        _silent_export(),
        _exact_frames(),
        _explicit_keywords(model, example),
        _equal_sizes(model, example),
        _masks_as_given(),
        _conversions_to_the_same(),
        promised(),
        known_numbers(model, state=state),
        whole_layers(),
    ):
        try:
            exported = torch.export.export(
                model, example.args, example.kwargs, dynamic_shapes=example.shapes(model), strict=False
            )
        except InputError as error:
            raise TraceError(str(error)) from error
        except FxoptError:
            raise
        except Exception as error:
            advice = dtype_advice(error, model, example.named)
            raise TraceError(f"{trace_error(error, outside)}{advice}") from error
    return exported


@contextlib.contextmanager
def _silent_export() -> Iterator[None]:
    """Without the unfinished graph of a failure, which torch.export prints to standard error."""
    from torch.export import _trace  # late: it loads torch's compiler

    with _patched(_trace, "print", lambda *_, **__: None):
        yield


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Keeps torch's logging and warnings of its own failures off the screen: the one error says it all.

    Loggers that somebody made verbose (TORCH_LOGS) go on.
    """
    known = logging.getLogger().manager.loggerDict
    loggers = [
        logger
        for name, logger in list(known.items())
        if (name == "torch" or name.startswith("torch."))
        and isinstance(logger, logging.Logger)
        and not logger.disabled
        and logger.getEffectiveLevel() >= logging.WARNING
    ]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in loggers:
            logger.disabled = False


@contextlib.contextmanager
def _exact_frames() -> Iterator[None]:
    """Lets torch note the model's frames: by itself it keeps none of a helper function, its own for sizes."""
    with (
        _patched(torch.fx.proxy.TracerBase, "_filter_traceback_frames", _model_frames),
        _patched(ShapeEnv, "_get_user_frame", _model_frame),
    ):
        yield


@contextlib.contextmanager
def _masks_as_given() -> Iterator[None]:
    """Keeps torch's transformer layers from looking whether a mask's values are the causal ones.

    The answer chooses a kernel; with the mask itself the layers compute the same function.
    """

    def detect(mask: object, is_causal: bool | None = None, size: object = None) -> bool:
        return is_causal is True

    with _patched(torch.nn.modules.transformer, "_detect_is_causal_mask", detect):
        yield


@contextlib.contextmanager
def _conversions_to_the_same() -> Iterator[None]:
    """Lets `self.layer.to(dtype)` in forward be nothing where the layer has that dtype: torch can't convert while it traces."""
    convert: Callable[..., nn.Module] = nn.Module._apply

    def apply(
        module: nn.Module, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
    ) -> nn.Module:
        own = (*module.parameters(recurse), *module.buffers(recurse))
        if function.__module__ == nn.Module.__module__ and all(_same_kind(t, function(t)) for t in own):
            return module
        return convert(module, function, recurse)

    with _patched(nn.Module, "_apply", apply):
        yield


def _same_kind(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a.dtype, a.device, a.layout) == (b.dtype, b.device, b.layout)


@contextlib.contextmanager
def _explicit_keywords(model: nn.Module, example: Example) -> Iterator[None]:
    """Names the keywords of a `forward(**kwargs)`: torch.export takes no dynamic sizes of nameless ones."""
    forward = model.forward
    parameters = inspect.signature(forward).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not anything or not any(example.axes) or all(name in parameters for name in example.kwargs):
        yield
        return

    def explicit(*args: object, **kwargs: object) -> object:
        return forward(*args, **kwargs)

    kinds = inspect.Parameter
    positional = [kinds(f"_{i}", kinds.POSITIONAL_ONLY) for i, _ in enumerate(example.args)]
    named = [kinds(name, kinds.KEYWORD_ONLY) for name in example.kwargs]
    vars(explicit)["__signature__"] = inspect.Signature([*positional, *named])
    with _patched(model, "forward", explicit):
        yield


@contextlib.contextmanager
def _equal_sizes(model: nn.Module, example: Example) -> Iterator[None]:
    """Tells torch at the start which sizes have one name: found out later, it fixes them where they meet (`mask[:, -n:]`)."""
    places: dict[str, list[tuple[int, int]]] = {}
    for leaf, axes in enumerate(example.axes):
        for i, axis in axes.items():
            if axis.name is not None and not axis.is_expression:
                places.setdefault(axis.name, []).append((leaf, i))
    pairs = [(found[0], other) for found in places.values() for other in found[1:]]
    if not pairs:
        yield
        return
    forward = model.forward

    @functools.wraps(forward)
    def equal(*args: object, **kwargs: object) -> object:
        leaves = pytree.tree_leaves((args, {name: kwargs[name] for name in example.kwargs}))
        for (one, i), (other, j) in pairs:
            torch._check(leaves[one].shape[i] == leaves[other].shape[j])
        return forward(*args, **kwargs)

    with _patched(model, "forward", equal):
        yield


def _model_frames(_tracer: object, frames: traceback.StackSummary) -> traceback.StackSummary:
    """The frames below this module that are not torch's, layers left in."""
    below = 0
    for i, frame in enumerate(frames):
        if frame.filename == __file__:
            below = i + 1
    kept = [f for f in frames[below:] if owner(f.filename) is not Owner.MACHINERY or is_layer(f.filename)]
    return traceback.StackSummary.from_list(kept)


def _model_frame(_env: object) -> types.FrameType | None:
    """The innermost frame that is neither torch's nor fxopt's, else the caller's."""
    # Not by a variable for this frame itself: that cycle would keep the frames' tensors alive until a collection, and
    # torch then takes constants of the model for tensors that leaked out of it (measured).
    caller = sys._getframe(1)
    frame: types.FrameType | None = caller
    while frame is not None and frame.f_code.co_filename != __file__:
        if owner(frame.f_code.co_filename) is not Owner.MACHINERY:
            return frame
        frame = frame.f_back
    return caller


@contextlib.contextmanager
def _patched(holder: object, name: str, value: object) -> Iterator[None]:
    """An attribute replaced for a while; one that was not there is removed again."""
    before = vars(holder).get(name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(holder, name)
        else:
            setattr(holder, name, before)
