"""Half precision: products, tables, and what only moves, joins or adds values, in 16-bit floats; all else stays as it is."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, cast

import torch
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg

from fxopt.ops import QuantRole, bind, op_info
from fxopt.passes._names import aten_name
from fxopt.passes.quantize._calibration import each_batch
from fxopt.passes.quantize._left_out import left_out
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.program import Program
from fxopt.rewriting import Const, Rewriter

__all__ = ["LowerPrecision"]

_NAME = "lower-precision"
_FOLLOW = frozenset({"add", "sub", "mul", "neg", "cat", "stack"})
"""Beside moves and clamps: what is in half precision if it reads such values."""


def _layers(x: torch.Tensor, w: Const, b: Const, v: Const) -> torch.Tensor:
    return torch.nn.functional.linear(torch.nn.functional.linear(x, w, b).relu(), v)


@register_pass
class LowerPrecision(Pass):
    """Computes products, rows of tables, and what moves, joins or adds them, in 16-bit floats.

    Before: `%y = linear(%x: f32, w, b)`. After: `%h = to(%x, f16)`, `%l = linear(%h, w: f16, b: f16)`,
    `%y = to(%l, f32)`, without the casts between two such calls. Inputs and outputs keep their types.

    Softmax, norms, averages, attention and all else stays in float32; so does, with float16, a call that reads or
    gives more than half of the largest such number (65504) on the calibration data or among its weights, and one
    whose literals float16 does not hold.
    """

    contract = Contract.APPROXIMATE
    establishes: ClassVar[frozenset[str]] = frozenset({"half-precision"})
    excludes: ClassVar[frozenset[str]] = frozenset({"half-precision", "quantized"})
    needs_calibration = True
    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_layers,)

    dtype: Literal["float16", "bfloat16"] = "float16"
    """float16 (11 bits, up to 65504) or bfloat16 (8 bits, the range of float32)"""
    observe: bool = True
    """look for values that float16 does not hold over calibration data; bfloat16 needs none"""
    ignore: tuple[str, ...] = ()
    """names of modules or ops whose calls stay in float32, * for any letters"""

    def takes_calibration(self) -> bool:
        """Whether values are looked at."""
        return self.observe and self.dtype == "float16"

    def run(self, rewriter: Rewriter) -> None:
        """Goes through the calls in order; one that reads nothing of half precision is a product or a table."""
        dtype = getattr(torch, self.dtype)
        largest: dict[Node, float] = {}
        if self.takes_calibration():
            watcher = _Largest(rewriter.program)
            each_batch(rewriter.program, cast(Iterable[object], rewriter.calibration), watcher.run)
            largest = {n: watcher.largest.get(n.name, 0.0) for n in rewriter.program.graph.nodes}
        halves = _Halves(rewriter, dtype)
        for node in rewriter.nodes():
            starts = _is_product(node) or _looks_up(node)
            if not _is_float32(node) or not (starts or (_follows(node) and halves.reads(node))):
                continue
            why = left_out(node, self.ignore) or _beyond(rewriter, node, dtype, largest)
            if why and starts:
                rewriter.refuse(node, f"it stays in float32: {why}", rule=_NAME)
            if not why:
                halves.make(node)


def _is_product(node: Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and op_info(target).role is QuantRole.CONTRACTION


def _looks_up(node: Node) -> bool:
    """Whether a call gives rows of a stored table that nothing else reads.

    onnxruntime 1.32 dies on the file of a tied one: a float16 table that a product reads too.
    """
    if aten_name(node) != "embedding":
        return False
    table = node.all_input_nodes[0]
    return table.op == "get_attr" and all(aten_name(user) == "embedding" for user in table.users)


def _follows(node: Node) -> bool:
    """Whether a call moves, clamps, joins or adds values: nothing that half precision is too coarse for."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    info = op_info(target)
    return aten_name(node) in _FOLLOW or (info.role is QuantRole.SAME_SCALE and not info.dtype_args)


def _is_float32(node: Node) -> bool:
    """Whether a call gives one float32 tensor, of no other floating-point ones."""
    value = node.meta["val"]
    given = [n.meta.get("val") for n in node.all_input_nodes]
    return (
        isinstance(value, torch.Tensor)
        and value.dtype is torch.float32
        and not any(isinstance(v, (list, tuple)) for v in given)
        and all(v.dtype is torch.float32 for v in given if isinstance(v, torch.Tensor) and _is_inexact(v))
    )


def _is_inexact(value: torch.Tensor) -> bool:
    return value.dtype.is_floating_point or value.dtype.is_complex


def _beyond(rewriter: Rewriter, node: Node, dtype: torch.dtype, largest: dict[Node, float]) -> str:
    """What of a call the dtype may not hold; "" if it holds all."""
    info = torch.finfo(dtype)
    for name, literal in bind(node).items():
        if isinstance(literal, float) and literal and not info.tiny <= abs(literal) <= info.max:
            return f"{name}={literal} is no number of {dtype}"
    for value in (node, *node.all_input_nodes):
        tensor = rewriter.value(value)
        if tensor is not None and tensor.dtype is torch.float32 and tensor.numel():
            most = float(tensor.detach().abs().max())
        else:
            most = largest.get(value, 0.0)
        if not most <= info.max / 2:
            return f"{value.name} is up to {most:.3g}"
    return ""


class _Largest(Interpreter):
    """Runs a program and keeps the largest magnitude of each value, by node name."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.graph_module)
        self.largest: dict[str, float] = {}

    def run_node(self, n: Node) -> Any:
        """The value of a node."""
        value = super().run_node(n)
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
            found = float(value.abs().amax())
            self.largest[n.name] = max(self.largest.get(n.name, 0.0), found if found == found else torch.inf)
        return value


class _Halves:
    """Calls made in half precision so far, and casts to it, made once each."""

    def __init__(self, rewriter: Rewriter, dtype: torch.dtype) -> None:
        self._rewriter, self._dtype = rewriter, dtype
        self._made: dict[Node, Node] = {}
        """What stands for a float32 value in half precision."""

    def reads(self, node: Node) -> bool:
        """Whether a call reads values that were made in half precision."""
        return any(n in self._made and n.target is torch.ops.aten.to.dtype for n in node.all_input_nodes)

    def make(self, node: Node) -> None:
        """The call in half precision, and its result as float32 for whoever wants that."""
        rewriter = self._rewriter
        with rewriter.rewrite(_NAME, node):
            operands = {n: self._half(n) for n in node.all_input_nodes}
            args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda n: operands[n])
            half = rewriter.call(node.target, *args, **kwargs)
            back = rewriter.call("aten.to.dtype", half, torch.float32)
            self._made[back] = half
            rewriter.replace(node, back)

    def _half(self, value: Node) -> Node:
        """An operand in half precision; one that is not floating-point as it is."""
        fake = value.meta["val"]
        if not isinstance(fake, torch.Tensor) or not fake.dtype.is_floating_point:
            return value
        if value not in self._made:
            tensor = self._rewriter.value(value)
            if tensor is None:
                self._made[value] = self._rewriter.call("aten.to.dtype", value, self._dtype)
            else:
                stored = tensor.detach().to(self._dtype)
                name = str(value.target)
                self._made[value] = self._rewriter.constant(stored, name=name, successor_of=value)
        return self._made[value]
