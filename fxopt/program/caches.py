"""The caches of transformers' decoders as pytrees, so that a model may take and return one.

A cache travels as its layers' tensors by kind, `{"key_cache": [...], "value_cache": [...]}`, which is also what
a process without transformers gets and may pass back; with transformers it is the cache again. Nothing here
imports transformers: a cache can only exist where somebody else did.

>>> register_caches() if "transformers" in sys.modules else None
"""

import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import InputError

__all__ = ["register_caches"]

_CACHES = ("DynamicCache", "StaticCache")
_STATES = {
    "keys": "key_cache",
    "values": "value_cache",
    "cumulative_length": "length",  # of a static layer, and of a window that tokens fell out of
    "conv_states": "conv_states",
    "recurrent_states": "recurrent_states",
    "indexer_keys": "indexer_cache",
}
"""A layer's tensors, by attribute (a dict of tensors for those that are several), and their kind's name."""
_SETTINGS = ("sliding_window", "max_cache_len", "number_of_states")
"""What a layer is made with."""
_FILLED = "_fxopt_filled"

Layout = list[Any]
"""A layer: its class, its settings, its tensors' names (`keys`, `conv_states.0`), which of its states are in use."""


def register_caches() -> None:
    """Makes the cache classes pytrees where transformers is loaded and nobody has done it."""
    module = sys.modules.get("transformers.cache_utils")
    if module is None:
        return
    for name in _CACHES:
        _register(getattr(module, name, None), partial(_flatten, module), partial(_unflatten, module))
    both = getattr(module, "EncoderDecoderCache", None)
    _register(both, _flatten_both, _unflatten_both)


def _register(kind: Any, flatten: Any, unflatten: Any) -> None:
    if kind is None or kind in pytree.SUPPORTED_NODES:
        return
    pytree.register_pytree_node(
        kind,
        flatten,
        partial(unflatten, kind),
        serialized_type_name=f"{kind.__module__}.{kind.__qualname__}",
        flatten_with_keys_fn=partial(_with_keys, flatten),
    )


def _with_keys(flatten: Any, cache: object) -> tuple[list[tuple[pytree.KeyEntry, object]], list[Any]]:
    children, context = flatten(cache)
    return [(pytree.MappingKey(k), c) for k, c in zip(context[0], children, strict=True)], context


def _flatten(module: ModuleType, cache: Any) -> tuple[list[list[object]], list[Any]]:
    """Tensors by kind; the context says which, and how to make the layers again."""
    kinds: dict[str, list[object]] = {}
    layouts: list[Layout] = []
    for layer in cache.layers:
        _check_layer(module, layer)
        names = []
        for name, tensor in _tensors(layer):
            kinds.setdefault(_STATES[name.partition(".")[0]], []).append(tensor)
            names.append(name)
        settings = {s: getattr(layer, s) for s in _SETTINGS if s in _parameters(type(layer))}
        previous = [i for i, there in getattr(layer, "has_previous_state", {}).items() if there]
        layouts.append([type(layer).__name__, settings, names, previous])
    grows = cache.layer_class_to_replicate is not None
    return list(kinds.values()), [list(kinds), layouts, grows]


def _parameters(kind: type) -> Iterable[str]:
    return inspect.signature(kind).parameters


def _tensors(layer: Any) -> Iterator[tuple[str, object]]:
    """What a layer holds; a tree may have been filled with anything, None among it."""
    filled = vars(layer).get(_FILLED, ())
    for attribute in _STATES:
        value = getattr(layer, attribute, None)
        if isinstance(value, dict):
            several = [(f"{attribute}.{i}", v) for i, v in value.items()]
        else:
            several = [(attribute, value)] if attribute != "cumulative_length" or _keeps_count(layer) else []
        yield from ((name, v) for name, v in several if v is not None or name in filled)


def _keeps_count(layer: Any) -> bool:
    """Whether the number of tokens seen is more than the length of the keys: some fell out of a window."""
    if _is_static(layer) or not hasattr(layer, "cumulative_length"):
        return _is_static(layer)
    if isinstance(layer.keys, torch.Tensor):
        return not bool(layer.cumulative_length == layer.keys.shape[-2])
    return "cumulative_length" in vars(layer).get(_FILLED, ())


def _is_static(layer: Any) -> bool:
    """Whether it counts its tokens in a tensor."""
    return hasattr(layer, "max_cache_len")


def _check_layer(module: ModuleType, layer: Any) -> None:
    """Refuses a layer whose state is more than its tensors and their number.

    Raises:
        InputError: it counts in a Python number what decides which way its model goes.
    """
    kind = type(layer).__name__
    if getattr(module, kind, None) is not type(layer):
        raise InputError(f"a cache layer of class {kind} is not known: pass past_key_values=DynamicCache()")
    if hasattr(layer, "cumulative_length_int"):
        raise InputError(
            f"a {kind} counts its tokens in a Python number: pass past_key_values=DynamicCache()"
        )


def _unflatten(module: ModuleType, kind: Any, children: Iterable[list[object]], context: list[Any]) -> object:
    names, layouts, grows = context
    kinds = {name: iter(states) for name, states in zip(names, children, strict=True)}
    layers = []
    for class_name, settings, present, previous in layouts:
        layer = getattr(module, class_name)(**settings)
        _fill(layer, {name: next(kinds[_STATES[name.partition(".")[0]]]) for name in present})
        if previous:
            layer.has_previous_state.update(dict.fromkeys(previous, True))
        layers.append(layer)
    cache = kind.__new__(kind)
    module.Cache.__init__(cache, layers=layers)
    cache.layer_class_to_replicate = module.DynamicLayer if grows else None
    return cache


def _fill(layer: Any, tensors: dict[str, object]) -> None:
    """Gives a fresh layer its tensors (or whatever a tree is filled with) and what follows from them."""
    setattr(layer, _FILLED, tuple(tensors))
    for name, value in tensors.items():
        attribute, dot, index = name.partition(".")
        if dot:
            getattr(layer, attribute)[int(index)] = value
            _note_state(layer, attribute, int(index), value)
        else:
            setattr(layer, attribute, value)
    keys, values = tensors.get("keys"), tensors.get("values")
    layer.is_initialized = getattr(layer, "is_initialized", False) or "keys" in tensors
    if "indexer_keys" in tensors:
        layer.is_indexer_initialized = True
    if not isinstance(keys, torch.Tensor) or not isinstance(values, torch.Tensor):
        return
    layer.device, layer.dtype = keys.device, keys.dtype
    if not _is_static(layer):
        if hasattr(layer, "cumulative_length") and "cumulative_length" not in tensors:
            layer.cumulative_length = keys.shape[-2]
    else:
        layer.batch_size, layer.num_heads = keys.shape[:2]
        layer.k_head_dim, layer.v_head_dim = keys.shape[-1], values.shape[-1]


def _note_state(layer: Any, attribute: str, index: int, value: object) -> None:
    getattr(layer, f"is_{attribute}_initialized")[index] = True
    if isinstance(value, torch.Tensor):
        layer.device, layer.dtype = value.device, value.dtype
        if attribute == "conv_states":
            layer.conv_kernel_size[index] = value.shape[-1]


def _flatten_both(cache: Any) -> tuple[list[object], list[Any]]:
    """An encoder-decoder's caches, and for which layers the encoder's part is there."""
    updated = [[i, bool(done)] for i, done in cache.is_updated.items()]
    names = ["self_attention_cache", "cross_attention_cache"]
    return [cache.self_attention_cache, cache.cross_attention_cache], [names, updated]


def _unflatten_both(kind: Any, children: Iterable[object], context: list[Any]) -> object:
    cache = kind.__new__(kind)
    cache.self_attention_cache, cache.cross_attention_cache = children
    cache.is_updated = {int(i): bool(done) for i, done in context[1]}
    return cache
