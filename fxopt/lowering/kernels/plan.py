"""Which calls of a rounded program become torch's integer kernels.

The program says what is rounded (`fake_quantize` of activations, `dequantize` of stored weights); the plan finds the calls
between two roundings that one kernel does at once, and leaves the rest as it is. It is made from the outputs
back: what nothing needs any more is not computed, so that weights which kernels alone read are never floats.

    %q = fake_quantize(%x, ...)     ->  Integers(q) = quantize_per_tensor(x, scale, zero_point)
    %y = conv2d(%q, dequantize(w))  ->  Integers(r) = quantized.conv2d_relu(Integers(q), packed w, scale, zero_point)
    %z = relu(%y)
    %r = fake_quantize(%z, ...)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from fxopt.lowering.kernels.agreement import agreeing_scale
from fxopt.lowering.kernels.packing import why_not
from fxopt.lowering.kernels.products import Numbers, Product, numbers_of, product_of, range_of
from fxopt.lowering.kernels.values import (
    Integers,
    Kernel,
    KernelPlan,
    Number,
    Packed,
    Part,
    Step,
    Value,
    operands_of,
)
from fxopt.lowering.shared import node_choices, skipped_input
from fxopt.ops.info import op_key
from fxopt.ops.quantized import dequantize, to_integers
from fxopt.ops.schema import bind, is_pure
from fxopt.program.program import Program, origins_of

__all__ = ["kernel_notes", "plan_kernels"]

_QUANTIZED = torch.ops.quantized
_QUANTIZE = torch.ops.aten.quantize_per_tensor.default
_DEQUANTIZE = torch.ops.aten.dequantize.self
_AS_QUANTIZED = torch.ops.aten._make_per_tensor_quantized_tensor.default
_INTEGERS = torch.ops.aten.int_repr.default
_CLAMP = torch.ops.quantized.clamp.default
_FLOATS = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
"""Rounds what it reads, multiplies integers, gives floats."""
_EMBEDDING = torch.ops.aten.embedding.default
_MULTIPLY = torch.ops.aten.mul.Tensor
_SMALLEST = float(torch.finfo(torch.float32).tiny)
_MOVES = frozenset(
    f"aten.{name}"
    for name in (
        "reshape", "flatten", "permute", "transpose", "unsqueeze", "squeeze", "slice", "select", "expand",
        "max_pool1d", "max_pool2d", "max_pool3d", "pixel_shuffle", "channel_shuffle", "upsample_nearest2d",
        "upsample_nearest3d",
    )
)  # fmt: skip
"""Ops that torch does on quantized tensors, and that keep the scale."""
_CLIPS = {
    "aten.relu.default": ("", ""),
    "aten.relu6.default": ("", ""),
    "aten.hardtanh.default": ("min_val", "max_val"),
    "aten.clamp.default": ("min", "max"),
    "aten.clamp_min.default": ("min", ""),
}
"""Activations that clip, and the names of their bounds."""
_CEILINGS = {"aten.relu6.default": 6.0}
_HIGHEST = 255
"""The largest integer of an activation: what is clipped above it is clipped by the rounding."""
_SEVERAL = {"aten.add.Tensor": "add", "aten.mul.Tensor": "mul", "aten.cat.default": "cat"}


@dataclass(frozen=True)
class _Clip:
    """What lies between a call and the rounding of its result: clipping at zero, and at a bound above."""

    relu: bool = False
    most: float | None = None


def plan_kernels(
    program: Program, *, engine: str = "x86", most_groups: int | None = None, once: bool = False
) -> KernelPlan:
    """The steps of a program whose weights are stored as integers; its calls as they are if there are none.

    Args:
        program: products whose values (`meta["val"]`) are not known stay in float.
        engine: whose kernels for convolutions.
        most_groups: of a convolution on integers; None for no limit.
        once: packed weights are stored, so that none may be stored as integers too.
    """
    calls = list(program.calls())
    if not any(n.target is dequantize for n in calls) or not _on_cpu(program):
        return KernelPlan(steps=list(calls))
    if node_choices(program):
        return KernelPlan(list(calls), {n: "the program has branches" for n in calls if _reads_stored(n)})
    return _Planner(program, engine, most_groups, once=once).run(calls)


def _on_cpu(program: Program) -> bool:
    """Whether the kernels, which are the CPU's, can take the weights."""
    return all(w.device.type == "cpu" for w in program.weights.values())


def _reads_stored(node: Node) -> bool:
    return any(n.target is dequantize for n in node.all_input_nodes)


class _Planner:
    def __init__(self, program: Program, engine: str, most_groups: int | None, *, once: bool) -> None:
        self.weights: Mapping[str, torch.Tensor] = program.weights
        self.engine, self.most_groups, self.once = engine, most_groups, once
        self.outputs = {n for n in program.output_nodes() if isinstance(n, Node)}
        self.plan = KernelPlan()
        self.needed: set[Value] = set(self.outputs)
        self.same: dict[object, str] = {}
        self.scales: dict[Node, float] = {}
        self.exact: set[Node] = set()
        """Rounded values that no kernel gives right: they are rounded in floats, as the simulation does it."""
        self.made: dict[Node, list[Kernel] | None] = {}
        """The kernels that give a rounded value as integers; None where none does."""

    def run(self, calls: list[Node]) -> KernelPlan:
        """Goes from the last call to the first."""
        for node in reversed(calls):
            if Integers(node) in self.needed:
                for step in reversed(self._as_integers(node)):
                    self._add(step)
            elif node in self.needed or not is_pure(node):
                for step in reversed(self._in_floats(node)):
                    self._add(step)
        self.plan.steps.reverse()
        self.plan.integer.reverse()
        self.plan.floats = dict(reversed(self.plan.floats.items()))
        return self.plan

    def _add(self, step: Step) -> None:
        self.plan.steps.append(step)
        self.needed.update(operands_of(step))
        if isinstance(step, Node):
            return
        self.needed.discard(step.result)
        if step.op is _FLOATS or str(step.op).startswith(("quantized.linear", "quantized.conv")):
            self.plan.integer.append(step.origin)

    def _as_integers(self, node: Node) -> list[Step]:
        """The steps that give a rounded value as integers, and in floats where it is read so too."""
        kernels = self._kernels(node)
        if kernels is None and node in self.exact:
            return [node, self._quantize(node, node)]
        steps: list[Step] = [*(kernels or [self._quantize(node, node.args[0])])]
        return [*steps, _floats(node)] if node in self.needed else steps

    def _in_floats(self, node: Node) -> list[Step]:
        """The steps that give a value which nothing reads as integers."""
        numbers = numbers_of(node, self.weights)
        if node.target is to_integers and numbers and numbers_of(node.args[0], self.weights) == numbers:
            return [Kernel(node, _INTEGERS, (Integers(node.args[0]),), node)]  # type: ignore[arg-type]  # a node
        if numbers is not None and (kernels := self._kernels(node)):
            return [*kernels, _floats(node)]
        rows = self._rows(node)
        if rows is not None:
            return rows
        product = self._product(node)
        if isinstance(product, str):
            if product:
                self.plan.floats[node] = product
            return [node]
        if product.packed.kind != "linear":
            self.plan.floats[node] = "floats read its result"
            return [node]
        return [Kernel(node, _FLOATS, (*self._unrounded(product.rounded), product.packed), node)]

    def _unrounded(self, rounded: Node) -> tuple[object, ...]:
        """What a kernel reads that rounds by itself: the value, scale and zero point."""
        numbers = numbers_of(rounded, self.weights)
        if numbers is None:
            found = range_of(rounded)
            assert found is not None
            x, scale, zero_point = found
            return x, Number(scale, "float", _SMALLEST), Number(zero_point, "int")
        # A kernel that gave the integers did the activation before them too.
        value = rounded if self._kernels(rounded) else rounded.args[0]
        return value, numbers.scale, numbers.zero_point

    def _product(self, node: Node) -> Product | str:
        found = self._found(node)
        if isinstance(found, str):
            return found
        if self.once and any(self._packed(user) != found.packed for user in found.readers()):
            return "its weight is read elsewhere too, and would be stored twice"
        return why_not(found.packed.kind, self.engine) or found

    def _packed(self, node: Node) -> Packed | None:
        found = self._found(node)
        return found.packed if isinstance(found, Product) else None

    def _found(self, node: Node) -> Product | str:
        found = product_of(node, self.weights, self.most_groups)
        if isinstance(found, str):
            return found
        packed = found.packed
        scale, bias, bias_scale = map(self._first, (packed.scale, packed.bias, packed.bias_scale))
        return replace(found, packed=replace(packed, scale=scale, bias=bias, bias_scale=bias_scale))

    def _first(self, name: str) -> str:
        """The first weight that was asked for with the same numbers: scales are made anew for each call."""
        if not name:
            return name
        tensor = self.weights[name].detach()
        return self.same.setdefault((tensor.dtype, tensor.shape, tensor.numpy().tobytes()), name)

    def _rows(self, node: Node) -> list[Step] | None:
        """Rows of a table of integers: they alone become floats; None for any other call."""
        table = node.args[0] if node.target is _EMBEDDING else None
        if not isinstance(table, Node) or table.target is not dequantize:
            return None
        integers, scale, zero_point = table.args
        scales, zeros = (self.weights[str(n.target)] for n in (scale, zero_point) if isinstance(n, Node))
        if bool((zeros != 0).any()):
            return None
        indices = node.args[1]
        steps: list[Step] = [Kernel(Integers(node), _EMBEDDING, (integers, indices), node)]
        if scales.numel() > 1:
            steps.append(Kernel(Part(node), _EMBEDDING, (scale, indices), node))
        factor = Part(node) if scales.numel() > 1 else scale
        return [*steps, Kernel(node, _MULTIPLY, (Integers(node), factor), node)]

    def _quantize(self, node: Node, value: object) -> Kernel:
        numbers = self._numbers(node)
        args = (value, numbers.scale, numbers.zero_point, torch.quint8)
        return Kernel(Integers(node), _QUANTIZE, args, node)

    def _numbers(self, node: Node) -> Numbers:
        numbers = numbers_of(node, self.weights)
        assert numbers is not None
        return numbers

    def _kernels(self, rounded: Node) -> list[Kernel] | None:
        """The kernels that give a rounded value as integers, from integers; None where none does."""
        if rounded not in self.made:
            taken = self._taken(rounded) if rounded.target is dequantize else None
            self.made[rounded] = taken or self._moved(rounded) or self._computed(rounded)
        return self.made[rounded]

    def _taken(self, rounded: Node) -> list[Kernel]:
        """An input that is integers already."""
        numbers = self._numbers(rounded)
        args = (rounded.args[0], numbers.scale, numbers.zero_point)
        return [Kernel(Integers(rounded), _AS_QUANTIZED, args, rounded)]

    def _held_scale(self, rounded: Node) -> float:
        """The scale that the integers of a value carry: what made them may have been given another."""
        self._kernels(rounded)
        return self.scales.get(rounded, self._numbers(rounded).scale)

    def _moved(self, rounded: Node) -> list[Kernel] | None:
        """A call that moves integers."""
        call = rounded.args[0]
        assert isinstance(call, Node)
        if not isinstance(call.target, torch._ops.OpOverload) or _packet(call) not in _MOVES:
            return None
        source = call.args[0]
        if not isinstance(source, Node) or numbers_of(source, self.weights) != self._numbers(rounded):
            return None
        args = (Integers(source), *call.args[1:])
        self.scales[rounded] = self._held_scale(source)
        return [Kernel(Integers(rounded), call.target, args, call)]

    def _computed(self, rounded: Node) -> list[Kernel] | None:
        """A call of a kernel that reads integers, with the activation that follows it."""
        found = self._behind(rounded)
        if found is None:
            return None
        call, clip = found
        numbers = self._numbers(rounded)
        out = (numbers.scale, numbers.zero_point)
        relu = "_relu" if clip.relu else ""
        args: tuple[object, ...]
        product = self._product(call)
        if not isinstance(product, str) and numbers_of(product.rounded, self.weights) is not None:
            op = product.packed.kind + relu
            args = (Integers(product.rounded), product.packed, *out)
        elif op_key(call.target) in _SEVERAL and (read := self._several(call)):
            op = _SEVERAL[op_key(call.target)] + relu
            held = tuple((self._numbers(r.node), self._held_scale(r.node)) for r in read)
            scale = agreeing_scale(_overload(op), held, numbers, op)
            if scale is None:
                self.exact.add(rounded)
                return None
            self.scales[rounded], out = scale, (scale, numbers.zero_point)
            args = (read, bind(call)["dim"], *out) if op.startswith("cat") else (*read, *out)
        else:
            return None
        steps = [Kernel(Integers(rounded), _overload(op), args, call)]
        if clip.most is not None and _ceiling(clip.most, numbers) < _HIGHEST:
            first = Kernel(Integers(call), steps[0].op, steps[0].args, call)
            bounds = (None, clip.most)
            return [first, Kernel(Integers(rounded), _CLAMP, (first.result, *bounds), rounded)]
        return steps

    def _behind(self, rounded: Node) -> tuple[Node, _Clip] | None:
        """The call whose result is rounded, and the clipping in between; None where others read it too."""
        node, clip = rounded.args[0], _Clip()
        while isinstance(node, Node) and len(node.users) == 1 and node.op == "call_function":
            through = skipped_input(node)
            bounds = _bounds(node)
            if through is None and bounds is None:
                return node, clip
            if bounds is not None:
                if clip != _Clip():
                    return None
                clip = bounds
            node = through if through is not None else node.args[0]
        return None

    def _several(self, call: Node) -> list[Integers] | None:
        """What a sum, a product or a join of rounded values reads; None where it is none."""
        tensors = call.args[0] if isinstance(call.args[0], (list, tuple)) else call.args[:2]
        if bind(call).get("alpha", 1) != 1 or any(numbers_of(n, self.weights) is None for n in tensors):
            return None
        return [Integers(n) for n in tensors if isinstance(n, Node)]


def _ceiling(most: float, numbers: Numbers) -> int:
    """The integer that a bound is rounded to."""
    return round(most / numbers.scale) + numbers.zero_point


def _overload(name: str) -> torch._ops.OpOverload:
    """Of the ops of convolutions the one that takes its geometry from the packed weight."""
    packet: torch._ops.OpOverloadPacket = getattr(_QUANTIZED, name)
    found: torch._ops.OpOverload = packet.new if "new" in packet.overloads() else packet.default
    return found


def _packet(node: Node) -> str:
    return op_key(node.target).rpartition(".")[0]


def _floats(node: Node) -> Kernel:
    """A rounded value as the call gives it: in floats, or its integers by themselves."""
    return Kernel(node, _INTEGERS if node.target is to_integers else _DEQUANTIZE, (Integers(node),), node)


def _bounds(node: Node) -> _Clip | None:
    """What an activation clips that starts at zero; None for any other call."""
    if not isinstance(node.target, torch._ops.OpOverload) or op_key(node.target) not in _CLIPS:
        return None
    low, high = _CLIPS[op_key(node.target)]
    bound = bind(node)
    if low and bound[low] != 0:
        return None
    most = bound[high] if high else _CEILINGS.get(op_key(node.target))
    if most is not None and not isinstance(most, (int, float)):
        return None
    return _Clip(True, None if most is None else float(most))


def kernel_notes(plan: KernelPlan) -> tuple[str, ...]:
    """What runs on integers and what does not, and why, in lines."""
    count = len(plan.integer) + len(plan.floats)
    if not count:
        return ()
    lines = [f"integer kernels: {len(plan.integer)} of {count} products"]
    by_reason: dict[str, list[str]] = {}
    for node, why in plan.floats.items():
        by_reason.setdefault(why, []).append(_place(node))
    lines += [f"stays in float, {why}: {_listed(places)}" for why, places in by_reason.items()]
    return tuple(lines)


def _place(node: Node) -> str:
    return next((o.module for o in origins_of(node) if o.module), node.name)


def _listed(places: list[str]) -> str:
    more = f" and {len(places) - 3} more" if len(places) > 4 else ""
    return ", ".join(places[: 3 if more else 4]) + more
