"""From a program to a recorded ONNX graph: one walk, a rule a node, then names.

Only nodes that an output needs are walked. A value that stands for an fx node is named after it (`v_<node>`),
an output's after its spec; what a rule makes on the way is `v_<node>.<Op>`.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.fx import GraphModule, Node

from fxopt.lowering.onnx.branches import with_branches
from fxopt.lowering.onnx.builder import Builder, NoKernelError, Result
from fxopt.lowering.onnx.decompose import decomposed, lower_decomposed
from fxopt.lowering.onnx.graph import OnnxNode, Value
from fxopt.lowering.onnx.recipes import RecipeError
from fxopt.lowering.onnx.rules.complex import complex_rule, is_complex
from fxopt.lowering.onnx.sizes import UnknownSizeError
from fxopt.lowering.shared import is_choice
from fxopt.lowering.target import find_rule
from fxopt.ops.info import op_key
from fxopt.ops.schema import is_random
from fxopt.program.program import Program
from fxopt.program.signature import ScalarSpec

__all__ = ["Recording", "has_rule", "live_nodes", "lower_by_parts", "lowered_by_torchlib", "record"]


@dataclass
class Recording:
    """A lowered graph: nodes with their final names, what is stored, what goes in and out.

    `outputs` are in the order of the signature's computed outputs.
    """

    nodes: list[OnnxNode]
    initializers: dict[Value, torch.Tensor]
    inputs: list[Value]
    outputs: list[Value]
    notes: list[str] = field(default_factory=list)
    four_bits: dict[Value, tuple[int, ...]] = field(default_factory=dict)
    """The shapes of those of `initializers` that are 4-bit integers, two a byte."""


def live_nodes(program: Program) -> list[Node]:
    """The nodes that the outputs depend on, in graph order; inputs are kept in any case."""
    needed: set[Node] = set()
    stack = [n for n in program.output_nodes() if isinstance(n, Node)]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(node.all_input_nodes)
    return [n for n in program.graph.nodes if n in needed or n.op == "placeholder"]


def record(program: Program, opset: int) -> Recording:
    """Lowers a program.

    Args:
        program: all of whose live ops have rules.
        opset: 18 to 23.

    Raises:
        LoweringError: a rule can't lower its call (a training op, a dynamic size where ONNX needs a number).
    """
    builder = Builder(program, opset)
    names = builder.graph.names
    nodes = live_nodes(program)
    inputs = [builder.graph.add_input(s.name, s.dtype) for s in program.signature.tensor_inputs]
    outputs = [names.unique(s.name) for s in program.signature.computed_outputs]
    for node, value in zip(program.placeholders(), inputs, strict=True):
        builder.bind(node, value)
    for node in nodes:
        if node.op == "get_attr":
            builder.bind(node, builder.weight(node))
        elif node.op == "call_function":
            builder.enter(node)
            builder.bind(node, _lower(builder, node))
    return _finish(builder, nodes, inputs, outputs)


def has_rule(node: Node) -> bool:
    """Whether a call can be lowered: by a rule, by ops that it is made of, or by onnxscript."""
    return _has_own_rule(node) or lowered_by_torchlib(node)


def _has_own_rule(node: Node) -> bool:
    if is_random(node) and op_key(node.target).startswith("aten."):
        return False  # ONNX has no generator that draws what torch's does
    if node.target is operator.getitem or _rule(node) is not None:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    if _is_constant(node):
        return True
    try:
        return decomposed(node, has_rule) is not None
    except RecipeError:
        return True  # the lowering says why it is not taken


def _rule(node: Node) -> Callable[[Builder, Node], object] | None:
    return complex_rule(node) if is_complex(node) else find_rule("onnx", node.target)


def _is_constant(node: Node) -> bool:
    """Whether a call's arguments are literals only, so that its result is known: a window, a table."""
    value = node.meta.get("val")
    fixed = isinstance(value, torch.Tensor) and all(isinstance(s, int) for s in value.shape)
    return fixed and not node.all_input_nodes and not is_random(node)


def lowered_by_torchlib(node: Node) -> bool:
    """Whether a call is lowered by a function of onnxscript's."""
    if not isinstance(node.target, torch._ops.OpOverload) or _has_own_rule(node):
        return False
    if is_random(node) or is_complex(node):
        return False
    from fxopt.lowering.onnx.torchlib import knows

    return knows(node.target)


def _lower(builder: Builder, node: Node) -> Result:
    if node.target is operator.getitem:
        source, index = node.args
        assert isinstance(source, Node)
        assert isinstance(index, int)
        results = builder.result(source)
        if isinstance(results, str) or index >= len(results) or not results[index]:
            builder.enter(source)
            raise builder.error(f"its result {index} is not offered")
        return results[index]
    value = node.meta.get("val")
    if isinstance(value, torch.SymInt):
        try:
            return builder.sizes.value(value)
        except UnknownSizeError:
            pass
    elif type(value) is int and not isinstance(node.target, torch._ops.OpOverload):
        return builder.ints([value])
    rule = _rule(node)
    if rule is not None:
        return _by_rule(builder, node, rule)
    if _is_constant(node):
        assert callable(node.target)
        with torch.no_grad():
            constant = node.target(*node.args, **node.kwargs)
        return builder.constant(constant, constant.dtype)
    parts = _parts(builder, node)
    if parts is not None:
        return lower_decomposed(builder, node, parts, _lower)
    from fxopt.lowering.onnx.torchlib import lower_by_torchlib

    builder.notes.append(op_key(node.target))
    return lower_by_torchlib(builder, node)


def _by_rule(builder: Builder, node: Node, rule: Callable[[Builder, Node], object]) -> Result:
    """By the rule, or where that writes an op that has no kernel, by parts, if there are any."""
    try:
        result: Result = rule(builder, node)  # type: ignore[assignment]
    except NoKernelError as error:
        # By ops with rules alone: torch's decompositions go on to its own primitives, which onnxscript takes for the op again.
        parts = decomposed(node, _has_own_rule)
        if parts is None:
            raise
        try:
            return lower_decomposed(builder, node, parts, _lower)
        except NoKernelError:
            raise error from None
    return result


def _parts(builder: Builder, node: Node) -> GraphModule | None:
    """The call as other ops.

    Raises:
        LoweringError: a recipe does not take it.
    """
    try:
        return decomposed(node, has_rule)
    except RecipeError as error:
        raise builder.error(str(error)) from None


def lower_by_parts(builder: Builder, node: Node) -> Result:
    """Lowers a call by its recipe, for a rule that leaves some calls to it."""
    parts = _parts(builder, node)
    if parts is None:
        raise builder.error("a result that the rule does not give")
    return lower_decomposed(builder, node, parts, _lower)


def _finish(builder: Builder, nodes: list[Node], inputs: list[Value], outputs: list[Value]) -> Recording:
    """Names, outputs, and the removal of what no output needs."""
    graph = builder.graph
    made = {v for n in graph.nodes for v in n.outputs}
    returned = _returned(builder)
    names: dict[Value, Value] = {}
    copies: list[OnnxNode] = []
    for value, name in zip(returned, outputs, strict=True):
        if value in made and value not in names:
            names[value] = name
        else:
            copies.append(OnnxNode("Identity", (value,), (name,), {}, name, ""))
    for node in nodes:
        if node.op == "call_function":
            _name_result(builder, node, made, names)
    result = [_renamed(n, names) for n in (*graph.nodes, *copies)]
    result = _needed(result, outputs)
    used = {v for n in result for v in n.inputs}
    dtypes = {names.get(v, v): dtype for v, dtype in graph.dtypes.items()}
    picked = {f"v_{n.name}" for n in nodes if n.op == "call_function" and is_choice(n)}
    return Recording(
        nodes=with_branches(result, outputs, dtypes, picked),
        initializers={v: t for v, t in graph.initializers.items() if v in used},
        inputs=inputs,
        outputs=outputs,
        notes=_torchlib_note(builder.notes),
        four_bits={v: shape for v, shape in graph.four_bits.items() if v in used},
    )


def _returned(builder: Builder) -> list[Value]:
    """The values of the computed outputs, numbers as scalars."""
    values: list[Value] = []
    program = builder.program
    for spec, node in zip(program.signature.computed_outputs, program.output_nodes(), strict=True):
        assert isinstance(node, Node)
        builder.enter(node)
        values.append(builder.number(node) if isinstance(spec, ScalarSpec) else builder.value(node))
    return values


def _name_result(builder: Builder, node: Node, made: set[Value], names: dict[Value, Value]) -> None:
    result = builder.result(node)
    values = (result,) if isinstance(result, str) else result
    for i, value in enumerate(values):
        if value in made and value not in names and value.startswith(f"v_{node.name}."):
            base = f"v_{node.name}" if isinstance(result, str) else f"v_{node.name}.{i}"
            names[value] = builder.graph.names.unique(base)


def _renamed(node: OnnxNode, names: dict[Value, Value]) -> OnnxNode:
    node.inputs = tuple(names.get(v, v) for v in node.inputs)
    node.outputs = tuple(names.get(v, v) for v in node.outputs)
    return node


def _needed(nodes: list[OnnxNode], outputs: list[Value]) -> list[OnnxNode]:
    needed = set(outputs)
    kept: list[OnnxNode] = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _torchlib_note(ops: list[str]) -> list[str]:
    return [f"lowered by onnxscript's functions: {', '.join(sorted(set(ops)))}"] if ops else []
