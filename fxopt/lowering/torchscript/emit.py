"""The graph as one TorchScript function: a line a node, sizes computed as they were traced.

Tracing a graph would bake its sizes in and scripting it fails on overloads; text compiled by `define` does
neither. Any op of a registered namespace is called by its schema; a rule (`lowering_rule("torchscript", op)`)
may write another text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.fx import Node

from fxopt.lowering.few_bits import few_bits
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
)
from fxopt.lowering.regions import Choice
from fxopt.lowering.shared import Names, node_choices, skipped_input
from fxopt.lowering.target import find_rule
from fxopt.lowering.torchscript import rules as rules  # registers them
from fxopt.lowering.torchscript.guards import guard_lines
from fxopt.lowering.torchscript.literals import arguments_text, literal_text, scalar_type
from fxopt.lowering.torchscript.sizes import function_text, is_size_function
from fxopt.lowering.torchscript.trials import Trial, trial_lines
from fxopt.lowering.torchscript.unpacking import Unpacked, unpacking_lines
from fxopt.ops.info import op_key
from fxopt.ops.schema import ArgumentKind, argument_kinds, is_random
from fxopt.program.program import Program, origins_of

__all__ = ["Attributes", "Emitter", "Source", "emit_source", "has_text"]

_RESERVED = frozenset(
    {
        "self", "torch", "math", "int", "float", "bool", "str", "max", "min", "abs", "round", "len", "range",
        "list", "tuple", "print", "List", "Optional", "Tensor", "Tuple", "annotate", "sum", "sorted", "zip",
        "enumerate", "dict", "ops", "device", "number", "Dict", "inf", "nan", "pi",
    }
)  # fmt: skip


Content = str | Packed | Trial | Unpacked
"""What a module holds: a weight by name, one that is packed for a kernel, what tries kernels, a weight that was unpacked."""

Attributes = dict[Content, str]
"""The names in the module of what it holds."""

_MOST_GROUPS = 100
"""Of a convolution: above it torch's x86 engine takes a kernel of fbgemm's that adds pairs of products in 16 bits."""


@dataclass
class Source:
    """A program as text: `text` defines a method; `attributes` are the names of what it reads from the module."""

    text: str
    attributes: Attributes = field(default_factory=dict)
    plan: KernelPlan = field(default_factory=KernelPlan)


def has_text(node: Node) -> bool:
    """Whether a call can be written as TorchScript."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return is_size_function(target)
    return find_rule("torchscript", target) is not None or bool(
        torch._C._jit_get_schemas_for_operator(target._schema.name)
    )


class Emitter:
    """What a lowering rule writes with: it knows the program and the variables of its values."""

    def __init__(self, program: Program, method: str, others: Mapping[Content, str]) -> None:
        self.program, self.method = program, method
        self.names = Names(_RESERVED)
        self.attributes = Names({"training", "forward", "code", "graph", method, *others.values()})
        self.variables: dict[Value, str] = {}
        self.lines: list[str] = []
        self.few = few_bits(program)
        self.choices: dict[Step, Choice[Node]] = {}
        self.source = Source("", dict(others), plan_kernels(program, most_groups=_MOST_GROUPS, once=True))

    def run(self) -> Source:
        """Writes the whole program."""
        program = self.program
        specs = program.signature.tensor_inputs
        for spec, node in zip(specs, program.placeholders(), strict=True):
            self.variables[node] = self.names.new(spec.name)
        parameters = ", ".join(["self", *(f"{self.variables[n]}: Tensor" for n in program.placeholders())])
        inputs = {s: self.variables[n] for s, n in zip(specs, program.placeholders(), strict=True)}
        self.lines += [f"    {line}" for line in guard_lines(inputs, program.signature.symbols, self.names)]
        for packed in self.source.plan.packed():
            self._attribute(packed, f"{packed.weight}_packed")
        for kind in dict.fromkeys(p.kind for p in self.source.plan.packed()):
            names = [self._attribute(Trial(kind, done), f"trial_{kind}") for done in (False, True)]
            self.lines += [f"    {line}" for line in trial_lines(kind, *names)]
        read = {*program.output_nodes(), *(v for s in self.source.plan.steps for v in operands_of(s))}
        for node in program.weight_nodes():
            if node in read:
                self.variables[node] = f"self.{self._weight(str(node.target))}"
        self.choices = {c.selections[0]: c for c in node_choices(program)}
        inner = {n for c in self.choices.values() for n in (*c.first, *c.second, *c.selections[1:])}
        self._block([s for s in self.source.plan.steps if s not in inner], "    ")
        returned = [n for n in program.output_nodes() if isinstance(n, Node)]
        types = ", ".join(scalar_type(n.meta["val"]) for n in returned) or "()"
        values = "".join(f"{self.variables[n]}, " for n in returned)
        head = f"def {self.method}({parameters}) -> Tuple[{types}]:"
        self.source.text = "\n".join([head, *self.lines, f"    return ({values.rstrip()})"]) + "\n"
        return self.source

    def _weight(self, name: str) -> str:
        """The attribute of a weight; one of few bits is unpacked first."""
        stored = self._attribute(name, name)
        if name not in self.few:
            return stored
        content = Unpacked(name, self.few[name], tuple(self.program.weights[name].shape))
        attribute = self._attribute(content, f"{name}_unpacked")
        self.lines += [f"    {line}" for line in unpacking_lines(content, stored, attribute)]
        return attribute

    def _attribute(self, content: Content, wanted: str) -> str:
        """The module's attribute of a weight, or of what it holds besides."""
        if content not in self.source.attributes:
            self.source.attributes[content] = self.attributes.new(wanted)
        return self.source.attributes[content]

    def _block(self, steps: Sequence[Step], indent: str) -> None:
        for step in steps:
            if step in self.choices:
                self._choice(self.choices[step], indent)
            elif isinstance(step, Kernel):
                self._kernel(step, indent)
            else:
                self._call(step, indent)

    def _kernel(self, step: Kernel, indent: str) -> None:
        kinds = argument_kinds(step.op)
        arguments = ", ".join(self._argument(a, k) for a, k in zip(step.args, kinds, strict=False))
        call = f"torch.ops.{step.op._schema.name.replace('::', '.')}({arguments})"
        name = self.variables[step.result] = self.names.new(node_of(step.result).name)
        self.lines.append(f"{indent}{name} = {call}{_comment(step.origin)}")

    def _argument(self, value: object, kind: ArgumentKind) -> str:
        """An argument of a kernel."""
        if isinstance(value, (Integers, Part)):
            return self.variables[value]
        if isinstance(value, Packed):
            return f"self.{self.source.attributes[value]}"
        if isinstance(value, Number):
            return value.text(self.variables[value.node])
        if isinstance(value, list) and any(isinstance(v, Integers) for v in value):
            return f"[{', '.join(self._argument(v, kind) for v in value)}]"
        return literal_text(value, kind, self.name_of)

    def _choice(self, choice: Choice[Node], indent: str) -> None:
        """An `if`, in which each side computes what only it needs."""
        names = [self.names.new(n.name) for n in choice.selections]
        predicate = literal_text(choice.selections[0].args[0], None, self.name_of)
        for side, nodes in enumerate((choice.first, choice.second), 1):
            self.lines.append(f"{indent}if bool({predicate}):" if side == 1 else f"{indent}else:")
            self._block(nodes, indent + "    ")
            for name, selection in zip(names, choice.selections, strict=True):
                value = literal_text(selection.args[side], None, self.name_of)
                self.lines.append(f"{indent}    {name} = {value}")
        self.variables.update(zip(choice.selections, names, strict=True))

    def _call(self, node: Node, indent: str) -> None:
        through = skipped_input(node)
        if through is not None:
            self.variables[node] = self.variables[through]
            return
        text = self._text(node)
        name = self.variables[node] = self.names.new(node.name)
        self.lines.append(f"{indent}{name} = {text}{_comment(node)}")
        if is_random(node) and isinstance(node.meta.get("val"), torch.Tensor):
            # TorchScript drops a call that nobody reads, and the next would draw its numbers.
            self.lines.append(f"{indent}assert {name}.numel() >= 0")

    def name_of(self, node: Node) -> str:
        """The variable that holds a node's value."""
        return self.variables[node]

    def _text(self, node: Node) -> str:
        target = node.target
        rule = find_rule("torchscript", target)
        if rule is not None:
            return str(rule(self, node))
        if isinstance(target, torch._ops.OpOverload):
            if op_key(target) == "aten.sym_size.int":
                return f"{literal_text(node.args[0], None, self.name_of)}.size({node.args[1]})"
            return f"torch.ops.{target._schema.name.replace('::', '.')}({arguments_text(node, self.name_of)})"
        if target is torch.sym_sum:
            assert isinstance(node.args[0], (list, tuple))
            return "(" + " + ".join(literal_text(a, None, self.name_of) for a in node.args[0]) + ")"
        texts = [literal_text(a, None, self.name_of) for a in node.args]
        assert callable(target)
        return function_text(target, texts, [_kind(a) for a in node.args])


def _comment(node: Node) -> str:
    """The modules that a call comes from."""
    modules = dict.fromkeys(o.module for o in origins_of(node) if o.module)
    text = re.sub(r"[^\x20-\x7e]", "?", ", ".join(modules))
    return f"  # {text}" if text else ""


def _kind(argument: object) -> str:
    return scalar_type(argument.meta.get("val") if isinstance(argument, Node) else argument)


def emit_source(
    program: Program, *, method: str = "forward", others: Mapping[Content, str] | None = None
) -> Source:
    """The program as the text of a TorchScript method.

    Args:
        program: what to write.
        method: its name.
        others: the attributes that the module's other methods use.

    Raises:
        LoweringError: an argument has no TorchScript literal.
    """
    return Emitter(program, method, others or {}).run()
