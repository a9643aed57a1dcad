"""Values on the command line that are more than a word: dynamic sizes.

>>> parse_dynamic(["ids:0=batch", "mask:0=batch", "ids:1=length"])
{'ids': {0: 'batch', 1: 'length'}, 'mask': {0: 'batch'}}
"""

import re
from collections.abc import Iterable

from fxopt.errors import InputError

__all__ = ["parse_dynamic", "parse_sizes"]

_DYNAMIC = re.compile(r"(?P<input>[^:=]+):(?P<axis>-?\d+)(?:=(?P<name>\w+))?")
_SIZE = re.compile(r"(?P<name>[^=]+)=(?P<size>\d+)")


def parse_dynamic(texts: Iterable[str]) -> dict[str, dict[int, object]]:
    """`INPUT:AXIS=NAME` items as `dynamic_shapes`; without a name the size is independent of all others.

    Raises:
        InputError: An item has another form.
    """
    shapes: dict[str, dict[int, object]] = {}
    for text in texts:
        found = _DYNAMIC.fullmatch(text)
        if found is None:
            raise InputError(f"--dynamic {text!r}: expected INPUT:AXIS or INPUT:AXIS=NAME, such as x:0=batch")
        axes = shapes.setdefault(found["input"], {})
        if int(found["axis"]) in axes:
            raise InputError(f"--dynamic {text!r}: axis {found['axis']} of {found['input']!r} is given twice")
        axes[int(found["axis"])] = found["name"] or _unnamed()
    return shapes


def parse_sizes(texts: Iterable[str]) -> dict[str, int]:
    """`NAME=N` items as sizes by name.

    Raises:
        InputError: An item has another form.
    """
    sizes: dict[str, int] = {}
    for text in texts:
        found = _SIZE.fullmatch(text)
        if found is None:
            raise InputError(f"--size {text!r}: expected NAME=N, such as batch=8")
        sizes[found["name"]] = int(found["size"])
    return sizes


def _unnamed() -> object:
    from torch.export import Dim

    return Dim.DYNAMIC
