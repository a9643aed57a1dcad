"""`OpInfo`: what is known of one op, declaratively, and the table that holds it.

A fact is written once, here; the functionaliser, purity, shape inference, rewriting, channel analysis, cost
and the program generator read it. An op that is not listed is safe: impure where its schema says so, opaque,
never sliced.

>>> op_info("aten.relu").elementwise
True
>>> op_info("aten.mm").index_map
'x[i,k], w[k,j] -> y[i,j]'
"""

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from fxopt.ops.sizes import Size

__all__ = [
    "Aliasing",
    "Cut",
    "Kept",
    "OpInfo",
    "QuantRole",
    "Resized",
    "SampleArgs",
    "op_info",
    "op_key",
    "register_op",
    "registered_ops",
]

SampleArgs = tuple[tuple[object, ...], dict[str, object]]
Kept = tuple[tuple[int, ...] | None, ...]
"""The positions that stay, by dimension; None for all of a dimension."""
Resized = tuple[torch._ops.OpOverload, dict[str, object]]
"""The op to call, and the literals that change; a None inside a list of sizes leaves the element as it is."""


@dataclass(frozen=True)
class Cut:
    """One call of which only some positions are wanted.

    Attributes:
        op: the overload.
        bound: its arguments by schema name, tensors as (fake) tensors, before the cut.
        inputs: what stays of each tensor argument, by name; of a list of tensors, of each.
        outputs: what stays of each output tensor.
        shapes: of the output tensors before the cut.
    """

    op: torch._ops.OpOverload
    bound: dict[str, object]
    inputs: dict[str, tuple[Kept, ...]]
    outputs: tuple[Kept, ...]
    shapes: tuple[tuple[Size, ...], ...]


class QuantRole(enum.Enum):
    """How an op takes part in quantization."""

    CONTRACTION = "contraction"  # integer kernel with wide accumulator: conv, linear, matmul
    SAME_SCALE = "same-scale"  # output values are input values: reshape, max_pool, relu's clamp
    REQUANTISING = "requantising"  # new range: add, mul, cat, averages
    ISLAND = "island"  # stays float: softmax, norms


class Aliasing(enum.Enum):
    """Whether outputs may share storage with inputs."""

    SCHEMA = "schema"  # what the schema's alias annotations say
    MAYBE = "maybe"  # may alias its tensor arguments although the schema does not say so
    NEVER = "never"  # fresh outputs, whatever torch's maybe_aliasing_or_mutating tag says (eval batch_norm)


@dataclass(frozen=True, kw_only=True)
class OpInfo:
    """Facts of one op; all but `pure` and `aliasing` are said of pure calls only (batch_norm in eval mode).

    A fact stands only if it holds for every literal argument that the op takes. Names of arguments are schema
    names; those that an overload does not have are passed by, so that one entry serves a packet. `index_map`
    is text as `fxopt.ops.index_map` reads it; where it depends on literal arguments it is a function of the
    bound arguments (by schema name; tensors appear as fake tensors), and None where nothing can be said. Along a
    carried index that is not `uncut` a call may be cut: on some of the positions it gives just those results (with
    the literals that `resize` gives).
    """

    op: str
    index_map: str | Callable[[dict[str, object]], str | None] | None = None
    elementwise: bool = False
    """Output element i is the same function, for each i, of elements i of the (broadcast) tensor inputs."""
    linear_in: tuple[str, ...] = ()
    """Schema arguments in each of which the op is linear (additive and homogeneous), the others held fixed; a
    list of
    tensors as one vector."""
    affine_in: tuple[str, ...] = ()
    """Schema arguments in which it is affine: linear plus a term that does not depend on them."""
    homogeneous: bool | Callable[[dict[str, object]], bool] = False
    """f(s x) = s f(x) for every s > 0, of its first argument; an op that is `linear_in` that is so without saying it."""
    monotone: bool = False
    """Non-decreasing in its first argument, elementwise."""
    same_everywhere: bool = False
    """Elementwise along its index map: output elements are one function of the elements at equal indices (which
    an `elementwise` op has without saying so)."""
    keeps_constants: bool | Callable[[dict[str, object]], bool] = False
    """Where the first tensor's slice at a carried index holds one number, the output's slice holds it too."""
    scaled_by: str = ""
    """An argument of which a zero leaves only `shifted_by` (or zero) of the output at its index, whatever the
    others hold."""
    shifted_by: str = ""
    """The argument that is left: of a norm where `scaled_by` is zero, of a contraction (times a literal) where any
    factor is."""
    skips_zeros: bool | tuple[str, ...] = False
    """Contracted indices (True for all) along which a position at which one operand is zero may be left out: a sum;
    a contraction does it by its role."""
    units: str = ""
    """A mixed index of units with a state of their own. One unit reaches another only where the operand that has
    the index twice (the rows of those that read, then the columns of those that are read) is not zero; a unit that
    none of the others reads may be cut."""
    state: str = ""
    """The argument that holds the units' first states; the last results hold their last ones, in its order."""
    pads: bool | Callable[[dict[str, object]], bool] = False
    """A product of which some outputs see zeros in the place of input elements: constants do not come out as one
    number."""
    moves: bool = False
    """Along a dimension whose index is mixed, or gone, each output element is one input element or a literal;
    which one, the sizes and literals of that dimension say alone."""
    shape_only: tuple[str, ...] = ()
    """Tensor arguments of which only sizes, dtype and device count."""
    uncut: bool | Callable[[dict[str, object]], Iterable[str]] = False
    """Carried indices along which no call gives the results at some positions alone; True for all of them."""
    resize: "Callable[[Cut], Resized | None] | None" = None
    """For ops whose literals speak of sizes along carried indices: the call on some of the positions. None where
    no call does it (which may not happen along a carried index)."""
    zero_preserving: bool = False
    """f(0) = 0 in the first tensor argument, whatever the others, as far as the result is finite."""
    commutative: bool = False
    """The first two arguments may be swapped if both are tensors and the others have their defaults (see
    `is_commutative`)."""
    absolute: bool = False
    """Kernels give its values to half an eps of 1, not of each value: a sigmoid, or gates made of it, whose small
    values some flush to zero."""
    steps: bool = False
    """A step function: near a step the value hangs on the last bit of the first argument."""
    centres: bool | Callable[[dict[str, object]], bool] = False
    """Takes a mean off its first argument: where that holds one number, the first output is nothing but rounding."""
    pure: bool | Callable[[dict[str, object]], bool] | None = None
    """No effect beyond its outputs, same inputs same outputs. None: by the schema and its tags."""
    aliasing: Aliasing = Aliasing.SCHEMA
    dims: tuple[str, ...] = ()
    """Arguments that are dimension indices of the first tensor argument (normalised to non-negative)."""
    dims_inserted: int = 0
    """Added to the rank when normalising `dims` (1 for unsqueeze and stack)."""
    dtype_args: tuple[str, ...] = ()
    """Arguments that hold a dtype literal."""
    role: QuantRole | None = None
    flops: Callable[[dict[str, object], object], object] | None = None
    """(bound arguments, output value) -> number of floating-point operations, possibly symbolic; None: see
    `call_flops`."""
    picks: tuple[str, ...] = ()
    """Arguments of which at most as many elements are read as the output has, the same ones whatever they
    hold: table look-ups."""
    kernel_refuses: Callable[[dict[str, object], object], str] | None = None
    """(bound arguments, inferred output) -> why the kernel does not take a call that the shape function takes,
    "" if it does."""
    samples: Callable[[], Iterable[SampleArgs]] | None = field(default=None, compare=False)
    """Small valid calls (float64 tensors where float), used to test the facts."""


_TABLE: dict[str, OpInfo] = {}
_FOUND: dict[torch._ops.OpOverload, OpInfo] = {}
"""What `op_info` answered for an overload; emptied when an entry changes."""


def _load_table() -> None:
    """The families register themselves on first use: importing them costs nothing before."""
    from fxopt.ops import table  # noqa: F401


def op_key(target: object) -> str:
    """`aten.add.Tensor` for an overload, `aten.add` for a packet, a Python function's qualified name."""
    if isinstance(target, torch._ops.OpOverload):
        namespace, name = target._schema.name.split("::")
        return f"{namespace}.{name}.{target._overloadname}"
    if isinstance(target, torch._ops.OpOverloadPacket):
        return target._qualified_op_name.replace("::", ".")
    if isinstance(target, str):
        return target
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}"


def register_op(info: OpInfo) -> OpInfo:
    """Adds or replaces the entry of `info.op`: a packet, "aten.linear", or an overload, "aten.mean.dim"."""
    _load_table()
    _TABLE[info.op] = info
    _FOUND.clear()
    return info


def op_info(target: object) -> OpInfo:
    """The entry of an op: its overload's, else its packet's, else a safe, opaque default.

    Args:
        target: an overload, a packet, or a name such as "aten.add.Tensor".
    """
    if isinstance(target, torch._ops.OpOverload):
        found = _FOUND.get(target)
        if found is None:
            found = _FOUND[target] = _look_up(op_key(target))
        return found
    return _look_up(op_key(target))


def _look_up(key: str) -> OpInfo:
    _load_table()
    found = _TABLE.get(key)
    if found is None and key.count(".") >= 2:
        found = _TABLE.get(key.rsplit(".", 1)[0])
    return found if found is not None else OpInfo(op=key)


def registered_ops() -> dict[str, OpInfo]:
    """All entries by op name."""
    _load_table()
    return dict(_TABLE)
