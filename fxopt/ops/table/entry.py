"""How entries are written: `entry("relu relu6", samples, elementwise=True)` registers one `OpInfo` a name.

>>> call(1, dim=2)
((1,), {'dim': 2})
>>> Draw()(2, 3).dtype
torch.float64
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypedDict, Unpack

import torch

from fxopt.ops.info import (
    Aliasing,
    Cut,
    OpInfo,
    QuantRole,
    Resized,
    SampleArgs,
    register_op,
)

__all__ = ["Bound", "Draw", "Facts", "IndexText", "call", "entry", "no_flops"]

Bound = dict[str, object]
"""A call's arguments by schema name, tensors as (fake) tensors."""
IndexText = str | Callable[[Bound], str | None]


_LISTED: set[str] = set()


class Facts(TypedDict, total=False):
    """The facts of an `OpInfo`; see there."""

    index_map: IndexText
    elementwise: bool
    linear_in: tuple[str, ...]
    affine_in: tuple[str, ...]
    homogeneous: bool | Callable[[Bound], bool]
    monotone: bool
    same_everywhere: bool
    keeps_constants: bool | Callable[[Bound], bool]
    scaled_by: str
    shifted_by: str
    skips_zeros: bool | tuple[str, ...]
    units: str
    state: str
    pads: bool | Callable[[Bound], bool]
    moves: bool
    shape_only: tuple[str, ...]
    uncut: bool | Callable[[Bound], Iterable[str]]
    resize: Callable[[Cut], Resized | None]
    zero_preserving: bool
    commutative: bool
    absolute: bool
    steps: bool
    centres: bool | Callable[[Bound], bool]
    pure: bool | Callable[[Bound], bool]
    aliasing: Aliasing
    dims: tuple[str, ...]
    dims_inserted: int
    dtype_args: tuple[str, ...]
    role: QuantRole
    flops: Callable[[Bound, object], object]
    picks: tuple[str, ...]
    kernel_refuses: Callable[[Bound, object], str]


class Draw:
    """Sample tensors, the same in each run: float64, no two values of one tensor equal."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> torch.Tensor:
        """Normally distributed."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def positive(self, *shape: int) -> torch.Tensor:
        """Between 0.5 and 2."""
        return torch.rand(shape, generator=self.generator, dtype=torch.float64) * 1.5 + 0.5

    def unit(self, *shape: int) -> torch.Tensor:
        """Between -0.9 and 0.9."""
        return torch.rand(shape, generator=self.generator, dtype=torch.float64) * 1.8 - 0.9

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        """int64, 0 to `high` - 1: different ones, or all of them where there is room."""
        count = torch.Size(shape).numel()
        values = torch.arange(max(count, high)) % high
        return values[torch.randperm(len(values), generator=self.generator)][:count].reshape(shape)

    def mask(self, *shape: int) -> torch.Tensor:
        """bool, both values."""
        return self.integers(2, *shape).bool()


def call(*args: object, **kwargs: object) -> SampleArgs:
    """A sample's arguments."""
    return args, kwargs


def entry(
    names: str, samples: Callable[[Draw], Sequence[SampleArgs]], *families: Facts, **facts: Unpack[Facts]
) -> None:
    """Registers an entry for each of the aten ops in `names`.

    Args:
        names: packets or overloads, separated by spaces: "relu", "sum.dim_IntList".
        samples: small valid calls, drawn when a test or generator asks for them.
        families: facts shared with other entries.
        facts: the fields of the entries' `OpInfo`; they win over those of `families`.

    Raises:
        ValueError: one of the ops has an entry already.
    """
    fields: Facts = {}
    for more in (*families, facts):
        fields.update(more)
    for name in names.split():
        if name in _LISTED:
            raise ValueError(f"aten.{name} is in the table twice")
        _LISTED.add(name)
        register_op(OpInfo(op=f"aten.{name}", samples=lambda: samples(Draw()), **fields))


def no_flops(bound: Bound, output: object) -> int:
    """For ops that only move data."""
    return 0
