"""Weights of 2 to 4 bits as files hold them: two or four integers a byte, the first in the low bits.

>>> q = torch.tensor([[-8, 7, 3]], dtype=torch.int8)
>>> packed = packed_bits(q, Few(4, signed=True))
>>> packed.tolist(), unpacked_bits(packed, Few(4, signed=True), [1, 3]).tolist()
([120, 3], [[-8, 7, 3]])
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fxopt.errors import ArtifactError
from fxopt.program.program import Program

__all__ = ["Few", "few_bits", "packed_bits", "unpacked_bits", "with_dense_weights", "with_packed_weights"]


@dataclass(frozen=True)
class Few:
    """How a weight of few bits is packed: bits of each integer, 2 or 4, and whether they have a sign."""

    width: int
    signed: bool


def few_bits(program: Program) -> dict[str, Few]:
    """By name, the weights whose integers have 2 to 4 bits."""
    from fxopt.passes.quantize import RANGES

    found = program.attached.get(RANGES, {})
    return {n: _few(*r) for n, r in found.items() if isinstance(r, list) and n in program.weights}


def _few(low: int, high: int) -> Few:
    return Few(2 if high - low < 4 else 4, low < 0)


def packed_bits(q: torch.Tensor, few: Few) -> torch.Tensor:
    """The integers of a tensor in row-major order, in two's complement, as uint8; a last byte may be partly empty.

    Args:
        q: int8, of values that the width holds.
        few: how.
    """
    width = few.width
    each = 8 // width
    flat = (q.reshape(-1).to(torch.int16) & (2**width - 1)).to(torch.uint8)
    rows = torch.nn.functional.pad(flat, (0, -flat.numel() % each)).reshape(-1, each)
    packed = torch.zeros(len(rows), dtype=torch.uint8)
    for place in range(each):
        packed |= rows[:, place] << (width * place)
    return packed


def unpacked_bits(packed: torch.Tensor, few: Few, shape: Sequence[int]) -> torch.Tensor:
    """The integers that `packed_bits` packed, int8 of a shape.

    Args:
        packed: uint8.
        few: how.
        shape: of the tensor.
    """
    width = few.width
    places = torch.arange(0, 8, width, dtype=torch.uint8)
    flat = ((packed.unsqueeze(1) >> places) & (2**width - 1)).reshape(-1)[: math.prod(shape)].to(torch.int8)
    half = 2 ** (width - 1) if few.signed else 0
    dense: torch.Tensor = (flat ^ half) - half
    return dense.reshape(list(shape))


def with_packed_weights(
    programs: Mapping[str, Program],
) -> tuple[dict[str, Program], dict[str, list[int]]]:
    """Programs whose weights of few bits are packed, for files alone, and by weight its width and shape.

    Args:
        programs: by entry point; weights that they share are packed once.
    """
    made: dict[int, torch.Tensor] = {}
    table: dict[str, list[int]] = {}
    packed: dict[str, Program] = {}
    for entry, program in programs.items():
        found = few_bits(program)
        twin = packed[entry] = program.copy() if found else program
        for name, few in found.items():
            tensor = program.weights[name]
            if id(tensor) not in made:
                made[id(tensor)] = packed_bits(tensor, few)
            twin.weights[name], table[name] = made[id(tensor)], [few.width, int(few.signed), *tensor.shape]
    return packed, table


def with_dense_weights(weights: Mapping[str, torch.Tensor], table: object) -> dict[str, torch.Tensor]:
    """The weights of a file, those of few bits as int8.

    Args:
        weights: by name, as stored.
        table: of `with_packed_weights`, as the file has it.

    Raises:
        ArtifactError: the table is malformed, or does not fit.
    """
    dense = dict(weights)
    for name, entry in table.items() if isinstance(table, dict) else [("", table)]:
        match entry:
            case [2 | 4 as width, 0 | 1 as signed, *sizes] if all(type(s) is int and s >= 0 for s in sizes):
                shape = [s for s in sizes if isinstance(s, int)]
                held = -(-math.prod(shape) * width // 8)
            case _:
                raise ArtifactError("its table of packed weights is malformed")
        if name not in dense:
            continue  # of another entry point
        if dense[name].dtype is not torch.uint8 or dense[name].shape != (held,):
            raise ArtifactError(f"its packed weight {name!r} has another size than its table says")
        dense[name] = unpacked_bits(dense[name], Few(width, bool(signed)), shape)
    return dense
