"""The inner values of a program or an ONNX file at given inputs.

>>> import torch
>>> from fxopt.frontend import trace
>>> program = trace(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Tanh()).eval(), (torch.ones(2),))
>>> [v.name for v in program_values(program, [torch.ones(2)])]
['relu', 'tanh']
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fxopt.lowering.tensors import pack, unpack_value
from fxopt.lowering.wire import Packed
from fxopt.ops import op_key
from fxopt.program import Origin, Program, origins_of
from fxopt.verification.doubling import NoFloat64Error, as_double, double_program
from fxopt.verification.evaluator import evaluate_each, float64_kernels

__all__ = ["InnerValue", "double_values", "onnx_values", "program_values"]

_MOST_BYTES = 2**31
"""Of a file whose inner values are looked at."""


@dataclass(frozen=True)
class InnerValue:
    """A tensor that is computed on the way."""

    name: str
    op: str
    tensor: torch.Tensor
    origins: tuple[Origin, ...] = ()


def program_values(program: Program, tensors: Sequence[torch.Tensor]) -> list[InnerValue]:
    """The values of a program's calls, in order."""
    found = evaluate_each(program, tensors)
    return [
        InnerValue(n.name, op_key(n.target), value.detach(), origins_of(n))
        for n, value in found.items()
        if n.op == "call_function" and isinstance(value, torch.Tensor)
    ]


def double_values(program: Program, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values in float64, by name; none where there is no float64 form."""
    try:
        with float64_kernels():
            found = evaluate_each(double_program(program), [as_double(t) for t in tensors])
    except NoFloat64Error:
        return {}
    return {n.name: value for n, value in found.items() if isinstance(value, torch.Tensor)}


def onnx_values(path: str, tensors: Sequence[torch.Tensor]) -> list[InnerValue]:
    """The values of an ONNX file's nodes, in order, where its outer graph computes them.

    Raises:
        Exception: what the runtime raises for the file with all values as outputs.
    """
    import onnx

    from fxopt.lowering.onnx.run import open_session

    model = onnx.load(path)
    known = {o.name for o in model.graph.output}
    made = {name: node.op_type for node in model.graph.node for name in node.output if name}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in known)
    with tempfile.TemporaryDirectory(prefix="fxopt-inner-") as folder:
        file = Path(folder) / "inner.onnx"
        onnx.save(model, str(file))
        session = open_session(str(file))
        packed = [p for p in map(pack, tensors) if isinstance(p, Packed)]
        results = [unpack_value(v) for v in session.values(packed)]
    values = dict(zip([p.name for p in session.outputs], results, strict=True))
    return [
        InnerValue(name, op, value)
        for name, op in made.items()
        if isinstance(value := values.get(name), torch.Tensor)
    ]
