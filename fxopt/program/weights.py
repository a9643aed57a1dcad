"""Weights as a safetensors file and a table, which says what safetensors can't: strides, shared memory.

Weights that overlap in memory are stored once, as the memory they cover; any other weight under its own name,
gaps between its rows closed. The header is determined by the table, so that reading compares it and never
parses it. Reading makes tensors over the file's own bytes, which a mapped file loads when they are used.

>>> w = torch.arange(6.0).reshape(2, 3).t()
>>> packed = pack_weights({"w": w})
>>> data = memoryview(bytearray(b"".join(packed.buffers)))
>>> again = unpack_weights(packed.table, packed.storages, data)["w"]
>>> torch.equal(again, w), again.stride()
(True, (1, 3))
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from fxopt.errors import ArtifactError
from fxopt.program.signature import named_dtype

__all__ = ["PackedWeights", "compact", "pack_weights", "tighten", "unpack_weights"]

_CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool":
    "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
"""safetensors' names; a dtype without one is stored as bytes."""

_ALIGNMENT = 64
"""Of a tensor's memory, as torch allocates it: kernels are faster on it, and MKL rounds alike."""

Json = dict[str, object]


@dataclass
class PackedWeights:
    """`table`: an entry a weight; `storages`: one a stretch of memory; `buffers`: the safetensors file."""

    table: list[Json] = field(default_factory=list)
    storages: list[Json] = field(default_factory=list)
    buffers: list[memoryview] = field(default_factory=list)


def compact(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without gaps in memory, its dimensions in the same order there; itself if it has none."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    if tensor.permute(order).is_contiguous() or _extent(tensor) <= tensor.numel():
        return tensor
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return tensor.permute(order).contiguous().permute(inverse)


def tighten(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights, those that look into larger memory copied out of it; overlaps and strides stay."""
    tight = dict(weights)
    for group in _groups(weights):
        tensors = [weights[n] for n in group]
        first = tensors[0]
        needed = sum(t.numel() for t in tensors) * first.element_size()
        if first.is_meta or first.untyped_storage().nbytes() <= needed:
            continue
        start = min(t.storage_offset() for t in tensors)
        stop = max(t.storage_offset() + _extent(t) for t in tensors)
        if len(group) == 1:
            tight[group[0]] = compact(first).clone()
            continue
        memory = first.as_strided((stop - start,), (1,), start).clone()
        for name, tensor in zip(group, tensors, strict=True):
            tight[name] = memory.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - start)
    return tight


def _extent(tensor: torch.Tensor) -> int:
    """How many elements of memory lie between its first and its last, both counted."""
    if tensor.numel() == 0:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def _groups(weights: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Names of weights that overlap in memory, together; weights of one group have one dtype."""
    spans: dict[object, list[tuple[int, int, str]]] = {}
    groups: list[list[str]] = []
    for name, tensor in weights.items():
        if tensor.numel() == 0:
            groups.append([name])
            continue
        key = (tensor.untyped_storage().data_ptr(), tensor.dtype, tensor.device)
        start = int(tensor.storage_offset())
        spans.setdefault(key, []).append((start, start + _extent(tensor), name))
    for span in spans.values():
        end = -1
        for start, stop, name in sorted(span, key=lambda s: s[:2]):
            if start < end:
                groups[-1].append(name)
            else:
                groups.append([name])
            end = max(end, stop)
    return groups


def pack_weights(weights: Mapping[str, torch.Tensor]) -> PackedWeights:
    """The weights' table and the safetensors file's bytes; contiguous weights on the CPU are not copied.

    Weights on `meta` keep shape and dtype only.

    Raises:
        ArtifactError: a weight is sparse or of another layout that has no file form.
    """
    entries: dict[str, Json] = {}
    stored: dict[str, tuple[Json, torch.Tensor]] = {}
    for name, tensor in weights.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise ArtifactError(
                f"the weight {name!r} has the layout {tensor.layout}, which can't be saved; make it dense"
            )
        entries[name] = _entry(name, tensor)
    with torch.no_grad():
        for group in _groups({n: t for n, t in weights.items() if not t.is_meta}):
            _store(group, weights, entries, stored)
    # Whole lines of memory first, then large elements first: all are aligned without gaps, which safetensors
    # does not allow.
    order = sorted(
        stored, key=lambda n: (stored[n][1].nbytes % _ALIGNMENT != 0, -stored[n][1].element_size(), n)
    )
    packed = PackedWeights(list(entries.values()), [stored[n][0] for n in order])
    packed.buffers = [memoryview(_header(packed.storages)), *(_bytes(stored[n][1]) for n in order)]
    return packed


def _entry(name: str, tensor: torch.Tensor) -> Json:
    return {
        "name": name,
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "stride": list(tensor.stride()),
        "offset": 0,
        "storage": None,
        "device": str(tensor.device),
        "parameter": isinstance(tensor, torch.nn.Parameter),
        "requires_grad": tensor.requires_grad,
    }


def _store(
    group: list[str],
    weights: Mapping[str, torch.Tensor],
    entries: dict[str, Json],
    stored: dict[str, tuple[Json, torch.Tensor]],
) -> None:
    """Notes what is stored for weights that overlap: one plain weight, or the memory that they cover."""
    key = min(group)
    if len(group) == 1:
        tensor = compact(weights[key].detach().resolve_conj().resolve_neg())
        entries[key]["stride"] = list(tensor.stride())
        memory = tensor if tensor.is_contiguous() else tensor.as_strided((_extent(tensor),), (1,))
    else:
        start = min(weights[n].storage_offset() for n in group)
        stop = max(weights[n].storage_offset() + _extent(weights[n]) for n in group)
        memory = weights[key].detach().as_strided((stop - start,), (1,), start)
        for name in group:
            entries[name]["offset"] = weights[name].storage_offset() - start
    for name in group:
        entries[name]["storage"] = key
    dtype = str(memory.dtype).removeprefix("torch.")
    stored[key] = ({"name": key, "dtype": dtype, "shape": list(memory.shape)}, memory.cpu())


def _bytes(tensor: torch.Tensor) -> memoryview:
    if not tensor.numel():
        return memoryview(bytearray())
    array = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)  # type: ignore[arg-type]  # numpy's arrays are buffers, its types say so from 3.12 on


def _size(storage: Json) -> int:
    shape, dtype = storage["shape"], named_dtype(str(storage["dtype"]))
    assert isinstance(shape, list)
    return math.prod(shape) * dtype.itemsize


def _description(storages: Sequence[Json]) -> bytes:
    """The JSON at the head of a safetensors file."""
    described: dict[str, object] = {}
    offset = 0
    for storage in storages:
        size = _size(storage)
        code = _CODES.get(str(storage["dtype"]))
        shape = storage["shape"] if code else [size]
        described[str(storage["name"])] = {
            "dtype": code or "U8", "shape": shape, "data_offsets": [offset, offset + size],
        }  # fmt: skip
        offset += size
    if len(described) != len(storages):
        raise ValueError("two storages have one name")
    return json.dumps(described, separators=(",", ":")).encode()


def _header(storages: Sequence[Json]) -> bytes:
    """The head: its length, and the JSON padded so that the tensors' memory is aligned."""
    text = _description(storages)
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def unpack_weights(table: object, storages: object, data: memoryview) -> dict[str, torch.Tensor]:
    """The weights by name, over the bytes of the file; only what is not aligned there is copied.

    Args:
        table: as `pack_weights` made it.
        storages: as `pack_weights` made it.
        data: the safetensors file, which may be written to.

    Raises:
        ArtifactError: the table is malformed, does not fit the file, or names a device that is not here.
    """
    try:
        memory = _memory(_checked_table(storages), data)
        return {str(e["name"]): _weight(e, memory) for e in _checked_table(table)}
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, AssertionError) as error:
        first = str(error).strip().splitlines()
        reason = first[0] if first else type(error).__name__
        raise ArtifactError(f"the table of weights is malformed: {reason}") from error


def _checked_table(value: object) -> list[Json]:
    if not isinstance(value, list):
        raise TypeError("it is no list")
    for entry in value:
        if not isinstance(entry, dict):
            raise TypeError("an entry is no object")
        for key in ("shape", "stride", "offset"):
            sizes = entry.get(key, 0)
            for size in sizes if isinstance(sizes, list) else [sizes]:
                if type(size) is not int or not 0 <= size < 1 << 62:
                    raise ValueError(f"{key} {sizes!r} of {entry.get('name')!r}")
    return value


def _memory(storages: list[Json], data: memoryview) -> dict[str, torch.Tensor]:
    """The storages over the file's bytes, on the CPU."""
    expected = _description(storages)
    start = 8 + int.from_bytes(data[:8], "little")
    if start + sum(map(_size, storages)) != len(data):
        raise ValueError("it describes more or less than the file holds")
    if not len(expected) <= start - 8 < len(expected) + _ALIGNMENT or (
        bytes(data[8:start]).rstrip(b" ") != expected
    ):
        raise ValueError("the head of the weights differs from it")
    memory: dict[str, torch.Tensor] = {}
    for storage in storages:
        memory[str(storage["name"])] = _tensor(storage, data[start : start + _size(storage)])
        start += _size(storage)
    return memory


def _tensor(storage: Json, content: memoryview) -> torch.Tensor:
    shape, dtype = storage["shape"], named_dtype(str(storage["dtype"]))
    assert isinstance(shape, list)
    if not len(content):
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(content, dtype=torch.uint8)
    if flat.data_ptr() % _ALIGNMENT:
        flat = flat.clone()
    return flat.view(dtype).reshape(shape)


def _weight(entry: Json, memory: Mapping[str, torch.Tensor]) -> torch.Tensor:
    shape, stride, offset, dtype = (
        entry["shape"],
        entry["stride"],
        entry["offset"],
        named_dtype(str(entry["dtype"])),
    )
    assert isinstance(shape, list)
    assert isinstance(stride, list)
    assert isinstance(offset, int)
    if entry["storage"] is None:
        if entry["device"] != "meta":
            raise ValueError(f"{entry['name']!r} has no values")
        tensor = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    else:
        stored = memory[str(entry["storage"])]
        if stored.dtype != dtype:
            raise ValueError(f"{entry['name']!r} has dtype {dtype}, its memory {stored.dtype}")
        whole = offset == 0 and stored.shape == torch.Size(shape) and list(stored.stride()) == stride
        tensor = stored if whole else _view(stored, shape, stride, offset)
        tensor = tensor.to(str(entry["device"]))
    needs_grad = entry["requires_grad"] is True
    return (
        torch.nn.Parameter(tensor, needs_grad)
        if entry["parameter"] is True
        else tensor.requires_grad_(needs_grad)
    )


def _view(stored: torch.Tensor, shape: list[int], stride: list[int], offset: int) -> torch.Tensor:
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if 0 not in shape and last >= stored.numel():
        raise ValueError(f"a weight of shape {shape} reaches beyond its memory")
    return stored.view(-1).as_strided(shape, stride, offset)
