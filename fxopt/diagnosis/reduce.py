"""`reduce_program`: the smallest program that still fails in the same way, by steps that each keep it failing.

Outputs are cut, what lies far before them becomes an input, calls are passed by or become inputs, sizes are
made small consistently, dynamic sizes fixed, weights made plain. A step that gives no valid program, or one that
does not fail in the same way, is undone; the largest program that was seen not to fail is kept beside.

>>> import torch
>>> from fxopt.frontend import trace
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.ReLU(), torch.nn.Linear(4, 4))
>>> program = trace(model.eval(), (torch.zeros(3, 4),))
>>> has_tanh = lambda p: any("tanh" in str(n.target) for n in p.calls())
>>> reduction = reduce_program(program, has_tanh)
>>> [n.name for n in reduction.program.calls()], [str(s) for s in reduction.program.signature.inputs]
(['tanh'], ['linear: f32[1, 1]'])
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.fx import Node

from fxopt.diagnosis.rebuild import Edit, rebuild
from fxopt.diagnosis.shrink import plainer_weights, smaller_sizes, static_sizes
from fxopt.program import Program

__all__ = ["Reduction", "call_count", "reduce_program"]

Interesting = Callable[[Program], bool]


@dataclass(frozen=True)
class Reduction:
    """What a reduction came to.

    Attributes:
        program: the smallest that fails in the same way.
        passing: the largest that was tried and does not; None if none was.
        tried: how many programs were run.
        seconds: all of it.
        complete: False if it was stopped by its time limit.
    """

    program: Program
    passing: Program | None
    tried: int
    seconds: float
    complete: bool


class _Reducer:
    """The state of one reduction."""

    def __init__(self, program: Program, interesting: Interesting, seconds: float) -> None:
        self.program = program
        self.interesting = interesting
        self.passing: Program | None = None
        self.tried = 0
        self.start = time.monotonic()
        self.end = self.start + seconds

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.end

    def take(self, edit: Edit) -> bool:
        """Makes an edit if the program still fails with it."""
        if self.late:
            return False
        smaller = rebuild(self.program, edit)
        if smaller is None:
            return False
        self.tried += 1
        if self.interesting(smaller):
            self.program = smaller
            return True
        if self.passing is None or call_count(smaller) > call_count(self.passing):
            self.passing = smaller
        return False

    def run(self, near: str | None) -> None:
        """All kinds of steps, until none makes it smaller."""
        self._cut_outputs(near)
        self._cut_inputs()
        size = None
        while size != (size := _measure(self.program)) and not self.late:
            self._cut_outputs(None)
            self._drop_calls()
            for edits in (static_sizes, smaller_sizes, plainer_weights):
                self._exhaust(edits)

    def _exhaust(self, edits: Callable[[Program], Iterator[Edit]]) -> None:
        """Takes the first edit that can be taken, and looks again, until none can."""
        while any(self.take(edit) for edit in edits(self.program)):
            pass

    def _cut_outputs(self, near: str | None) -> None:
        """One output if that will do: a node near the bad rewrite, the earliest, else as few as will do."""
        nodes = list(self.program.calls())
        if near is not None:
            root = next((n for n in nodes if n.name == near), None)
            close = _downstream(root, 3) if root is not None else []
            if any(self.take(Edit(outputs=(n,))) for n in close):
                return
        outputs = [n for n in self.program.output_nodes() if isinstance(n, Node)]
        if len(outputs) > 1 and not any(self.take(Edit(outputs=(n,))) for n in outputs):
            self._fewer_outputs()
        self._earlier_output()

    def _fewer_outputs(self) -> None:
        for index in reversed(range(len(self.program.output_nodes()))):
            nodes = [n for n in self.program.output_nodes() if isinstance(n, Node)]
            if len(nodes) > 1:
                self.take(Edit(outputs=tuple(n for i, n in enumerate(nodes) if i != index)))

    def _earlier_output(self) -> None:
        """An output is replaced by what it is computed from, as long as that will do."""
        again = True
        while again and not self.late:
            again = False
            outputs = [n for n in self.program.output_nodes() if isinstance(n, Node)]
            for at, output in enumerate(outputs):
                sources = [n for n in output.all_input_nodes if n.op == "call_function"]
                options = [*((s,) for s in sources), *([tuple(sources)] if len(sources) > 1 else [])]
                rest = (*outputs[:at],), (*outputs[at + 1 :],)
                if any(self.take(Edit(outputs=(*rest[0], *option, *rest[1]))) for option in options):
                    again = True
                    break

    def _cut_inputs(self) -> None:
        """What is more than so many calls before the outputs becomes inputs; the number grows till it fails."""
        count = call_count(self.program)
        distance = 1
        while distance < count:
            frontier = _frontier(self.program, distance)
            if frontier and self.take(Edit(inputs=frozenset(frontier))):
                return
            distance += max(1, distance // 2)

    def _drop_calls(self) -> None:
        """Each call in turn, from the last: passed by, or an input, or with an earlier value in its place."""
        names = [n.name for n in self.program.calls()][::-1]
        for name in names:
            node = next((n for n in self.program.calls() if n.name == name), None)
            if node is not None:
                any(self.take(edit) for edit in _without(self.program, node))


def reduce_program(
    program: Program, interesting: Interesting, *, near: str | None = None, seconds: float = 300.0
) -> Reduction:
    """Makes a program smaller as long as `interesting` holds.

    Args:
        program: for which it holds; left as it is.
        interesting: whether a program still fails in the same way; it may be called hundreds of times.
        near: the name of a node where the failure is, to begin with.
        seconds: when to stop at the latest.

    Returns:
        The smallest program found, and the largest that is not interesting.
    """
    reducer = _Reducer(program, interesting, seconds)
    reducer.run(near)
    taken = time.monotonic() - reducer.start
    return Reduction(reducer.program, reducer.passing, reducer.tried, taken, complete=not reducer.late)


def call_count(program: Program) -> int:
    """How many calls a program makes."""
    return sum(1 for _ in program.calls())


def _measure(program: Program) -> tuple[int, int, int]:
    """What has to become less from round to round: calls, inputs, elements."""
    sizes = sum(t.numel() for t in program.weights.values())
    return call_count(program), len(program.signature.inputs), sizes


def _downstream(node: Node, steps: int) -> list[Node]:
    """A node and the calls up to so many steps after it, nearest first."""
    found: dict[Node, None] = {node: None}
    edge = [node]
    for _ in range(steps):
        edge = [u for n in edge for u in n.users if u.op == "call_function"]
        found.update(dict.fromkeys(edge))
    return list(found)


def _frontier(program: Program, distance: int) -> list[Node]:
    """The calls that are `distance` steps before the outputs, on the shortest way."""
    edge = {n for n in program.output_nodes() if isinstance(n, Node)}
    seen = set(edge)
    for _ in range(distance):
        edge = {i for n in edge for i in n.all_input_nodes if i not in seen}
        seen |= edge
    return [n for n in edge if n.op == "call_function" and isinstance(n.meta.get("val"), torch.Tensor)]


def _without(program: Program, node: Node) -> Iterator[Edit]:
    """Edits that do without a call."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return
    described = (value.dtype, str(tuple(value.shape)))
    for other in node.all_input_nodes:
        like = other.meta.get("val")
        if isinstance(like, torch.Tensor) and (like.dtype, str(tuple(like.shape))) == described:
            yield Edit(aliases={node: other})
    yield Edit(inputs=frozenset({node}))
    for other in program.placeholders():
        like = other.meta["val"]
        if (like.dtype, str(tuple(like.shape))) == described:
            yield Edit(aliases={node: other})
