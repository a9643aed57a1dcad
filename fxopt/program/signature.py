"""What a program or artifact takes and returns: names, dtypes, sizes, constants, containers.

Tensors travel flat through graphs and files; the `Signature` turns the user's arguments into that flat list
and the flat outputs back into the user's containers, and checks what it is given.

>>> import torch
>>> spec = TensorSpec("x", torch.float32, ("batch", 8))
>>> str(spec)
'x: f32[batch, 8]'
"""

import ast
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice, takewhile

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import ArtifactError, InputError
from fxopt.program.binding import Known, bind_arguments, same_literal
from fxopt.program.containers import numpy_hint, short_text
from fxopt.program.quantized import Quantized

__all__ = [
    "STATE",
    "ConstantSpec",
    "Dim",
    "ScalarSpec",
    "Signature",
    "Spec",
    "Symbol",
    "TensorSpec",
    "dtype_name",
    "evaluate_dim",
    "named_dtype",
    "solve_sizes",
]

Dim = int | str
"""A size: a number, or an expression over symbol names such as "batch" or "2*batch"."""

STATE = "state."
"""Before the name of a buffer that is an input and an output, and of an output that an input is written to become."""

_SHORT = {
    torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16",
    torch.int64: "i64", torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8",
    torch.bool: "bool", torch.complex64: "c64", torch.complex128: "c128",
}  # fmt: skip


def dtype_name(dtype: torch.dtype) -> str:
    """`f32` for torch.float32; the plain name for dtypes without a short one."""
    return _SHORT.get(dtype, str(dtype).removeprefix("torch."))


def named_dtype(name: str) -> torch.dtype:
    """The dtype of a name such as `float32`.

    Raises:
        ArtifactError: no torch dtype has this name.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ArtifactError(f"unknown dtype {name!r}")
    return dtype


@dataclass(frozen=True)
class Symbol:
    """A dynamic dimension by the user's name, with its inclusive range."""

    name: str
    min: int = 0
    max: int | None = None

    @property
    def limits(self) -> str:
        """The range in words, empty if every size is taken.

        >>> Symbol("batch", max=4).limits, Symbol("batch", 5).limits, Symbol("batch").limits
        ('batch is at most 4', 'batch is at least 5', '')
        """
        parts = [f"at least {self.min}"] * (self.min > 0) + [f"at most {self.max}"] * (self.max is not None)
        return f"{self.name} is {' and '.join(parts)}" if parts else ""

    def takes(self, size: int) -> bool:
        """Whether a size is in the range."""
        return self.min <= size and (self.max is None or size <= self.max)

    def range_text(self) -> str:
        """`from 2 to 9`, `from 2`."""
        return f"from {self.min}" if self.max is None else f"from {self.min} to {self.max}"


@dataclass(frozen=True)
class TensorSpec:
    """A tensor input or output; `low` and `high` bound an integer input's values (inclusive), where known.

    `quantized` says what floats its integers stand for; of a float tensor, that it becomes these integers in a file.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[Dim, ...]
    device: str = "cpu"
    low: int | None = None
    high: int | None = None
    quantized: Quantized | None = None

    @property
    def stands_for_floats(self) -> Quantized | None:
        """What floats its integers stand for; None if it holds floats, or integers for their own sake."""
        return None if self.dtype.is_floating_point else self.quantized

    def __str__(self) -> str:
        return f"{self.name}: {dtype_name(self.dtype)}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class ConstantSpec:
    """A non-tensor argument or result that was fixed at trace time."""

    name: str
    value: int | float | bool | str | None

    def __str__(self) -> str:
        return f"{self.name} = {self.value!r}"


@dataclass(frozen=True)
class ScalarSpec:
    """An output that is a Python number computed from sizes."""

    name: str
    kind: str = "int"

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}"


Spec = TensorSpec | ConstantSpec | ScalarSpec

_BINARY: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
_CALLS: dict[str, Callable[..., int]] = {"max": max, "min": min, "Max": max, "Min": min}


def evaluate_dim(dim: Dim, sizes: dict[str, int]) -> int:
    """The value of a size expression under `sizes`.

    Raises:
        KeyError: it names a symbol that `sizes` lacks.
        ValueError: it is no arithmetic expression.
    """
    if isinstance(dim, int):
        return dim

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int() as number):
                return number
            case ast.Name(id=name):
                return sizes[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return _BINARY[type(op)](value(left), value(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.Call(func=ast.Name(id=name), args=arguments) if name in _CALLS:
                return _CALLS[name](*map(value, arguments))
        raise ValueError(f"{dim!r} is not a size expression")

    if dim in sizes:
        return sizes[dim]
    return value(ast.parse(dim, mode="eval").body)


def solve_sizes(specs: Iterable[Spec], shapes: Iterable[Sequence[int]]) -> dict[str, int]:
    """The symbols' values read off actual shapes: the first plain occurrence of each name.

    Args:
        specs: tensor specs.
        shapes: the actual shapes, in the same order, ranks equal.
    """
    sizes: dict[str, int] = {}
    for spec, shape in zip(specs, shapes, strict=True):
        if isinstance(spec, TensorSpec):
            for dim, size in zip(spec.shape, shape, strict=True):
                if isinstance(dim, str) and dim.isidentifier():
                    sizes.setdefault(dim, int(size))
    return sizes


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs in pytree order, the containers they came in, and the dynamic dimensions.

    `input_tree` is the TreeSpec of `(args, kwargs)`, `output_tree` that of the result. `arguments` are the
    names of the arguments in the order of positions, so that any of them can be passed either way; empty for
    a model of `*args`. `defaults` are the literals that the model's own arguments have where they are left out.
    """

    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    input_tree: pytree.TreeSpec
    output_tree: pytree.TreeSpec
    symbols: dict[str, Symbol] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    defaults: dict[str, int | float | bool | str | None] = field(default_factory=dict)

    @property
    def tensor_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that are tensors, which are a graph's placeholders."""
        return tuple(s for s in self.inputs if isinstance(s, TensorSpec))

    @property
    def computed_outputs(self) -> tuple[TensorSpec | ScalarSpec, ...]:
        """The outputs that a graph computes: all but the constants."""
        return tuple(s for s in self.outputs if not isinstance(s, ConstantSpec))

    @property
    def integer_inputs(self) -> dict[str, Quantized]:
        """By name, the inputs that are integers and stand for floats."""
        return {s.name: q for s in self.tensor_inputs if (q := s.stands_for_floats)}

    @property
    def integer_outputs(self) -> dict[str, Quantized]:
        """By name, the outputs that are integers and stand for floats."""
        return {s.name: q for s in self.outputs if isinstance(s, TensorSpec) and (q := s.stands_for_floats)}

    def in_floats(self) -> "Signature":
        """The same with float32 for what stands for floats."""
        return replace(
            self, inputs=tuple(map(_as_float, self.inputs)), outputs=tuple(map(_as_float, self.outputs))
        )

    def inputs_in_integers(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors of a call of `in_floats`, with the integers that this takes."""
        pairs = zip(self.tensor_inputs, tensors, strict=True)
        return [q.integers(t) if (q := s.stands_for_floats) else t for s, t in pairs]

    def outputs_in_floats(
        self, outputs: Sequence[object], dtype: torch.dtype = torch.float32
    ) -> list[object]:
        """The computed outputs, with the floats that integers stand for, in a floating-point type."""
        specs = self.computed_outputs
        # What has another number of results is told by whoever compares them.
        marks = [getattr(s, "stands_for_floats", None) for s in specs[: len(outputs)]]
        marks += [None] * (len(outputs) - len(marks))
        return [
            q.floats(v, dtype) if q is not None and isinstance(v, torch.Tensor) else v
            for q, v in zip(marks, outputs, strict=True)
        ]

    def flatten_inputs(
        self, args: tuple[object, ...], kwargs: dict[str, object] | None = None
    ) -> list[torch.Tensor]:
        """The tensors of a call in the order of `tensor_inputs`.

        Raises:
            InputError: wrong arity or container, a constant with another value, a wrong dtype or size.
        """
        leaves = self._leaves(args, kwargs or {})
        tensors: list[torch.Tensor] = []
        for spec, leaf in zip(self.inputs, leaves, strict=True):
            if isinstance(spec, TensorSpec):
                tensors.append(_checked(spec, leaf))
            elif isinstance(spec, ConstantSpec) and not same_literal(spec.value, leaf):
                raise InputError(
                    f"input {spec.name!r} was fixed at {spec.value!r} when the model was traced, "
                    f"got {short_text(leaf)}; trace again with the other value"
                )
        self.check_sizes(tensors)
        return tensors

    def check_sizes(self, tensors: Sequence[torch.Tensor]) -> dict[str, int]:
        """The dynamic sizes of a call, consistent with every input's shape.

        Raises:
            InputError: a size differs from the traced one, or two uses of one name differ.
        """
        specs = self.tensor_inputs
        sizes = solve_sizes(specs, [t.shape for t in tensors])
        for spec, tensor in zip(specs, tensors, strict=True):
            for axis, (dim, size) in enumerate(zip(spec.shape, tensor.shape, strict=True)):
                try:
                    expected = evaluate_dim(dim, sizes)
                except KeyError:
                    continue
                if expected != size:
                    how = f"{dim} = {expected}" if isinstance(dim, str) else str(expected)
                    hint = "" if isinstance(dim, str) else "; trace with dynamic_shapes to let it vary"
                    raise InputError(f"input {spec} has size {size} at axis {axis}, expected {how}{hint}")
        for name, size in sizes.items():
            symbol = self.symbols.get(name)
            if symbol is not None and not symbol.takes(size):
                raise InputError(
                    f"the dynamic size {name} is {size}, the model takes it {symbol.range_text()}"
                )
        return sizes

    def _leaves(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> list[object]:
        leaves, tree = pytree.tree_flatten((tuple(args), dict(kwargs)))
        if tree == self.input_tree:
            return leaves
        fixed = {i: s.value for i, s in enumerate(self.inputs) if isinstance(s, ConstantSpec)}
        known = Known(self.defaults, fixed)
        return bind_arguments(self.input_tree, self.arguments or self._numbered(), args, kwargs, known)

    def _numbered(self) -> tuple[str, ...]:
        """Names for the positions of a model of `*args`: the inputs', or the first one's of a container."""
        starts = accumulate((c.num_leaves for c in self.input_tree.child(0).children()), initial=0)
        count = self.input_tree.child(0).num_children
        return tuple(self.inputs[i].name if i < len(self.inputs) else str(i) for i in islice(starts, count))

    def unflatten_outputs(self, flat: Sequence[object]) -> object:
        """The model's own containers from the computed outputs, in order; constants are put back in."""
        computed = iter(flat)
        leaves = [s.value if isinstance(s, ConstantSpec) else next(computed) for s in self.outputs]
        return pytree.tree_unflatten(leaves, self.output_tree)

    def written_inputs(self) -> list[str]:
        """The names of the inputs whose new values are the last outputs, `state.<name>`: the model writes to them."""
        names = {s.name for s in self.inputs}
        behind = takewhile(lambda s: s.name.startswith(STATE), reversed(self.outputs))
        written = [s.name.removeprefix(STATE) for s in behind if s.name not in names]
        return [name for name in reversed(written) if name in names]

    def flatten_outputs(self, result: object) -> list[object]:
        """The computed outputs of a result in the model's own containers, constants left out."""
        leaves = pytree.tree_leaves(result)
        if len(leaves) != len(self.outputs):
            # A container from a file may have left out what was None.
            return [leaf for leaf in leaves if leaf is not None]
        return [leaf for s, leaf in zip(self.outputs, leaves, strict=True) if not isinstance(s, ConstantSpec)]


def _as_float(spec: Spec) -> Spec:
    if isinstance(spec, TensorSpec) and spec.stands_for_floats:
        return replace(spec, dtype=torch.float32, low=None, high=None)
    return spec


def _checked(spec: TensorSpec, leaf: object) -> torch.Tensor:
    if not isinstance(leaf, torch.Tensor):
        hint = numpy_hint(spec.name, leaf)
        given = f"a numpy array; {hint}" if hint else short_text(leaf)
        raise InputError(f"input {spec} must be a tensor, got {given}")
    if leaf.is_meta and spec.device != "meta":
        raise InputError(f"input {spec} is on the meta device: it has no values")
    if leaf.dtype != spec.dtype:
        how = spec.stands_for_floats if leaf.dtype.is_floating_point else None
        hint = "" if how is None else f": round it with io_scales[{spec.name!r}].integers(x)"
        raise InputError(f"input {spec} must have dtype {spec.dtype}, got {leaf.dtype}{hint}")
    if leaf.dim() != len(spec.shape):
        raise InputError(
            f"input {spec} must have {len(spec.shape)} dimensions, got shape {tuple(leaf.shape)}"
        )
    return leaf
