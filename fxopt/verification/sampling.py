"""Inputs for a signature, made from a seed: two sizes above 1 and size 1, ordinary and special values.

Floats are standard normal, or drawn from zeros of both signs, ones, large and subnormal numbers with many
repetitions, or all zero. Integers are uniform in the range that the signature gives, both ends included;
masks (0 to 1, or bool) are mixed, all ones, or all zeros. The same seed gives the same tensors.

>>> import torch
>>> from fxopt.frontend import trace
>>> model, x = torch.nn.Linear(4, 2).eval(), torch.zeros(3, 4)
>>> signature = trace(model, (x,), dynamic_shapes={"input": {0: "batch"}}).signature
>>> for sample in sample_inputs(signature):
...     print(sample.label, tuple(sample.tensors[0].shape))
batch=2, normal, seed 0 (2, 4)
batch=3, normal, seed 1 (3, 4)
batch=2, special values, seed 2 (2, 4)
batch=2, zeros, seed 3 (2, 4)
batch=1, normal, seed 4 (1, 4)
"""

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import InputError
from fxopt.program import ConstantSpec, Signature, TensorSpec, evaluate_dim
from fxopt.verification.sizes import SizeSet, singles, size_sets

__all__ = ["Sample", "arguments_of", "batch_tensors", "call_of", "given_samples", "sample_inputs"]


@dataclass(frozen=True)
class Sample:
    """One set of inputs."""

    label: str
    """How it came about: `batch=3, normal, seed 1`."""
    sizes: Mapping[str, int]
    tensors: list[torch.Tensor]
    """One a tensor input, in signature order."""
    given: bool = False
    """The caller's own, not drawn."""
    is_ordinary: bool = True
    """Its values are such as a model meets: no zeros only, and none chosen for being special."""

    def constant(self) -> bool:
        """Whether each float tensor of several elements (there must be one) holds one value only."""
        floats = [t for t in self.tensors if t.dtype.is_floating_point and t.numel() > 1]
        return bool(floats) and all(
            bool((t == t.view(-1)[0]).all()) for t in map(torch.Tensor.contiguous, floats)
        )

    def above_one(self) -> bool:
        """Whether every dynamic size is above 1."""
        return all(size > 1 for size in self.sizes.values())


class _Kind(enum.Enum):
    """What values a sample has."""

    NORMAL = "normal", "some"
    UNMASKED = "normal", "all"
    SPECIAL = "special values", "some"
    ZEROS = "zeros", "none"

    @property
    def words(self) -> str:
        """As the label says it."""
        return str(self.value[0])

    @property
    def masks(self) -> str:
        """How many elements of a mask are set: all, some or none."""
        return str(self.value[1])


def sample_inputs(
    signature: Signature, *, seed: int = 0, sizes: Sequence[SizeSet] | None = None
) -> list[Sample]:
    """Draws inputs.

    Args:
        signature: names, dtypes, sizes and ranges of the inputs.
        seed: all values follow from it.
        sizes: the sizes to draw at (a size of 0 is drawn only if asked for here); by default two sets above
            1 and those with a 1 in them.

    Returns:
        At least one ordinary sample a set of sizes, two in all, and samples of special values and of zeros
        at the first.

    Raises:
        InputError: an input's dtype can't be drawn, or no sizes fit.
    """
    if not signature.tensor_inputs:
        return [Sample("no inputs", {}, [])]
    sets = list(sizes) if sizes is not None else size_sets(signature)
    if not sets:
        return []
    plan = [(s, _Kind.UNMASKED if i % 2 else _Kind.NORMAL) for i, s in enumerate(sets)]
    if len(plan) == 1:
        plan.append((sets[0], _Kind.UNMASKED))
    plan += [(sets[0], _Kind.SPECIAL), (sets[0], _Kind.ZEROS)]
    if sizes is None:
        plan += [(s, _Kind.UNMASKED) for s in singles(signature)]
    return [_draw(signature, dict(s), kind, seed + i) for i, (s, kind) in enumerate(plan)]


def given_samples(signature: Signature, inputs: Iterable[object]) -> Iterator[Sample]:
    """Samples of the caller's own inputs: argument tuples, lone tensors, or dicts by argument name.

    Raises:
        InputError: one does not fit the signature.
    """
    for i, item in enumerate(inputs):
        args, kwargs = call_of(item)
        tensors = signature.flatten_inputs(args, kwargs)
        sizes = signature.check_sizes(tensors)
        text = ", ".join(f"{name}={size}" for name, size in sizes.items())
        yield Sample(f"inputs[{i}]" + (f" ({text})" if text else ""), sizes, tensors, given=True)


def batch_tensors(signature: Signature, item: object) -> list[torch.Tensor]:
    """The input tensors of a batch of data; what is beyond the inputs, such as targets, is passed by.

    Raises:
        InputError: it does not fit the signature.
    """
    args, kwargs = call_of(item)
    taken = signature.input_tree.child(0).num_children
    return signature.flatten_inputs(args if kwargs else args[:taken], kwargs)


def call_of(item: object) -> tuple[tuple[object, ...], dict[str, object]]:
    """The call that an item of `inputs` means: an argument tuple, a lone tensor, or a dict by name."""
    if isinstance(item, Mapping):
        return (), {str(name): value for name, value in item.items()}
    return (tuple(item) if isinstance(item, (tuple, list)) else (item,)), {}


def arguments_of(
    signature: Signature, tensors: Sequence[torch.Tensor]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """The call `f(*args, **kwargs)` that the flat tensors stand for, constants put back in."""
    flat = iter(tensors)
    leaves = [s.value if isinstance(s, ConstantSpec) else next(flat) for s in signature.inputs]
    args, kwargs = pytree.tree_unflatten(leaves, signature.input_tree)
    return tuple(args), dict(kwargs)


def _draw(signature: Signature, sizes: dict[str, int], kind: _Kind, seed: int) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    tensors = [_tensor(spec, sizes, kind, generator) for spec in signature.tensor_inputs]
    words = [f"{name}={size}" for name, size in sizes.items()]
    ordinary = kind in (_Kind.NORMAL, _Kind.UNMASKED)
    return Sample(", ".join([*words, kind.words, f"seed {seed}"]), sizes, tensors, is_ordinary=ordinary)


def _tensor(spec: TensorSpec, sizes: dict[str, int], kind: _Kind, generator: torch.Generator) -> torch.Tensor:
    try:
        shape = tuple(evaluate_dim(d, sizes) for d in spec.shape)
    except KeyError as error:
        raise InputError(f"input {spec}: no size is given for {error}") from None
    if spec.dtype is torch.bool:
        values = _mask(shape, kind, generator)
    elif spec.dtype.is_floating_point:
        values = _floats(spec.dtype, shape, kind, generator)
    elif spec.dtype.is_complex:
        raise InputError(f"input {spec}: complex inputs can't be drawn; pass inputs=")
    else:
        values = _integers(spec, shape, kind, generator)
    return values.to(spec.dtype).to(spec.device)


def _mask(shape: tuple[int, ...], kind: _Kind, generator: torch.Generator) -> torch.Tensor:
    if kind.masks == "some":
        return torch.randint(0, 2, shape, generator=generator)
    return torch.full(shape, int(kind.masks == "all"))


def _integers(
    spec: TensorSpec, shape: tuple[int, ...], kind: _Kind, generator: torch.Generator
) -> torch.Tensor:
    """Uniform in the spec's range (0 to 1 where none is known), both ends at random places."""
    info = torch.iinfo(spec.dtype)
    low = max(0 if spec.low is None else spec.low, info.min)
    high = min(1 if spec.high is None else spec.high, info.max)
    if low > high:
        raise InputError(f"input {spec}: the range {spec.low} to {spec.high} holds no value")
    if (low, high) == (0, 1):
        return _mask(shape, kind, generator)
    if kind is _Kind.ZEROS:
        return torch.full(shape, min(max(low, 0), high), dtype=torch.int64)
    top = min(high, torch.iinfo(torch.int64).max - 1)  # randint's upper end is exclusive
    values = torch.randint(low, top + 1, shape, generator=generator)
    places = torch.randperm(values.numel(), generator=generator)[:2]
    if places.numel():
        values.view(-1)[places] = torch.tensor([high, low][: places.numel()])
    return values


def _floats(
    dtype: torch.dtype, shape: tuple[int, ...], kind: _Kind, generator: torch.Generator
) -> torch.Tensor:
    exact = torch.float64 if dtype is torch.float64 else torch.float32
    if kind is _Kind.ZEROS:
        return torch.zeros(shape, dtype=exact)
    values = torch.randn(shape, generator=generator, dtype=exact)
    if kind is not _Kind.SPECIAL:
        return values
    palette = torch.tensor(_special_values(dtype), dtype=exact)
    special = palette[torch.randint(0, len(palette), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < 0.5, values, special)


def _special_values(dtype: torch.dtype) -> list[float]:
    """Zeros, ones, ties, numbers whose exponential is still finite in the dtype, and subnormal ones."""
    large = 8.0 if dtype.itemsize < 4 and dtype is not torch.bfloat16 else 64.0
    subnormal = torch.finfo(dtype).smallest_normal / 2
    return [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, large, -large, subnormal, -subnormal]
