"""From a stored graph to a `Program`: new sizes under the user's names, every value inferred anew.

Sizes keep the range and the example that they were traced with, so that shape functions decide as they did
then.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import sympy
import torch
from torch._subclasses import FakeTensorMode
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils._sympy.value_ranges import ValueRanges

from fxopt.errors import ArtifactError
from fxopt.program.inference import fake_value, infer_value
from fxopt.program.program import Program, new_fake_mode
from fxopt.program.signature import Dim, Signature, TensorSpec, evaluate_dim

__all__ = ["Size", "infer_values", "revive", "sizes_from_json", "sizes_of", "sizes_to_json"]


@dataclass(frozen=True)
class Size:
    """A symbol of the inputs' shapes: the name it has in them, its range, the size it was traced with."""

    name: str
    low: int
    high: int | None
    example: int
    named: bool
    """The user's name, not the tracer's."""


def sizes_of(program: Program) -> list[Size]:
    """The symbols of the inputs' shapes, in the order in which they appear; those of one name are one."""
    found: dict[str, Size] = {}
    env = program.fake_mode.shape_env
    for node in program.placeholders():
        for size in node.meta["val"].shape:
            if isinstance(size, torch.SymInt) and env is not None:
                for symbol in sorted(size.node.expr.free_symbols, key=str):
                    entry = _size(program, env, symbol)
                    found[entry.name] = _both(found.get(entry.name, entry), entry)
    return list(found.values())


def _size(program: Program, env: ShapeEnv, symbol: sympy.Symbol) -> Size:
    bounds = env.var_to_range.get(symbol)
    low, high = (getattr(bounds, k, None) for k in ("lower", "upper"))
    example = env.backed_var_to_val.get(symbol)
    return Size(
        program.symbol_names.get(symbol, str(symbol)),
        int(low) if isinstance(low, (int, sympy.Integer)) else 0,
        int(high) if isinstance(high, (int, sympy.Integer)) else None,
        int(example) if isinstance(example, (int, sympy.Integer)) else 7,
        symbol in program.symbol_names,
    )


def _both(a: Size, b: Size) -> Size:
    """One size for two symbols of one name: what both ranges allow."""
    high = min((h for h in (a.high, b.high) if h is not None), default=None)
    return replace(a, low=max(a.low, b.low), high=high)


def sizes_to_json(sizes: list[Size]) -> list[dict[str, object]]:
    """Sizes as JSON."""
    return [vars(size) for size in sizes]


def sizes_from_json(value: object) -> list[Size]:
    """The sizes of `sizes_to_json`'s output.

    Raises:
        ArtifactError: it is malformed.
    """
    sizes: list[Size] = []
    for entry in value if isinstance(value, list) else [None]:
        match entry:
            case {
                "name": str(name),
                "low": int(low),
                "high": int() | None as high,
                "example": int(example),
                "named": bool(named),
            } if low <= example and (high is None or example <= high):
                sizes.append(Size(name, low, high, example, named))
            case _:
                raise ArtifactError(f"the file's table of sizes is malformed: {str(entry)[:60]}")
    return sizes


def _symbol(env: ShapeEnv, size: Size) -> tuple[sympy.Symbol, int]:
    # Costs a second, which opening an artifact, that needs no values, should not.
    from torch._dynamo.source import ConstantSource

    source = ConstantSource(f"size_{size.name}")
    symbol = env.create_symbol(
        size.example, source, DimDynamic.DYNAMIC, None, do_not_specialize_zero_one=True
    )
    env.var_to_range[symbol] = ValueRanges(size.low, sympy.oo if size.high is None else size.high)
    return symbol, env.create_symintnode(symbol, hint=size.example, source=source)  # type: ignore[return-value]


def _placeholder(mode: FakeTensorMode, spec: TensorSpec, sizes: dict[str, int]) -> torch.Tensor:
    shape: list[Dim] = [evaluate_dim(d, sizes) for d in spec.shape]
    with mode:
        return torch.empty(shape, dtype=spec.dtype, device=spec.device)  # type: ignore[arg-type]  # symbolic numbers


def revive(
    graph: Graph,
    weights: dict[str, torch.Tensor],
    signature: Signature,
    sizes: list[Size],
    *,
    values: bool = True,
) -> Program:
    """The program of a stored graph.

    Args:
        graph: nodes without values.
        weights: by name.
        signature: as stored.
        sizes: the symbols of the inputs' shapes.
        values: infer `meta["val"]`; what only runs the graph needs none.

    Raises:
        ArtifactError: graph and signature disagree, or an op does not take its arguments.
    """
    mode = new_fake_mode()
    program = Program(graph, weights, signature, fake_mode=mode)
    if len(program.placeholders()) != len(signature.tensor_inputs):
        raise ArtifactError("the graph takes another number of inputs than the signature says")
    if len(program.output_nodes()) != len(signature.computed_outputs):
        raise ArtifactError("the graph returns another number of results than the signature says")
    if values:
        infer_values(program, sizes)
    return program


def infer_values(program: Program, sizes: list[Size]) -> None:
    """Gives each node of a program that has none its `meta["val"]`.

    Args:
        program: its fake mode is fresh.
        sizes: the symbols of the inputs' shapes.

    Raises:
        ArtifactError: an op does not take its arguments, or the signature says otherwise.
    """
    env = program.fake_mode.shape_env
    assert env is not None
    named: dict[str, int] = {}
    for size in sizes:
        symbol, named[size.name] = _symbol(env, size)
        if size.named:
            program.symbol_names[symbol] = size.name
    specs = iter(program.signature.tensor_inputs)
    inferred: dict[str, Callable[[Node], object]] = {
        "placeholder": lambda _: _placeholder(program.fake_mode, next(specs), named),
        "get_attr": lambda n: fake_value(program, program.weights[str(n.target)]),
        "call_function": lambda n: infer_value(program, n.target, n.args, n.kwargs),
    }
    for node in program.graph.nodes:
        if node.op == "output":
            continue
        try:
            node.meta["val"] = inferred[node.op](node)
        except Exception as error:  # shape functions raise whatever they like
            first = str(error).strip().splitlines()
            raise ArtifactError(
                f"the graph is malformed at {node.name}: {first[0] if first else type(error).__name__}"
            ) from error
    _check_outputs(program)


def _check_outputs(program: Program) -> None:
    for spec, node in zip(program.signature.computed_outputs, program.output_nodes(), strict=True):
        assert isinstance(node, Node)
        value = node.meta["val"]
        agrees = isinstance(value, torch.Tensor) == isinstance(spec, TensorSpec)
        if agrees and isinstance(spec, TensorSpec):
            fixed = [
                (d, program.dim(s))
                for d, s in zip(spec.shape, value.shape, strict=False)
                if isinstance(d, int)
            ]
            agrees = value.dtype == spec.dtype and value.dim() == len(spec.shape)
            agrees = agrees and all(a == b or isinstance(b, str) for a, b in fixed)
        if not agrees:
            raise ArtifactError(f"the graph does not compute the output {spec} that the signature names")
