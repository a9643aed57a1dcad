"""Example inputs: a call of the model, a name for every leaf, sizes that generalise.

torch.export burns in sizes of 0 and 1, so an example is repeated along such an axis before tracing.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.export import AdditionalInputs, ShapesCollection
from torch.utils import _pytree as pytree

from fxopt.errors import TraceError
from fxopt.frontend.diagnose import first_line
from fxopt.frontend.dimensions import Axis, DynamicShapes, leaf_names, read_axes
from fxopt.program.containers import numpy_hint
from fxopt.program.signature import evaluate_dim

__all__ = ["DynamicShapes", "Example", "example_inputs", "resized"]

_LITERALS = (bool, int, float, str, type(None))
_POSITIONAL, _KEYWORDS = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


@dataclass(frozen=True)
class Example:
    """A call of the model: its arguments, and for each leaf its name and its dynamic axes."""

    args: tuple[object, ...]
    kwargs: dict[str, object]
    names: tuple[str, ...]
    axes: tuple[dict[int, Axis], ...]
    arguments: tuple[str, ...]
    """Names by which the arguments, positional ones first, can also be passed."""
    defaults: dict[str, int | float | bool | str | None] = field(default_factory=dict)
    """The model's own defaults, those that are literals."""

    @property
    def leaves(self) -> list[object]:
        """The arguments, flat."""
        return pytree.tree_leaves((self.args, self.kwargs))

    @property
    def named(self) -> dict[str, object]:
        """The leaves by name."""
        return dict(zip(self.names, self.leaves, strict=True))

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The leaves that are tensors."""
        return [leaf for leaf in self.leaves if isinstance(leaf, torch.Tensor)]

    def with_leaves(self, leaves: list[object]) -> "Example":
        """The same call with other leaves."""
        args, kwargs = pytree.tree_unflatten(leaves, pytree.tree_structure((self.args, self.kwargs)))
        return dataclasses.replace(self, args=args, kwargs=kwargs)

    def on_meta(self) -> "Example":
        """The same call without values, for a model without."""
        return self.with_leaves([x.to("meta") if isinstance(x, torch.Tensor) else x for x in self.leaves])

    def copied(self) -> tuple[tuple[object, ...], dict[str, object]]:
        """Arguments for one run of the model, which may write to them."""
        copied = self.with_leaves([x.clone() if isinstance(x, torch.Tensor) else x for x in self.leaves])
        return copied.args, copied.kwargs

    def shapes(self, model: nn.Module) -> dict[str, object] | None:
        """The dynamic axes as torch.export takes them for a call of the model."""
        if not any(self.axes):
            return None
        collection = ShapesCollection()
        for leaf, axes in zip(self.leaves, self.axes, strict=True):
            if axes:
                collection[leaf] = {i: axis.hint for i, axis in axes.items()}
        build: Callable[..., dict[str, object]] = collection.dynamic_shapes
        return build(model, self.args, self.kwargs)


def example_inputs(
    forward: Callable[..., object],
    args: Sequence[object] | torch.Tensor | None,
    kwargs: Mapping[str, object] | None,
    dynamic_shapes: DynamicShapes,
) -> Example:
    """Names the leaves of a call and reads its dynamic shapes.

    Args:
        forward: the model's forward, whose parameter names become input names.
        args: positional example inputs; a single tensor is taken as `(tensor,)`.
        kwargs: keyword example inputs.
        dynamic_shapes: torch.export's form, or the short form with strings as dimensions.

    Raises:
        TraceError: the arguments do not fit `forward`, or `dynamic_shapes` does not fit the arguments.
    """
    positional, named = _arguments(args, kwargs)
    signature = inspect.signature(forward)
    try:
        bound = signature.bind(*positional, **named).arguments
    except TypeError as error:
        raise TraceError(f"the example inputs do not fit {_described(forward, signature)}: {error}") from None
    if isinstance(dynamic_shapes, (ShapesCollection, AdditionalInputs)):
        dynamic_shapes = _collected(dynamic_shapes, forward, positional, named)
    positional, named = _fresh(positional, named)
    top = _top_level(signature, positional, named)
    names = tuple(_unique(n for name, value in top for n in leaf_names(name, value)))
    for name, leaf in zip(names, pytree.tree_leaves((positional, named)), strict=True):
        _check_leaf(name, leaf)
    shapes = _by_name(dynamic_shapes, signature, list(bound), top)
    axes = tuple(read_axes(shapes, top))
    arguments = _argument_names(signature, len(positional), named)
    example = Example(positional, named, names, axes, arguments, _defaults(signature))
    return _generalised(example)


def _arguments(
    args: Sequence[object] | torch.Tensor | None, kwargs: Mapping[str, object] | None
) -> tuple[tuple[object, ...], dict[str, object]]:
    if args is not None and not isinstance(args, (torch.Tensor, tuple, list)):
        hint = "; keyword arguments are kwargs" if isinstance(args, Mapping) else ""
        raise TraceError(f"args must be a tuple of example inputs, got {type(args).__name__}{hint}")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TraceError(f"kwargs must be a dict of example inputs by name, got {type(kwargs).__name__}")
    positional = (args,) if isinstance(args, torch.Tensor) else tuple(args or ())
    return positional, dict(kwargs or {})


def _described(forward: Callable[..., object], signature: inspect.Signature) -> str:
    code = getattr(inspect.unwrap(forward), "__code__", None)
    place = f" at {code.co_filename}:{code.co_firstlineno}" if code is not None else ""
    return f"forward{signature}{place}"


def _collected(
    shapes: ShapesCollection | AdditionalInputs,
    forward: Callable[..., object],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> Mapping[str, object]:
    """A builder of torch's in dict form; it knows the caller's own tensors."""
    build: Callable[..., Mapping[str, object]] = shapes.dynamic_shapes
    try:
        return dict(build(forward, args, kwargs))
    except (ValueError, AssertionError, TypeError) as error:
        raise TraceError(f"dynamic_shapes does not fit the example inputs: {first_line(error)}") from error


def _fresh(
    args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Distinct tensor objects: export's marks stay off the caller's, and no two leaves are one object.

    What was made in inference mode is copied: such a tensor can't be used outside it.
    """

    def fresh(leaf: object) -> object:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return leaf.clone() if leaf.is_inference() else leaf.detach()

    return pytree.tree_map(fresh, (args, kwargs))  # type: ignore[no-any-return]


def _check_leaf(name: str, leaf: object) -> None:
    if isinstance(leaf, torch.Tensor):
        if leaf.is_complex():
            raise TraceError(
                f"input {name!r} is complex ({leaf.dtype}): "
                "complex numbers are not supported, pass real and imaginary parts"
            )
        if leaf.layout is not torch.strided or leaf.is_nested:
            kind = "nested" if leaf.is_nested else str(leaf.layout).removeprefix("torch.")
            raise TraceError(f"input {name!r} is a {kind} tensor: only dense tensors are supported")
    elif type(leaf) not in _LITERALS:
        wanted = "pass tensors, numbers, strings, None, or tuples, lists and dicts of them"
        raise TraceError(f"input {name!r} is a {type(leaf).__name__}: {numpy_hint(name, leaf) or wanted}")


def _top_level(
    signature: inspect.Signature, args: tuple[object, ...], kwargs: dict[str, object]
) -> list[tuple[str, object]]:
    """The arguments in the order of the flattened call, each with its parameter's name."""
    parameters = list(signature.parameters.values())
    first = next((i for i, p in enumerate(parameters) if p.kind is _POSITIONAL), len(parameters))
    named: list[tuple[str, object]] = [(p.name, a) for p, a in zip(parameters[:first], args, strict=False)]
    named += [(f"{parameters[first].name}_{i}", a) for i, a in enumerate(args[first:])]
    return [*named, *kwargs.items()]


def _unique(names: Iterator[str]) -> Iterator[str]:
    """The names, a number behind a repeated one."""
    used: set[str] = set()
    for name in names:
        unique, count = name, 1
        while unique in used:
            count += 1
            unique = f"{name}_{count}"
        used.add(unique)
        yield unique


def _argument_names(signature: inspect.Signature, count: int, kwargs: dict[str, object]) -> tuple[str, ...]:
    """The names by which the traced arguments can also be passed, in the order of positions."""
    parameters = list(signature.parameters.values())
    if any(p.kind is _POSITIONAL for p in parameters):
        return ()
    names = [p.name for p in parameters if p.kind is not _KEYWORDS]
    return (*names, *(k for k in kwargs if k not in names)) if len(names) >= count else ()


def _defaults(signature: inspect.Signature) -> dict[str, int | float | bool | str | None]:
    return {n: p.default for n, p in signature.parameters.items() if type(p.default) in _LITERALS}


def _by_name(
    shapes: DynamicShapes, signature: inspect.Signature, bound: list[str], top: list[tuple[str, object]]
) -> dict[str, object]:
    """Any form of dynamic_shapes as a dict by argument."""
    names = [n for n, _ in top]
    if shapes is None:
        return {}
    if not isinstance(shapes, Mapping):
        if isinstance(shapes, str) or not isinstance(shapes, Sequence):
            raise TraceError(
                f"dynamic_shapes must be a dict or a tuple with an entry an input, got {shapes!r}"
            )
        order = bound if len(shapes) == len(bound) else names
        if len(shapes) > len(order):
            raise TraceError(f"dynamic_shapes has {len(shapes)} entries for {len(names)} inputs")
        shapes = dict(zip(order, shapes, strict=False))
    given: dict[str, object] = {}
    for name, spec in shapes.items():
        given |= _expanded(str(name), spec, signature, names)
    return given


def _expanded(name: str, spec: object, signature: inspect.Signature, names: list[str]) -> dict[str, object]:
    """What torch's form gives for `*args` or `**kwargs` as a whole, for each argument in it."""
    parameter = signature.parameters.get(name)
    if parameter is None or name in names:
        return {name: spec}
    if parameter.kind is _KEYWORDS and isinstance(spec, Mapping):
        return {str(k): v for k, v in spec.items()}
    if parameter.kind is _POSITIONAL:
        several = spec if isinstance(spec, (tuple, list)) else (spec,)
        return {f"{name}_{i}": s for i, s in enumerate(several)}
    return {name: spec}


def _known_sizes(example: Example) -> dict[str, int]:
    """The named sizes of an example.

    Raises:
        TraceError: two uses of a name differ.
    """
    sizes: dict[str, int] = {}
    first: dict[str, str] = {}
    for leaf, name, axes in zip(example.leaves, example.names, example.axes, strict=True):
        for i, axis in axes.items():
            assert isinstance(leaf, torch.Tensor)
            if axis.name is None or axis.is_expression:
                continue
            size = sizes.setdefault(axis.name, leaf.shape[i])
            where = first.setdefault(axis.name, name)
            if size != leaf.shape[i]:
                raise TraceError(
                    f"the dynamic size {axis.name!r} is {size} in {where!r} and {leaf.shape[i]} in {name!r}"
                )
    for leaf, name, axes in zip(example.leaves, example.names, example.axes, strict=True):
        for i, axis in axes.items():
            expected = _expected(axis, sizes)
            assert isinstance(leaf, torch.Tensor)
            if expected is not None and expected != leaf.shape[i]:
                raise TraceError(
                    f"the dynamic size {axis.name} is {expected} by the other inputs, "
                    f"and {leaf.shape[i]} in {name!r}"
                )
    return sizes


def _expected(axis: Axis, sizes: dict[str, int]) -> int | None:
    """An axis's size by name; None where it has none or the names are not known."""
    try:
        return None if axis.name is None else evaluate_dim(axis.name, sizes)
    except KeyError:
        return None


def resized(tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """The tensor repeated or cut along an axis, values kept valid (token ids, masks).

    >>> resized(torch.tensor([1, 2]), 0, 3).tolist()
    [1, 2, 1]
    """
    old = tensor.shape[axis]
    if old == size:
        return tensor
    if old == 0:
        shape = [size if i == axis else d for i, d in enumerate(tensor.shape)]
        return tensor.new_zeros(shape)
    return tensor.index_select(axis, torch.arange(size, device=tensor.device) % old)


def _generalised(example: Example) -> Example:
    """The example with dynamic sizes of 0 and 1, and what is tied to them, at 2: export burns in both."""
    sizes = {name: max(size, 2) for name, size in _known_sizes(example).items()}
    leaves: list[object] = []
    for leaf, axes in zip(example.leaves, example.axes, strict=True):
        for i, axis in axes.items():
            assert isinstance(leaf, torch.Tensor)
            expected = _expected(axis, sizes)
            leaf = resized(leaf, i, max(leaf.shape[i], 2) if expected is None else expected)
        leaves.append(leaf)
    return example.with_leaves(leaves)
