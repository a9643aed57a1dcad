"""O1 again changes nothing, and gives the same program whatever the order in which the input's calls stand."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.fx import Node

from fxopt.ops import is_commutative, op_key
from fxopt.pipeline import PassManager
from fxopt.program import Program
from fxopt.testing import ProgramBuilder, programs

O1 = PassManager.parse("O1")
MOTIFS = tuple(motif for item in O1.passes() for motif in item.all_motifs())


def reordered(program: Program, seed: int) -> Program:
    """The same calls in another order, each after what it reads."""
    again, draw = program.copy(), random.Random(seed)
    waiting = [n for n in again.graph.nodes if n.op == "call_function"]
    placed = {n for n in again.graph.nodes if n.op != "call_function"}
    output = next(n for n in again.graph.nodes if n.op == "output")
    while waiting:
        node = draw.choice([n for n in waiting if placed.issuperset(n.all_input_nodes)])
        output.prepend(node)
        placed.add(node)
        waiting.remove(node)
    return again


def canonical(program: Program) -> list[str]:
    """The calls that the outputs need, numbered from the outputs on; operands that may be swapped in one order."""
    texts: dict[Node, str] = {n: f"%{i}" for i, n in enumerate(program.placeholders())}
    lines: list[str] = []

    def text(value: object) -> str:
        if isinstance(value, Node):
            return texts.get(value) or visit(value)
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(text, value))}]"
        return repr(value)

    def visit(node: Node) -> str:
        if node.op == "get_attr":
            weight = program.weights[str(node.target)]
            texts[node] = f"weight {weight.dtype} {weight.tolist()}"
            return texts[node]
        arguments = [text(a) for a in node.args]
        if is_commutative(node):
            arguments.sort()
        arguments += [f"{k}={text(v)}" for k, v in sorted(node.kwargs.items())]
        lines.append(f"{op_key(node.target)}({', '.join(arguments)})")
        texts[node] = lines[-1]
        return texts[node]

    return [*(text(node) for node in program.output_nodes()), *sorted(lines)]


def test_an_order_is_another_text_and_the_same_program():
    b = ProgramBuilder()
    x = b.input((2, 3))
    program = b.finish(b.call("aten.add", b.call("aten.relu", x), b.call("aten.neg", x)))
    again = next(p for p in (reordered(program, seed) for seed in range(9)) if str(p) != str(program))
    assert canonical(again) == canonical(program)
    other = ProgramBuilder()
    x = other.input((2, 3))
    assert canonical(other.finish(other.call("aten.relu", x))) != canonical(program)


@pytest.mark.slow
@settings(
    max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)  # the motifs of all passes are recorded
@given(programs(motifs=MOTIFS, max_ops=12), st.integers(0, 99))
def test_the_order_of_the_input_does_not_matter(program: Program, seed: int):
    assert canonical(O1.run(program).program) == canonical(O1.run(reordered(program, seed)).program)


@pytest.mark.slow
@settings(
    max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)  # the motifs of all passes are recorded
@given(programs(motifs=MOTIFS, max_ops=12))
def test_o1_again_changes_nothing(program: Program):
    again = O1.run(O1.run(program).program)
    assert [p.name for p in again.passes if p.changed] == []
