"""`ProgramBuilder`: Programs made by hand, a call at a time, and the script that makes them again.

>>> b = ProgramBuilder()
>>> x = b.input((b.batch, 4))
>>> program = b.finish(b.call("aten.relu", b.call("aten.linear", x, b.weight((3, 4)))))
>>> [n.name for n in program.calls()]
['linear', 'relu']
>>> print(b.script())  # doctest: +ELLIPSIS
b = ProgramBuilder()
x0 = b.input((b.batch, 4))
w0 = b.weight((3, 4))
linear = b.call("aten.linear", x0, w0, None)
...
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import sympy
import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses import FakeTensorMode
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import DimDynamic
from torch.utils import _pytree as pytree

from fxopt.frontend.ranges import within_tables
from fxopt.ops import canonical_arguments, op_key, resolve_op
from fxopt.ops.spelling import canonical_call
from fxopt.program import (
    Origin,
    Program,
    Signature,
    Symbol,
    TensorSpec,
    infer_value,
    new_fake_mode,
)

__all__ = ["NON_FINITE_KINDS", "WEIGHT_KINDS", "ProgramBuilder", "make_weight"]

WEIGHT_KINDS = ("normal", "zeros", "constant", "tiny", "huge", "integers")
"""How a weight's values are drawn."""

NON_FINITE_KINDS = (*WEIGHT_KINDS, "nan", "inf")
"""With those that only a contract of the same bits speaks of."""

_HINT = 7
"""The batch size that the symbolic size stands for: no other size of a drawn program."""


@dataclass(frozen=True)
class _World:
    """One fake mode for all built programs, so that inferred values are looked up across them."""

    mode: FakeTensorMode
    batch: torch.SymInt
    symbol: sympy.Symbol
    values: dict[object, torch.Tensor] = field(default_factory=dict)
    """Fake tensors by dtype and shape."""

    def value(self, shape: Sequence[int | torch.SymInt], dtype: torch.dtype) -> torch.Tensor:
        """A fake tensor of a type, always the same: one over a size that varies takes a millisecond to make."""
        key = (dtype, *((type(d), str(d)) for d in shape))
        if key not in self.values:
            with self.mode:
                self.values[key] = torch.empty(tuple(shape), dtype=dtype)
        return self.values[key]


@cache
def _world() -> _World:
    mode = new_fake_mode()
    assert mode.shape_env is not None
    symbol = mode.shape_env.create_symbol(_HINT, ConstantSource("batch"), DimDynamic.DYNAMIC, None)
    batch = mode.shape_env.create_symintnode(symbol, hint=_HINT)
    assert isinstance(batch, torch.SymInt) and isinstance(symbol, sympy.Symbol)
    return _World(mode, batch, symbol)


def make_weight(
    shape: Sequence[int], *, kind: str = "normal", seed: int = 0, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """A weight of a kind, the same for the same seed.

    Args:
        shape: its sizes.
        kind: one of `NON_FINITE_KINDS`, or "positive" (0.5 to 1.5, for variances) or "index" (0 to 2).
        seed: of the generator.
        dtype: of the result.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
    values = {
        "normal": normal,
        "zeros": torch.zeros_like(normal),
        "constant": torch.full_like(normal, 0.5),
        "tiny": normal * 1e-6,
        "huge": normal * 1e4,
        "integers": torch.round(normal * 2),
        "positive": torch.rand(tuple(shape), generator=generator, dtype=torch.float64) + 0.5,
        "index": torch.randint(0, 3, tuple(shape), generator=generator).double(),
        "nan": normal.masked_fill(normal > 0, float("nan")),
        "inf": normal / (normal.abs() < 0.7),
    }
    return values[kind].to(dtype)


class ProgramBuilder:
    """Builds a `Program` over one dynamic dimension, `batch`.

    Args:
        name: of the program.
        kinds: of the weights that op families draw, the usual one first.
    """

    def __init__(self, name: str = "drawn", *, kinds: Sequence[str] = WEIGHT_KINDS) -> None:
        world = _world()
        self.kinds = tuple(kinds)
        self.batch = world.batch
        self.graph = Graph()
        empty = pytree.tree_structure(())
        self.program = Program(
            self.graph,
            {},
            Signature((), (), empty, empty),
            fake_mode=world.mode,
            symbol_names={world.symbol: "batch"},
            name=name,
        )
        self._inputs: list[tuple[Node, TensorSpec]] = []
        self._lines = ["b = ProgramBuilder()"]
        self._names: dict[Node, str] = {}
        self._count = 0

    def input(
        self,
        shape: Sequence[int | torch.SymInt],
        *,
        dtype: torch.dtype = torch.float32,
        low: int | None = None,
        high: int | None = None,
    ) -> Node:
        """An input; a size may be `self.batch`. `low` and `high` bound integer values."""
        value = _world().value(shape, dtype)
        name = f"x{len(self._inputs)}"
        first = next(iter(self.graph.nodes), None)
        last = self._inputs[-1][0] if self._inputs else None
        if last is not None:
            with self.graph.inserting_after(last):
                node = self.graph.placeholder(name)
        elif first is not None:
            with self.graph.inserting_before(first):
                node = self.graph.placeholder(name)
        else:
            node = self.graph.placeholder(name)
        node.meta = {"val": value}
        sizes = tuple(self.program.dim(d) for d in value.shape)
        self._inputs.append((node, TensorSpec(name, dtype, sizes, low=low, high=high)))
        extra = "".join(f", {k}={v}" for k, v in (("low", low), ("high", high)) if v is not None)
        kind = "" if dtype is torch.float32 else f", dtype={dtype}"
        self._note(node, name, f"b.input({_shape_text(shape)}{kind}{extra})")
        return node

    def weight(
        self, shape: Sequence[int], *, kind: str = "normal", seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> Node:
        """A weight by kind and seed (see `make_weight`)."""
        tensor = make_weight(shape, kind=kind, seed=seed, dtype=dtype)
        name = f"w{len(self.program.weights)}"
        self.program.weights[name] = tensor
        node = self.graph.get_attr(name)
        node.meta = {"val": _world().value(shape, dtype)}
        options = [f"kind={kind!r}"] * (kind != "normal") + [f"seed={seed}"] * (seed != 0)
        options += [f"dtype={dtype}"] * (dtype is not torch.float32)
        self._note(node, name, f"b.weight({', '.join([_shape_text(shape), *options])})")
        return node

    def call(self, op: object, *args: object, **kwargs: object) -> Node:
        """A call in canonical form.

        Raises:
            Exception: the op does not take these arguments.
        """
        target = resolve_op(op, args, kwargs) if not callable(op) or hasattr(op, "_schema") else op
        value = infer_value(self.program, target, args, kwargs)
        result = canonical_call(self._emit, target, args, dict(kwargs), value)
        assert isinstance(result, Node)
        return result

    def _emit(
        self,
        op: object,
        args: tuple[object, ...],
        kwargs: Mapping[str, object] | None = None,
        *,
        value: object = None,
    ) -> Node:
        named = dict(kwargs or {})
        if isinstance(op, torch._ops.OpOverload):
            args, named = canonical_arguments(op, args, named)
        if value is None:
            value = infer_value(self.program, op, args, named)
        key = op_key(op)
        name = key.split(".")[1] if isinstance(op, torch._ops.OpOverload) else getattr(op, "__name__", "call")
        node = self.graph.create_node("call_function", op, args, named, name=name)  # type: ignore[arg-type]
        self._count += 1
        node.meta = {"val": value, "origins": (Origin(f"layer{self._count}", "", 0, key),)}
        parts = [repr_of(a, self._names) for a in args] + [
            f"{k}={repr_of(v, self._names)}" for k, v in named.items()
        ]
        called = (
            f'"{key}"'.replace(".default", "")
            if isinstance(op, torch._ops.OpOverload)
            else f"operator.{name}"
        )
        self._note(node, node.name, f"b.call({', '.join([called, *parts])})")
        return node

    def value(self, node: Node) -> torch.Tensor:
        """The fake value of a node."""
        value = node.meta["val"]
        assert isinstance(value, torch.Tensor)
        return value

    def finish(self, *outputs: Node) -> Program:
        """The program that returns these nodes (a tensor if one, else a tuple).

        Inputs that index a table are drawn below its number of rows, whatever `high` says.
        """
        self._lines.append(f"program = b.finish({', '.join(self._names[o] for o in outputs)})")
        self.graph.output(tuple(outputs))
        self.graph.output_node().meta = {}
        specs = [
            self.program.spec(f"output_{i}" if len(outputs) > 1 else "output", o.meta["val"])
            for i, o in enumerate(outputs)
        ]
        tree = pytree.tree_structure(0 if len(outputs) == 1 else (0,) * len(outputs))
        names = tuple(s.name for _, s in self._inputs)
        self.program.signature = Signature(
            tuple(s for _, s in self._inputs),
            tuple(specs),
            pytree.tree_structure(((0,) * len(names), {})),
            tree,
            {"batch": Symbol("batch")} if self._dynamic() else {},
            names,
        )
        self.program.signature = within_tables(self.program)
        return self.program

    def _dynamic(self) -> bool:
        return any("batch" in str(d) for _, spec in self._inputs for d in spec.shape)

    def _note(self, node: Node, name: str, text: str) -> None:
        self._names[node] = name
        self._lines.append(f"{name} = {text}")

    def script(self) -> str:
        """The calls that build this program again."""
        return "\n".join(self._lines)


def _shape_text(shape: Sequence[int | torch.SymInt]) -> str:
    parts = ["b.batch" if isinstance(d, torch.SymInt) else str(d) for d in shape]
    return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


def repr_of(value: object, names: Mapping[Node, str]) -> str:
    """A value as Python source, nodes by name."""
    if isinstance(value, Node):
        return names[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(repr_of(v, names) for v in value)}]"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    if isinstance(value, torch.device):
        return f"torch.device({str(value)!r})"
    return repr(value)
