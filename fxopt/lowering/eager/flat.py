"""A graph as one flat Python function: no module calls, values freed after their last use.

>>> from fxopt.frontend import trace
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()).eval()
>>> program = trace(model, (torch.zeros(3, 4),))
>>> print(flat_source(program).text)
def forward(input_):
    linear = linear_1(input_, _0_weight, _0_bias)
    del input_
    relu = relu_1(linear)
    del linear
    return [relu]
<BLANKLINE>
"""

import builtins
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.fx import Node

from fxopt.lowering.eager.direct import direct_call
from fxopt.lowering.kernels.packing import pack, quietly
from fxopt.lowering.kernels.plan import plan_kernels
from fxopt.lowering.kernels.values import (
    Integers,
    Kernel,
    KernelPlan,
    Number,
    Packed,
    Part,
    Step,
    Value,
    node_of,
    operands_of,
    result_of,
)
from fxopt.lowering.shared import Names, essential_arguments, skipped_input
from fxopt.lowering.times import ROUNDS, NodeTime, medians
from fxopt.ops.info import op_key
from fxopt.ops.quantized import dequantize
from fxopt.program.program import Program

__all__ = ["ENGINE", "FlatFunction", "FlatSource", "flat_function", "flat_source", "step_times"]

ENGINE = "onednn"
"""Whose kernels convolutions on integers are: right for any number of groups."""

FlatFunction = Callable[..., list[object]]
_SYMBOLS = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.floordiv: "//", operator.mod: "%",
    operator.truediv: "/",
}  # fmt: skip
_PRODUCTS = {"aten.linear.default", "aten.matmul.default", "aten.gru.input", "aten.lstm.input"}
_PLAIN = (int, bool, str, type(None))


@dataclass
class FlatSource:
    """The function's text, and the values of its free names."""

    text: str
    names: dict[str, object] = field(default_factory=dict)
    steps: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By variable, the call of the program that it is named after, and the op that gives it."""


class _Writer:
    def __init__(self, program: Program, plan: KernelPlan) -> None:
        self.program, self.plan = program, plan
        self.names = Names(dir(builtins))
        self.values: dict[str, object] = {}
        self.bound: dict[tuple[type, object], str] = {}
        self.variables: dict[Value, str] = {}
        self.packed: dict[Packed, str] = {}
        self.lines: list[str] = []
        self.steps: dict[str, tuple[str, str]] = {}

    def run(self) -> FlatSource:
        program = self.program
        for node in program.placeholders():
            self.variables[node] = self.names.new(node.name)
        parameters = ", ".join(self.variables[n] for n in program.placeholders())
        last = _last_uses(self.plan.steps, program.output_nodes())
        for step in self.plan.steps:
            if isinstance(step, Kernel):
                self._kernel(step)
            else:
                self._call(step)
            dead = [v for n in last.get(result_of(step), ()) if (v := self.variables[n]) not in self.values]
            if dead:
                self.lines.append(f"    del {', '.join(dead)}")
        returned = ", ".join(self.text(v) for v in program.output_nodes())
        text = "\n".join([f"def forward({parameters}):", *self.lines, f"    return [{returned}]"]) + "\n"
        return FlatSource(text, self.values, self.steps)

    def _weight(self, node: Node) -> torch.Tensor:
        """A weight, apart from the program's; one that products alone read is marked as the model's own are."""
        weight = self.program.weights[str(node.target)].detach()
        marked = weight.is_floating_point() and not weight.is_inference()
        return weight.requires_grad_(marked and all(_is_product(user) for user in node.users))

    def bind(self, wanted: str, value: object) -> str:
        """A name for a value that the function's text can't spell."""
        key = (type(value), id(value))
        if key not in self.bound:
            name = self.bound[key] = self.names.new(wanted)
            self.values[name] = value
        return self.bound[key]

    def _call(self, node: Node) -> None:
        through = skipped_input(node)
        if through is not None:
            self.variables[node] = self.variables[through]
            return
        stored = self._stored_integers(node)
        if stored is not None:
            self.variables[node] = self.bind(node.name, stored)
            return
        self.variables[node] = self.names.new(node.name)
        self.steps[self.variables[node]] = node.name, op_key(node.target)
        self.lines.append(f"    {self.variables[node]} = {self._call_text(node)}")

    def _kernel(self, step: Kernel) -> None:
        arguments = ", ".join(map(self.text, step.args))
        name = op_key(step.op).split(".")[1]
        self.variables[step.result] = self.names.new(node_of(step.result).name)
        self.steps[self.variables[step.result]] = step.origin.name, op_key(step.op)
        call = f"{self.bind(name, direct_call(step.op))}({arguments})"
        self.lines.append(f"    {self.variables[step.result]} = {call}")

    def _pack(self, packed: Packed) -> str:
        """The name of a packed weight, packed once."""
        if packed not in self.packed:
            value = pack(packed, self.program.weights, engine=ENGINE)
            self.packed[packed] = self.bind(f"{packed.weight}_packed", value)
        return self.packed[packed]

    def _stored_integers(self, node: Node) -> torch.Tensor | None:
        """The value of a weight that is stored as integers: it is computed once."""
        if node.target is not dequantize:
            return None
        tensors = [
            self.program.weights.get(str(n.target)) for n in node.all_input_nodes if n.op == "get_attr"
        ]
        if len(tensors) != 3 or any(t is None or t.is_meta for t in tensors):
            return None
        with torch.no_grad():
            value: torch.Tensor = dequantize(*tensors)
        return value

    def _call_text(self, node: Node) -> str:
        target = node.target
        if target is operator.getitem:
            return f"{self.text(node.args[0])}[{self.text(node.args[1])}]"
        if target in _SYMBOLS:
            return f"{self.text(node.args[0])} {_SYMBOLS[target]} {self.text(node.args[1])}"
        args, kwargs = essential_arguments(node)
        texts = [*map(self.text, args), *(f"{k}={self.text(v)}" for k, v in kwargs.items())]
        name = op_key(target).split(".")[1] if isinstance(target, torch._ops.OpOverload) else node.name
        function = self.bind(name, direct_call(target))
        return f"{function}({', '.join(texts)})"

    def text(self, value: object) -> str:
        """An argument. A list of numbers is a constant tuple: it is not built anew at each call."""
        if isinstance(value, (Node, Integers, Part)):
            if isinstance(value, Node) and value.op == "get_attr" and value not in self.variables:
                self.variables[value] = self.bind(str(value.target), self._weight(value))
            return self.variables[value]
        if isinstance(value, Packed):
            return self._pack(value)
        if isinstance(value, Number):
            return value.text(self.text(value.node))
        if type(value) in _PLAIN:
            return repr(value)
        if isinstance(value, (list, tuple)):
            items = [self.text(v) for v in value]
            if isinstance(value, tuple) or all(type(v) is int for v in value):
                return f"({', '.join(items)}{',' * (len(items) == 1)})"
            return f"[{', '.join(items)}]"
        if isinstance(value, float):
            return repr(value) if value - value == 0 else self.bind("number", value)
        return self.bind(str(value).removeprefix("torch."), value)


def _is_product(node: Node) -> bool:
    """Whether torch's kernel folds the batch into one matrix product, if the weight wants gradients.

    Without that mark an input that is not contiguous is multiplied batch by batch, which is slower (`should_fold`
    in ATen's LinearAlgebra.cpp). The function runs without gradients in either case.
    """
    return isinstance(node.target, torch._ops.OpOverload) and op_key(node.target) in _PRODUCTS


def _last_uses(steps: Sequence[Step], outputs: Sequence[object]) -> dict[Value, list[Value]]:
    """By a step's result, the values that nothing needs after it, weights and outputs left out."""
    root: dict[Value, Value] = {}
    last: dict[Value, Value] = {}
    for step in steps:
        result = result_of(step)
        through = skipped_input(step) if isinstance(step, Node) else None
        root[result] = result if through is None else root.get(through, through)
        last.update((root.get(used, used), result) for used in (*operands_of(step), result))
    kept = {root.get(value, value) for value in outputs if isinstance(value, Node)}
    uses: dict[Value, list[Value]] = {}
    for value, user in last.items():
        if value not in kept and not (isinstance(value, Node) and value.op == "get_attr"):
            uses.setdefault(user, []).append(value)
    return uses


def flat_source(program: Program) -> FlatSource:
    """The text of the flat function and what its names stand for."""
    with quietly():
        return _Writer(program, plan_kernels(program, engine=ENGINE)).run()


def flat_function(program: Program) -> FlatFunction:
    """The program as a function from the tensors of `signature.tensor_inputs` to the computed outputs."""
    return _compiled(flat_source(program), program.name)


def _compiled(source: FlatSource, name: str) -> FlatFunction:
    names = dict(source.names)
    exec(compile(source.text, f"<fxopt {name}>", "exec"), names)
    function = names["forward"]
    assert callable(function)
    return function


def step_times(program: Program, tensors: list[torch.Tensor]) -> list[NodeTime]:
    """The times of the steps of the flat function, by a clock after each."""
    source, now = flat_source(program), 0.0
    laps: list[tuple[str, str, str, float]] = []

    def lap(variable: str) -> None:
        nonlocal now
        before, now = now, time.perf_counter()
        if variable:
            laps.append((variable, *source.steps[variable], now - before))

    clock = "lap_" + "_" * max(map(len, source.names), default=0)
    first, *lines = source.text.splitlines()
    timed = [first, f"    {clock}('')"]
    for line in lines:
        variable = line.strip().partition(" = ")[0]
        timed += [line, f"    {clock}({variable!r})"] if variable in source.steps else [line]
    names = {**source.names, clock: lap}
    function = _compiled(FlatSource("\n".join(timed) + "\n", names), program.name)
    with torch.no_grad():
        for _ in range(ROUNDS):
            function(*tensors)
    return medians(laps)
