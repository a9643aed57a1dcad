"""What the tests of passes share: programs of plain functions, runs with every check, readable comparisons.

`applied` is the way to run a pass in a test: beside the rewrite it holds the pass to all that
`fxopt.testing.check_once` knows, its contract by both oracles among them.

>>> before = program(lambda x: (x * 1).relu(), rand(2, 3))
>>> calls(before)
['mul', 'relu']
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.fx import Node

from fxopt.frontend import trace
from fxopt.ops import op_key
from fxopt.pipeline import Pass, PassManager, PipelineResult
from fxopt.program import Program, evaluate_dim, origins_of
from fxopt.program.text import value_text
from fxopt.report import Verdict
from fxopt.testing import check_once
from fxopt.verification import compare_exact, evaluate

__all__ = ["Function", "applied", "at_sizes", "calls", "program", "rand", "reasons", "structure", "unchanged"]


class Function(nn.Module):
    """A function of tensors and of weights, which it takes by name."""

    def __init__(self, function: Callable[..., object], weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.names = list(weights)
        for name, weight in weights.items():
            self.register_buffer(name, weight)

    def forward(self, *args: torch.Tensor) -> object:
        return self.function(*args, **{n: getattr(self, n) for n in self.names})


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal numbers, the same each time."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def program(
    function: Callable[..., object] | nn.Module,
    *args: torch.Tensor,
    dynamic: bool = False,
    **weights: torch.Tensor,
) -> Program:
    """The program of a function or module; `dynamic` lets axis 0 of every argument vary together."""
    module = function if isinstance(function, nn.Module) else Function(function, weights)
    shapes = [{0: "batch"} for _ in args] if dynamic else None
    return trace(module.eval(), args, dynamic_shapes=shapes)


def applied(item: Pass, before: Program, *, idempotent: bool = True) -> PipelineResult:
    """Runs a pass and checks what it promises: contract, idempotence, determinism, provenance, dialect."""
    check_once(item, before, idempotent=idempotent)
    result = PassManager.of([item]).run(before)
    _check_provenance(before, result)
    return result


def unchanged(item: Pass, before: Program) -> list[str]:
    """Asserts that a pass does nothing here; returns why."""
    result = applied(item, before)
    assert str(result.program) == str(before)
    return reasons(result)


def at_sizes(before: Program, after: Program, sizes: tuple[int, ...] = (0, 1, 2, 5)) -> None:
    """Asserts that two programs give the same bits at these sizes of a dynamic batch, 0 among them."""
    for size in sizes:
        tensors = []
        for i, spec in enumerate(before.signature.tensor_inputs):
            shape = [evaluate_dim(d, {"batch": size}) for d in spec.shape]
            tensors.append((rand(*shape, seed=i) * 3).to(spec.dtype))
        expected, got = evaluate(before, tensors), evaluate(after, tensors)
        for a, b in zip(expected, got, strict=True):
            assert type(a) is type(b)
            if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
                assert compare_exact(b, a).verdict is Verdict.EQUIVALENT, f"at batch {size}"
            else:
                assert a == b


def calls(program: Program) -> list[str]:
    """The ops in order, without namespace and overload."""
    return [_name(n) for n in program.calls()]


def reasons(result: PipelineResult) -> list[str]:
    """Why rewrites were refused."""
    return [r.reason for p in result.passes for r in p.refusals]


def structure(program: Program) -> list[str]:
    """A program without names and weight values: equal for two programs of one graph."""
    names = {n: f"%{i}" for i, n in enumerate(program.placeholders())}
    lines = []
    for node in program.calls():
        names[node] = f"%{len(names)}"
        args = [*node.args, *(f"{k}={_text(v, names, program)}" for k, v in node.kwargs.items())]
        text = ", ".join(a if isinstance(a, str) else _text(a, names, program) for a in args)
        kind = value_text(program, node.meta["val"])
        lines.append(f"{names[node]}: {kind} = {op_key(node.target)}({text})")
    returned = ", ".join(_text(o, names, program) for o in program.output_nodes())
    return [*lines, f"return {returned}"]


def _text(value: object, names: dict[Node, str], program: Program) -> str:
    if isinstance(value, Node):
        return names.get(value) or f"weight {value_text(program, value.meta['val'])}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_text(v, names, program) for v in value)}]"
    return repr(value)


def _name(node: Node) -> str:
    parts = op_key(node.target).split(".")
    return parts[1]


def _check_provenance(before: Program, result: PipelineResult) -> None:
    """What a rewrite makes carries the sources of all that it removed."""
    alive = {n.name: n for n in result.program.calls()}
    sources = {n.name: set(origins_of(n)) for n in before.calls()}
    for rewrite in (r for journal in result.journals for r in journal.rewrites):
        for name in rewrite.removed:
            lost = sources.get(name, set()) - set(rewrite.origins)
            assert not lost, f"{rewrite.rule} loses where {name} came from: {lost}"
        kept = [n for n in rewrite.created if n in alive]
        for name in kept:
            sources[name] = set(origins_of(alive[name]))
            assert sources[name], f"{name} comes from nowhere"
        # What is made instead of one node has that node's sources, all together have those of all.
        if len(kept) == len(rewrite.created):
            assert {o for n in kept for o in sources[n]} >= (set(rewrite.origins) if kept else set())
