"""What a rewrite costs: a rule over a long chain, beside the bare torch.fx edits that it comes down to.

    python benchmarks/bench_rule.py [--pairs 3000] [--rounds 5]

Microseconds of processor time, the best of some rounds, taken in turns. Types are inferred and recorded once a
program; a rewrite also keeps the undo journal, provenance and the ledger that finds edits around the Rewriter.
"""

import argparse
import gc
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from fxopt.program import Program
from fxopt.rewriting import Rewriter, Rule, apply_rules
from fxopt.rewriting.ledger import Ledger
from fxopt.testing import ProgramBuilder

T = TypeVar("T")
_RELU = torch.ops.aten.relu.default


def pattern(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(torch.relu(x))


def replacement(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x)


RULES = [Rule(pattern, replacement)]


def chain(pairs: int, *, doubled: bool) -> Program:
    b = ProgramBuilder()
    x = b.input((b.batch, 8))
    for _ in range(pairs):
        x = b.call("aten.relu", b.call("aten.relu", x) if doubled else x)
        x = b.call("aten.sigmoid", x)
    return b.finish(x)


def by_rule(rewriter: Rewriter) -> None:
    apply_rules(rewriter, RULES)


def by_hand(program: Program) -> None:
    graph = program.graph
    outer = [n for n in graph.nodes if n.target is _RELU and n.args[0].target is _RELU]
    for node in outer:
        inner = node.args[0]
        with graph.inserting_before(node):
            made = graph.create_node("call_function", _RELU, inner.args)
        made.meta = {"val": node.meta["val"]}
        node.replace_all_uses_with(made)
        graph.erase_node(node)
        graph.erase_node(inner)


def rewriter(program: Program) -> Rewriter:
    return Rewriter(program, ledger=Ledger(program))


def microseconds(run: Callable[[T], None], subject: T, per: int) -> float:
    gc.collect()
    gc.disable()  # as the pass manager does while passes run
    start = time.process_time()
    run(subject)
    seconds = time.process_time() - start
    gc.enable()
    return 1e6 * seconds / per


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    pairs = options.pairs
    by_rule(rewriter(chain(10, doubled=True)))  # the rule is prepared once a process
    rows = [
        (
            microseconds(by_rule, rewriter(chain(pairs, doubled=True)), pairs),
            microseconds(by_hand, chain(pairs, doubled=True), pairs),
            microseconds(by_rule, rewriter(chain(pairs, doubled=False)), 2 * pairs),
        )
        for _ in range(options.rounds)
    ]
    rule, hand, quiet = (min(column) for column in zip(*rows, strict=True))
    print(f"a rewrite {rule:.1f} us, the bare edits {hand:.1f} us; a node without a match {quiet:.2f} us")


if __name__ == "__main__":
    main()
