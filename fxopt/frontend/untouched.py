"""The caller's model stays as it was: what a forward assigns to its modules while it is traced is put back.

Training flags, attributes and the contents of lists, dicts and sets are restored, also after a failure.
Tensors need no care: torch.export runs on stand-ins, and the comparison runs on copies of what a model writes
to.
"""

import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["Snapshot", "inference_mode"]

_PLAIN = (bool, int, float, str, type(None), torch.Tensor)
_CONTAINERS = (list, dict, set, OrderedDict)
_ABSENT = object()


class Snapshot:
    """The attributes of a model's modules at one time."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.attributes = {name: dict(vars(module)) for name, module in self.modules.items()}
        self.contents = {
            id(value): (value, value.copy())
            for attributes in self.attributes.values()
            for value in attributes.values()
            if type(value) in _CONTAINERS
        }

    def assigned(self) -> list[str]:
        """The numbers, words and tensors that were assigned to since, as `block.calls`."""
        return [
            f"{name}.{attribute}" if name else attribute
            for name, module in self.modules.items()
            for attribute, value in vars(module).items()
            if isinstance(value, _PLAIN) and _differs(self.attributes[name].get(attribute, _ABSENT), value)
        ]

    def restore(self) -> None:
        """Puts everything back."""
        for name, module in self.modules.items():
            attributes = module.__dict__
            for attribute in set(attributes) - set(self.attributes[name]):
                del attributes[attribute]
            attributes.update(self.attributes[name])
        for value, content in self.contents.values():
            _refill(value, content)


def _differs(before: object, now: object) -> bool:
    if before is now:
        return False
    return isinstance(now, torch.Tensor) or type(before) is not type(now) or before != now


def _refill(value: object, content: object) -> None:
    """Gives a container its old content, if it has another."""
    if isinstance(value, list) and isinstance(content, list):
        value[:] = content
    elif isinstance(value, set) and isinstance(content, set):
        value &= content
        value |= content
    elif isinstance(value, dict) and isinstance(content, dict) and _items(value) != _items(content):
        value.clear()
        value.update(content)


def _items(value: dict[object, object]) -> list[tuple[object, int]]:
    return [(k, id(v)) for k, v in value.items()]


@contextlib.contextmanager
def inference_mode(model: nn.Module) -> Iterator[None]:
    """The module in eval mode, without gradients or autocast around it; afterwards as it was.

    Warns once if the model, or a part of it, was training.
    """
    training = [name for name, module in model.named_modules() if module.training]
    if training:
        part = f"{training[0]!r} of the model" if training[0] else "the model"
        warnings.warn(f"{part} is in training mode; it is traced and verified in eval mode", stacklevel=5)
    snapshot = Snapshot(model)
    try:
        for module in model.modules():
            module.training = False
        # Tensors made in inference mode can't be used outside it.
        made_there = any(t.is_inference() for t in (*model.parameters(), *model.buffers()))
        with torch.inference_mode(made_there), torch.no_grad(), _without_autocast():
            yield
    finally:
        snapshot.restore()


@contextlib.contextmanager
def _without_autocast() -> Iterator[None]:
    """What casts around the caller is not the model's."""
    with contextlib.ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
