"""Weights of 2 to 4 bits in a TorchScript file: packed as it is stored, integers of a byte from its first call on."""

import math
from dataclasses import dataclass

from fxopt.lowering.few_bits import Few

__all__ = ["Unpacked", "unpacking_lines"]


@dataclass(frozen=True)
class Unpacked:
    """The integers of a packed weight, int8: what a module holds no elements of when it is stored."""

    weight: str
    few: Few
    shape: tuple[int, ...]


def unpacking_lines(content: Unpacked, packed: str, unpacked: str) -> list[str]:
    """Statements that unpack a weight once: `few_bits.unpacked_bits`, as torch alone can read it.

    Args:
        content: what of.
        packed: the attribute of its bytes.
        unpacked: that of its integers.
    """
    width, half = content.few.width, 2 ** (content.few.width - 1) if content.few.signed else 0
    places = f"torch.arange(0, 8, {width}, dtype=torch.uint8, device=self.{packed}.device)"
    shifted = f"torch.bitwise_right_shift(self.{packed}.unsqueeze(1), {places})"
    flat = f"({shifted} & {2**width - 1}).reshape(-1)[:{math.prod(content.shape)}].to(torch.int8)"
    return [
        f"if self.{unpacked}.numel() == 0:",
        f"    self.{unpacked} = (({flat} ^ {half}) - {half}).reshape({list(content.shape)})",
    ]
