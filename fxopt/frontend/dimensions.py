"""Which sizes vary: `dynamic_shapes` in torch.export's form or the short one, as one dict of axes a leaf.

The short form names axes by input, `{"x": {0: "batch"}}`; sizes of one name are equal, and an expression such
as "2*batch" is tied to them.

>>> read_axes({"x": {0: "batch"}, "y": {-1: "2*batch"}}, [("x", torch.zeros(2, 3)), ("y", torch.zeros(4))])
[{0: Axis(name='batch')}, {0: Axis(name='2*batch')}]
"""

import ast
import dataclasses
import keyword
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.export import Dim
from torch.export.dynamic_shapes import _DerivedDim, _DimHint, _StaticDim
from torch.utils import _pytree as pytree

from fxopt.errors import TraceError, nearest

__all__ = ["Axis", "DynamicShapes", "leaf_names", "read_axes"]

DynamicShapes = Mapping[str, object] | Sequence[object] | None
_AUTO, _DYNAMIC = Dim.AUTO, Dim.DYNAMIC


@dataclass(frozen=True)
class Axis:
    """A dynamic axis: the user's name or expression for its size, if given, and the range asked for."""

    name: str | None
    low: int | None = field(default=None, repr=False)
    high: int | None = field(default=None, repr=False)
    required: bool = field(default=True, repr=False)
    """Whether a model that fixes the size is an error (all but `Dim.AUTO`)."""
    dim: object = field(default=None, repr=False, compare=False)
    """torch's `Dim` where sizes are tied by an expression; torch infers all others."""

    @property
    def hint(self) -> object:
        """What torch.export is told."""
        return _AUTO if self.dim is None else self.dim

    @property
    def is_expression(self) -> bool:
        """Whether the size follows from others."""
        return self.name is not None and not self.name.isidentifier()


def leaf_names(name: str, value: object) -> list[str]:
    """The leaves' names of an argument: `x`, or `x_0`, `x_key` within a container."""
    paths, _ = pytree.tree_flatten_with_path(value)
    return ["_".join([name, *map(_key_text, path)]) for path, _ in paths]


def _key_text(key: object) -> str:
    return str(next((getattr(key, a) for a in ("idx", "key", "name") if hasattr(key, a)), key))


def read_axes(
    dynamic_shapes: Mapping[str, object], arguments: list[tuple[str, object]]
) -> list[dict[int, Axis]]:
    """The dynamic axes of every leaf.

    Args:
        dynamic_shapes: by argument's or leaf's name, each a structure like the argument's with `{axis: size}`
            or a tuple of sizes in the tensors' places (one `{axis: size}` for a whole container goes for each
            tensor in it); a size is a name, an expression, a `Dim`, or static.
        arguments: name and value, in call order.

    Raises:
        TraceError: it does not fit the arguments; names what does not.
    """
    names = [n for name, value in arguments for n in leaf_names(name, value)]
    _check_names(dynamic_shapes, [n for n, _ in arguments], names)
    axes = [a for name, value in arguments for a in _argument_axes(name, value, dynamic_shapes)]
    return _tie(axes)


def _check_names(dynamic_shapes: Mapping[str, object], arguments: list[str], leaves: list[str]) -> None:
    for key, spec in dynamic_shapes.items():
        if key not in arguments and key not in leaves and spec is not None:
            close = nearest(str(key), [*arguments, *leaves])
            hint = f"; did you mean {close!r}?" if close else f"; the inputs are {', '.join(leaves)}"
            raise TraceError(f"dynamic_shapes names {key!r}, which is no input{hint}")


def _argument_axes(name: str, value: object, shapes: Mapping[str, object]) -> list[dict[int, Axis]]:
    """The axes of an argument, given under its own name or leaf by leaf under the leaves' names."""
    leaves = leaf_names(name, value)
    if name in shapes:
        return _axes(name, value, shapes[name])
    if not any(leaf in shapes for leaf in leaves):
        return [{} for _ in leaves]
    return [
        a
        for leaf, tensor in zip(leaves, pytree.tree_leaves(value), strict=True)
        for a in _axes(leaf, tensor, shapes.get(leaf))
    ]


def _axes(name: str, value: object, spec: object) -> list[dict[int, Axis]]:
    """The axes of each leaf of a value, from a spec of its structure."""
    if isinstance(value, torch.Tensor):
        return [_tensor_axes(name, value, spec)]
    children, tree = pytree.tree_flatten(value, is_leaf=lambda v: v is not value)
    if tree.is_leaf():
        if spec is not None and spec != value and spec is not Dim.STATIC:
            raise TraceError(
                f"dynamic_shapes gives {name!r} a size, but it is no tensor ({value!r}): it stays fixed"
            )
        return [{}]
    if spec is None:
        return [{} for _ in pytree.tree_leaves(value)]
    if isinstance(spec, Mapping) and _is_for_each(value, spec):
        return _axes_of_each(name, value, spec)
    if isinstance(spec, Mapping):
        keys = list(value) if isinstance(value, Mapping) else list(spec)
        unknown = [k for k in spec if k not in keys]
        if unknown:
            raise TraceError(
                f"dynamic_shapes for {name!r} names {unknown[0]!r}; it has {', '.join(map(str, keys))}"
            )
        entries: list[object] = [spec.get(k) for k in keys]
    elif isinstance(spec, (list, tuple)):
        entries = list(spec)
    else:
        raise TraceError(f"dynamic_shapes for {name!r} must mirror its structure, got {spec!r}")
    if len(entries) != len(children):
        raise TraceError(
            f"dynamic_shapes for {name!r} has {len(entries)} entries, the input has {len(children)}"
        )
    return [
        a
        for i, (child, entry) in enumerate(zip(children, entries, strict=True))
        for a in _axes(f"{name}[{i}]", child, entry)
    ]


def _is_for_each(value: object, spec: Mapping[object, object]) -> bool:
    """Whether `{axis: size}` is given for a whole container, such as a cache."""
    axes = bool(spec) and all(isinstance(k, int) for k in spec)
    sizes = not any(s is None or isinstance(s, (Mapping, list, tuple)) for s in spec.values())
    return axes and sizes and not (isinstance(value, Mapping) and set(spec) <= set(value))


def _axes_of_each(name: str, value: object, spec: Mapping[object, object]) -> list[dict[int, Axis]]:
    """The axes of every tensor in a container, as far as each has them (a cache may hold a counter)."""
    leaves = pytree.tree_leaves(value)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    rank = max((t.dim() for t in tensors), default=0)
    outside = next((k for k in spec if isinstance(k, int) and not -rank <= k < rank), None)
    if outside is not None:
        raise TraceError(
            f"dynamic_shapes names axis {outside} of {name!r}, whose tensors have at most {rank} axes"
        )
    return [
        _tensor_axes(name, leaf, {k: s for k, s in spec.items() if -leaf.dim() <= k < leaf.dim()})  # type: ignore[operator]  # int keys
        if isinstance(leaf, torch.Tensor)
        else {}
        for leaf in leaves
    ]


def _tensor_axes(name: str, tensor: torch.Tensor, spec: object) -> dict[int, Axis]:
    if spec is None:
        return {}
    if isinstance(spec, Mapping):
        entries: Iterable[tuple[object, object]] = spec.items()
    elif isinstance(spec, (list, tuple)):
        if len(spec) != tensor.dim():
            raise TraceError(
                f"dynamic_shapes for {name!r} has {len(spec)} axes, the input has {tensor.dim()}"
            )
        entries = enumerate(spec)
    else:
        raise TraceError(f"dynamic_shapes for {name!r} must be {{axis: name}}, got {spec!r}")
    axes: dict[int, Axis] = {}
    for index, size in entries:
        if not isinstance(index, int) or not -tensor.dim() <= index < tensor.dim():
            raise TraceError(
                f"dynamic_shapes names axis {index!r} of {name!r}, which has {tensor.dim()} axes"
            )
        axis = index % tensor.dim()
        read = _axis(name, axis, tensor.shape[axis], size)
        if read is not None:
            axes[axis] = read
    return axes


def _axis(name: str, axis: int, actual: int, size: object) -> Axis | None:
    """One size; None for a static one."""
    if isinstance(size, _StaticDim):
        size = size.value
    if isinstance(size, int) and not isinstance(size, bool):
        if size != actual:
            raise TraceError(
                f"dynamic_shapes gives axis {axis} of {name!r} as {size}, the example has {actual}"
            )
        return None
    if size is None or size is Dim.STATIC:
        return None
    if isinstance(size, str):
        return Axis(_checked_name(size))
    if isinstance(size, _DerivedDim):
        return Axis(size.__name__, dim=size)
    if isinstance(size, Dim):
        return Axis(size.__name__, int(size.min), _finite(size.max), dim=None)
    if isinstance(size, _DimHint):
        return Axis(None, size.min, size.max, required=size.type is not _AUTO.type)
    raise TraceError(
        f"dynamic_shapes: axis {axis} of {name!r} is {size!r}; expected a name such as 'batch', or a Dim"
    )


def _finite(bound: object) -> int | None:
    return bound if isinstance(bound, int) and bound < 2**31 else None


def _checked_name(text: str) -> str:
    """A name, or an expression in canonical spacing."""
    if text.isidentifier() and not keyword.iskeyword(text):
        return text
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        _derived(tree, {})
    except (SyntaxError, ValueError, AssertionError, NotImplementedError):
        raise TraceError(
            f"dynamic_shapes: {text!r} is no name for a size (letters, digits, _) "
            "nor an expression such as '2*batch + 1'"
        ) from None
    return ast.unparse(tree).replace(" * ", "*")


def _derived(tree: ast.expr, roots: dict[str, Dim]) -> Dim:
    """The Dim for an expression of one name and whole numbers."""
    match tree:
        case ast.Name(id=name):
            return roots.setdefault(name, Dim(name))
        case ast.BinOp(left=ast.Constant(value=int(number)), op=ast.Mult(), right=right):
            return number * _derived(right, roots)
        case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(number))):
            return _derived(left, roots) * number
        case ast.BinOp(left=left, op=ast.Add(), right=ast.Constant(value=int(number))):
            return _derived(left, roots) + number
        case ast.BinOp(left=left, op=ast.Sub(), right=ast.Constant(value=int(number))):
            return _derived(left, roots) - number
    raise ValueError("no linear expression of one name")


def _tie(axes: list[dict[int, Axis]]) -> list[dict[int, Axis]]:
    """Gives Dims to sizes that expressions relate; torch puts the expression in the second's place."""
    roots: dict[str, Dim] = {}
    for axis in (a for leaf in axes for a in leaf.values() if a.is_expression):
        if isinstance(axis.dim, _DerivedDim):
            roots.setdefault(axis.dim.root.__name__, axis.dim.root)
        else:
            _derived(ast.parse(str(axis.name), mode="eval").body, roots)
    return [{i: _tied(axis, roots) for i, axis in leaf.items()} for leaf in axes]


def _tied(axis: Axis, roots: dict[str, Dim]) -> Axis:
    if axis.name in roots:
        return dataclasses.replace(axis, dim=roots[axis.name])
    if axis.is_expression and axis.dim is None:
        return dataclasses.replace(axis, dim=_derived(ast.parse(str(axis.name), mode="eval").body, roots))
    return axis
