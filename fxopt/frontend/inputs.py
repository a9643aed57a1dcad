"""Example inputs: names for every leaf, dynamic sizes in torch.export's form or the short one, sizes that generalise.

The short form names axes by input: `{"x": {0: "batch"}}`. An axis that the example gives as 0 or 1 would be burned in by
torch.export, so the example is repeated along it before tracing.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.export import Dim
from torch.export.dynamic_shapes import ShapesCollection
from torch.utils import _pytree as pytree

from fxopt.errors import TraceError

__all__ = ["DynamicShapes", "Example", "example_inputs", "resized"]

DynamicShapes = Mapping[str, object] | Sequence[object] | None

_UNNAMED = (Dim.AUTO, Dim.DYNAMIC)


@dataclass
class Example:
    """A call of the model: its arguments, and for each leaf its name and its dynamic axes.

    `axes[i]` maps an axis of leaf i to the dimension's name; `hints[i]` to what torch.export is told about it.
    """

    args: tuple[object, ...]
    kwargs: dict[str, object]
    names: list[str]
    axes: list[dict[int, str]]
    hints: list[dict[int, object]]
    arguments: tuple[str, ...]

    @property
    def leaves(self) -> list[object]:
        """The arguments, flat."""
        return pytree.tree_leaves((self.args, self.kwargs))

    def with_leaves(self, leaves: list[object]) -> "Example":
        """The same call with other leaves."""
        args, kwargs = pytree.tree_unflatten(leaves, pytree.tree_structure((self.args, self.kwargs)))
        return Example(args, kwargs, self.names, self.axes, self.hints, self.arguments)

    def shapes(self) -> ShapesCollection | None:
        """The dynamic axes as torch.export takes them, keyed by tensor."""
        if not any(self.hints):
            return None
        collection = ShapesCollection()
        for leaf, hints in zip(self.leaves, self.hints, strict=True):
            if hints:
                collection[leaf] = hints
        return collection


def example_inputs(
    forward: Callable[..., object],
    args: tuple[object, ...] | None,
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
    positional = (args,) if isinstance(args, torch.Tensor) else tuple(args or ())
    named = dict(kwargs or {})
    signature = inspect.signature(forward)
    try:
        bound = signature.bind(*positional, **named).arguments
    except TypeError as error:
        raise TraceError(f"the example inputs do not fit forward{signature}: {error}") from None
    positional, named = _fresh(positional, named)
    top = _top_level(signature, positional, named)
    names = [n for name, value in top for n in _leaf_names(name, value)]
    specs = _specs_by_argument(dynamic_shapes, list(bound), top, names)
    dims = [d for (name, value), spec in zip(top, specs, strict=True) for d in _leaf_dims(name, value, spec)]
    hints, axes = _hints_and_names(names, dims)
    arguments = _argument_names(signature, len(positional), named)
    example = Example(positional, named, names, axes, hints, arguments)
    _check_axes(example)
    return _generalised(example)


def _fresh(args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[tuple[object, ...], dict[str, object]]:
    """Distinct tensor objects, so that export's marks stay off the caller's and no two leaves are one object."""
    return pytree.tree_map(  # type: ignore[no-any-return]
        lambda t: t.detach() if isinstance(t, torch.Tensor) else t, (args, kwargs)
    )


def _top_level(
    signature: inspect.Signature, args: tuple[object, ...], kwargs: dict[str, object]
) -> list[tuple[str, object]]:
    """The arguments in the order of the flattened call, each with its parameter's name."""
    named: list[tuple[str, object]] = []
    parameters = list(signature.parameters.values())
    for i, value in enumerate(args):
        parameter = parameters[min(i, len(parameters) - 1)] if parameters else None
        if parameter is None or parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            first = len(parameters) - 1 if parameter is None else parameters.index(parameter)
            named.append((f"{parameter.name if parameter else 'input'}_{i - max(first, 0)}", value))
        else:
            named.append((parameter.name, value))
    return [*named, *kwargs.items()]


def _argument_names(signature: inspect.Signature, count: int, kwargs: dict[str, object]) -> tuple[str, ...]:
    """The names by which the traced arguments can also be passed."""
    parameters = list(signature.parameters.values())
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return ()
    names = [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
    return tuple([*names, *(k for k in kwargs if k not in names)]) if len(names) >= count else ()


def _leaf_names(name: str, value: object) -> list[str]:
    paths, _ = pytree.tree_flatten_with_path(value)
    return ["_".join([name, *(_key_text(k) for k in path)]) for path, _ in paths]


def _key_text(key: object) -> str:
    for attribute in ("idx", "key", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _specs_by_argument(
    dynamic_shapes: DynamicShapes, bound: list[str], top: list[tuple[str, object]], names: list[str]
) -> list[object]:
    """One spec an argument of the flattened call (None: static)."""
    if dynamic_shapes is None:
        return [None] * len(top)
    if isinstance(dynamic_shapes, ShapesCollection):
        raise TraceError("dynamic_shapes: pass a dict or tuple, not a ShapesCollection")
    if not isinstance(dynamic_shapes, Mapping):
        if len(dynamic_shapes) > len(top):
            raise TraceError(f"dynamic_shapes has {len(dynamic_shapes)} entries for {len(top)} inputs")
        return [*dynamic_shapes, *([None] * (len(top) - len(dynamic_shapes)))]
    by_name: dict[str, object] = dict(dynamic_shapes)
    for name in bound:  # forward(*args): export's form is one nested entry
        spec = by_name.get(name)
        if name not in [n for n, _ in top] and isinstance(spec, (list, tuple)):
            del by_name[name]
            by_name |= {f"{name}_{i}": s for i, s in enumerate(spec)}
    known = [n for n, _ in top]
    for key in by_name:
        if key not in known and key not in names and by_name[key] is not None:
            close = difflib.get_close_matches(str(key), [*known, *names], 1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; the inputs are {', '.join(names)}"
            raise TraceError(f"dynamic_shapes names {key!r}, which is no input{hint}")
    return [_argument_spec(name, value, by_name) for name, value in top]


def _argument_spec(name: str, value: object, by_name: dict[str, object]) -> object:
    """The spec of one argument: given under its name, or leaf by leaf under the leaves' names."""
    if name in by_name:
        return by_name[name]
    leaves = _leaf_names(name, value)
    if not any(leaf in by_name for leaf in leaves):
        return None
    return _ByLeaf([by_name.get(leaf) for leaf in leaves])


class _ByLeaf(list[object]):
    """Specs of an argument's leaves, flat."""


def _leaf_dims(name: str, value: object, spec: object) -> list[dict[int, object]]:
    """For each leaf of an argument, the dimension given for each dynamic axis."""
    if isinstance(spec, _ByLeaf):
        leaves = pytree.tree_leaves(value)
        return [d for leaf, s in zip(leaves, spec, strict=True) for d in _leaf_dims(name, leaf, s)]
    if isinstance(value, torch.Tensor):
        return [_tensor_dims(name, value, spec)]
    children, tree = pytree.tree_flatten(value, is_leaf=lambda v: v is not value)
    if tree.is_leaf():
        if spec is not None:
            raise TraceError(f"dynamic_shapes gives sizes for {name!r}, which is no tensor")
        return [{}]
    if spec is None:
        return [{} for _ in pytree.tree_leaves(value)]
    if isinstance(spec, Mapping):
        keys = list(value) if isinstance(value, Mapping) else list(spec)
        entries: list[object] = [spec.get(k) for k in keys]
    elif isinstance(spec, (list, tuple)):
        entries = list(spec)
    else:
        raise TraceError(f"dynamic_shapes for {name!r} must mirror its structure, got {spec!r}")
    if len(entries) != len(children):
        raise TraceError(f"dynamic_shapes for {name!r} has {len(entries)} entries, the input has {len(children)}")
    return [d for child, entry in zip(children, entries, strict=True) for d in _leaf_dims(name, child, entry)]


def _tensor_dims(name: str, tensor: torch.Tensor, spec: object) -> dict[int, object]:
    if spec is None:
        return {}
    if isinstance(spec, Mapping):
        entries: Iterable[tuple[object, object]] = spec.items()
    elif isinstance(spec, (list, tuple)):
        if len(spec) != tensor.dim():
            raise TraceError(f"dynamic_shapes for {name!r} has {len(spec)} axes, the input has {tensor.dim()}")
        entries = enumerate(spec)
    else:
        raise TraceError(f"dynamic_shapes for {name!r} must be {{axis: name}}, got {spec!r}")
    dims: dict[int, object] = {}
    for axis, dim in entries:
        if not isinstance(axis, int) or not -tensor.dim() <= axis < tensor.dim():
            raise TraceError(f"dynamic_shapes names axis {axis!r} of {name!r}, which has {tensor.dim()} axes")
        if dim is not None and not isinstance(dim, int) and dim is not Dim.STATIC:
            dims[axis % tensor.dim()] = dim
    return dims


def _hints_and_names(
    names: list[str], dims: list[dict[int, object]]
) -> tuple[list[dict[int, object]], list[dict[int, str]]]:
    """What export is told, and the user's names. A plain name becomes `Dim.DYNAMIC`, which accepts `n // 2` and the like."""
    hints: list[dict[int, object]] = []
    axes: list[dict[int, str]] = []
    for name, entry in zip(names, dims, strict=True):
        hint: dict[int, object] = {}
        axis_names: dict[int, str] = {}
        for axis, dim in entry.items():
            if isinstance(dim, str):
                if not dim.isidentifier():
                    raise TraceError(f"dynamic_shapes: {dim!r} is no name for a dimension (letters, digits, _)")
                hint[axis], axis_names[axis] = Dim.DYNAMIC, dim
            elif isinstance(dim, Dim):
                hint[axis], axis_names[axis] = dim, dim.__name__
            elif isinstance(dim, type(Dim.AUTO)):
                hint[axis], axis_names[axis] = dim, f"{name}_{axis}"
            else:
                raise TraceError(f"dynamic_shapes: axis {axis} of {name!r} is {dim!r}; expected a name or a Dim")
        hints.append(hint)
        axes.append(axis_names)
    return hints, axes


def _check_axes(example: Example) -> None:
    """Axes of one name must have one size in the example."""
    sizes: dict[str, tuple[int, str]] = {}
    for leaf, name, axes in zip(example.leaves, example.names, example.axes, strict=True):
        for axis, dim in axes.items():
            assert isinstance(leaf, torch.Tensor)
            size, first = sizes.setdefault(dim, (leaf.shape[axis], name))
            if size != leaf.shape[axis]:
                raise TraceError(
                    f"the dynamic size {dim!r} is {size} in {first!r} and {leaf.shape[axis]} in {name!r}"
                )


def resized(tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """The tensor repeated or cut along an axis, values kept valid (token ids, masks).

    >>> resized(torch.tensor([1, 2]), 0, 3).tolist()
    [1, 2, 1]
    """
    old = tensor.shape[axis]
    if old == 0:
        shape = [size if i == axis else d for i, d in enumerate(tensor.shape)]
        return tensor.new_zeros(shape)
    return tensor.index_select(axis, torch.arange(size, device=tensor.device) % old)


def _generalised(example: Example) -> Example:
    """The example with every dynamic axis of size 0 or 1 repeated to 2: export burns in 0 and 1."""
    leaves: list[object] = []
    for leaf, axes in zip(example.leaves, example.axes, strict=True):
        for axis in axes:
            if isinstance(leaf, torch.Tensor) and leaf.shape[axis] < 2:
                leaf = resized(leaf, axis, 2)  # noqa: PLW2901
        leaves.append(leaf)
    return example.with_leaves(leaves)
