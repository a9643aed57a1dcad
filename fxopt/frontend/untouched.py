"""The caller's model stays as it was: what a forward changes of its modules while it is traced is put back.

Training flags, attributes, the contents of lists, dicts and sets at any depth, and what buffers and other tensors
hold are restored, also after a failure. Parameters are not copied: torch.export runs on stand-ins, and no forward
writes to them in eval mode.

>>> model = nn.BatchNorm1d(2)
>>> before = Snapshot(model)
>>> _ = model(torch.ones(3, 2))
>>> before.changed()
['running_mean', 'running_var', 'num_batches_tracked']
>>> before.restore()
>>> before.changed(), model.running_mean
([], tensor([0., 0.]))
"""

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import TypeGuard

import torch
from torch import nn

from fxopt.frontend.frames import warn_caller

__all__ = ["Snapshot", "inference_mode"]

_PLAIN = (bool, int, float, str, type(None), torch.Tensor)
_CONTAINERS = (list, dict, set, OrderedDict)
_TABLES = tuple(vars(nn.Module()))
"""What torch keeps in a module for itself."""
_ABSENT = object()
_Container = list[object] | dict[object, object] | set[object]


class Snapshot:
    """The attributes of a model's modules at one time."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.attributes = {name: dict(vars(module)) for name, module in self.modules.items()}
        self._contents: dict[int, tuple[_Container, _Container]] = {}
        self._tensors: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for attributes in self.attributes.values():
            for value in attributes.values():
                self._keep(value)

    def _keep(self, value: object) -> None:
        """Copies what a tensor or a container holds, at any depth."""
        if _is_kept(value) and id(value) not in self._tensors:
            self._tensors[id(value)] = (value, value.detach().clone())
        if type(value) in _CONTAINERS and id(value) not in self._contents:
            self._contents[id(value)] = (value, value.copy())  # type: ignore[assignment, attr-defined]
            for item in _items(value):
                self._keep(item)

    def changed(self) -> list[str]:
        """The attributes that are not what they were, as `block.calls`; a buffer by its own name."""
        return [
            f"{name}.{attribute}" if name else attribute
            for name, module in self.modules.items()
            for attribute, value, before in self._pairs(name, module)
            if self._differs(before, value)
        ]

    def _pairs(self, name: str, module: nn.Module) -> Iterator[tuple[str, object, object]]:
        """Attributes with what they are and were; of the module's own tables only the buffers."""
        before = self.attributes[name]
        for attribute, value in vars(module).items():
            if attribute not in _TABLES:
                yield attribute, value, before.get(attribute, _ABSENT)
        buffers, old = self._contents[id(before["_buffers"])]
        if isinstance(buffers, dict) and isinstance(old, dict):
            for buffer, value in buffers.items():
                yield str(buffer), value, old.get(buffer, _ABSENT)

    def _differs(self, before: object, now: object) -> bool:
        if before is not now:
            plain = not isinstance(now, torch.Tensor) and type(before) is type(now)
            return isinstance(now, _PLAIN) and not (plain and before == now)
        if id(now) in self._tensors:
            return not _same(*self._tensors[id(now)])
        if id(now) not in self._contents:
            return False
        _, old = self._contents[id(now)]
        if isinstance(now, set):
            return now != old
        items, earlier = list(_items(now)), list(_items(old))
        if len(items) != len(earlier) or (isinstance(now, dict) and list(now) != list(old)):
            return True
        return any(map(self._differs, earlier, items))

    def restore(self) -> None:
        """Puts everything back."""
        for name, module in self.modules.items():
            attributes = module.__dict__
            for attribute in set(attributes) - set(self.attributes[name]):
                del attributes[attribute]
            attributes.update(self.attributes[name])
        for value, content in self._contents.values():
            _refill(value, content)
        for tensor, kept in self._tensors.values():
            if not _same(tensor, kept):
                _write_back(tensor, kept)


def _is_kept(value: object) -> TypeGuard[torch.Tensor]:
    """Whether a value is an ordinary tensor of its own memory, but no parameter."""
    return (
        type(value) is torch.Tensor
        and not value.is_meta
        and value.layout is torch.strided
        and not value.is_quantized
    )


def _same(tensor: torch.Tensor, kept: torch.Tensor) -> bool:
    if tensor.shape != kept.shape or tensor.dtype != kept.dtype:
        return False
    same = tensor.detach() == kept
    return bool((same | ((tensor != tensor) & (kept != kept))).all())


def _write_back(tensor: torch.Tensor, kept: torch.Tensor) -> None:
    # Tensors made in inference mode can be written in it only, others have their history outside.
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        if tensor.shape == kept.shape and tensor.dtype == kept.dtype:
            tensor.copy_(kept)
        else:
            tensor.data = kept


def _items(value: object) -> Iterable[object]:
    """What a container holds."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, Iterable) else ()


def _refill(value: object, content: object) -> None:
    """Gives a container its old content, if it has another."""
    if isinstance(value, list) and isinstance(content, list):
        value[:] = content
    elif isinstance(value, set) and isinstance(content, set):
        value &= content
        value |= content
    elif isinstance(value, dict) and isinstance(content, dict) and _pairs_of(value) != _pairs_of(content):
        value.clear()
        value.update(content)


def _pairs_of(value: dict[object, object]) -> list[tuple[object, int]]:
    return [(k, id(v)) for k, v in value.items()]


def _train_otherwise(modules: Iterable[nn.Module]) -> bool:
    """Whether some of these may compute something else in training mode: their code asks for the mode.

    >>> [_train_otherwise([m]) for m in (nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.0), nn.LSTM(2, 2))]
    [False, True, False, False]
    """
    kinds = {type(module) for module in modules if not _drops_nothing(module)}
    return any(_asks_for_mode(kind) for kind in kinds)


def _drops_nothing(module: nn.Module) -> bool:
    if isinstance(module, nn.RNNBase):
        return module.dropout == 0
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.p == 0


def _asks_for_mode(kind: type[nn.Module]) -> bool:
    own = (base for base in kind.__mro__ if base not in nn.Module.__mro__)
    methods = (value for base in own for value in vars(base).values())
    return any(
        _reads(code, "training") for m in methods if (code := getattr(m, "__code__", None)) is not None
    )


def _reads(code: CodeType, name: str) -> bool:
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return name in code.co_names or any(_reads(c, name) for c in inner)


@contextlib.contextmanager
def inference_mode(model: nn.Module) -> Iterator[None]:
    """The module in eval mode, without gradients or autocast around it; afterwards as it was.

    Warns once if the model, or a part of it, was training and computes something else then.
    """
    training = {name: module for name, module in model.named_modules() if module.training}
    if _train_otherwise(training.values()):
        first = next(iter(training))
        part = f"{first!r} of the model" if first else "the model"
        warn_caller(f"{part} is in training mode; it is traced and verified in eval mode")
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
