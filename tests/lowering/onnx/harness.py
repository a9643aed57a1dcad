"""Lowers small functions and compares the file with the program, at several sizes of the batch."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field

import onnx
import torch
from torch import nn

from fxopt.frontend import trace
from fxopt.lowering.artifact import Artifact
from fxopt.lowering.onnx.target import DEFAULT_OPSET, OnnxTarget
from fxopt.lowering.target import Emitted
from fxopt.program.program import Program

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Relative L2 error that another order of the same arithmetic may make, by dtype of the result."""


class Apply(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> object:
        return self.function(*inputs)


@dataclass(frozen=True)
class Case:
    """A function (or module) to lower, and its example inputs, whose axis 0 is a batch unless `fixed`."""

    name: str
    function: Callable[..., object]
    inputs: tuple[torch.Tensor, ...]
    fixed: bool = False
    opsets: tuple[int, ...] = (20,)
    ops: tuple[str, ...] = field(default=())
    """Types of ONNX ops that must be there."""

    def __str__(self) -> str:
        return self.name


def program_of(case: Case) -> Program:
    module = case.function if isinstance(case.function, nn.Module) else Apply(case.function)
    axes = [{0: "batch"} for _ in case.inputs]
    shapes = {f"inputs_{i}": a for i, a in enumerate(axes)} if isinstance(module, Apply) else tuple(axes)
    return trace(module.eval(), case.inputs, dynamic_shapes=None if case.fixed else shapes)


def opened(emitted: Emitted) -> Artifact:
    """The file's artifact; the runtime has read the file when this returns."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        with open(path, "wb") as file:
            file.write(emitted.content)
        if emitted.data is not None:
            with open(os.path.join(folder, str(emitted.data_name)), "wb") as file:
                file.write(emitted.data)
        return OnnxTarget().open(path)


def model_of(emitted: Emitted) -> onnx.ModelProto:
    return onnx.load_from_string(emitted.content)


def op_types(emitted: Emitted) -> list[str]:
    return [n.op_type for n in model_of(emitted).graph.node]


def resized(inputs: tuple[torch.Tensor, ...], batch: int) -> list[torch.Tensor]:
    """The inputs at another size of axis 0: their rows in turn."""
    return [t[torch.arange(batch) % t.shape[0]].contiguous() for t in inputs]


def assert_same(got: object, expected: object, scale: float = 1.0) -> None:
    """The same number, or the same shape, dtype, places of NaN and infinities, and nearly the same values."""
    if not isinstance(expected, torch.Tensor):
        assert type(got) is type(expected)
        assert got == expected
        return
    assert isinstance(got, torch.Tensor)
    assert got.dtype is expected.dtype
    assert got.shape == expected.shape
    if not expected.is_floating_point():
        assert torch.equal(got, expected)
        return
    x, y = got.detach().double(), expected.detach().double()
    finite = torch.isfinite(y)
    assert torch.equal(torch.nan_to_num(x[~finite], nan=7.0), torch.nan_to_num(y[~finite], nan=7.0))
    error = float((x[finite] - y[finite]).norm()) / max(float(y[finite].norm()), 1e-30)
    assert error <= BOUNDS[expected.dtype] * scale, f"relative error {error:.1e}"


def check(case: Case, *, opset: int = 20) -> Emitted:
    """Lowers a case and compares the file at the example and, with a dynamic batch, at 1 and at 5."""
    program = program_of(case)
    emitted = OnnxTarget().emit(program, opset=opset, optimize=False)
    artifact = opened(emitted)
    batches = [None] if case.fixed else [None, 1, 5]
    for batch in batches:
        tensors = list(case.inputs) if batch is None else resized(case.inputs, batch)
        for got, expected in zip(artifact.run_flat(tensors), program.run_flat(tensors), strict=True):
            assert_same(got, expected)
    types = op_types(emitted)
    assert set(case.ops) <= set(types), types
    return emitted


def check_sizes(
    function: Callable[..., object],
    example: torch.Tensor,
    axes: dict[int, str],
    *others: torch.Tensor,
    opsets: tuple[int, ...] = (18, DEFAULT_OPSET),
) -> None:
    """Lowers a function of one tensor with these axes dynamic, and compares the file at the example and at others."""
    program = trace(Apply(function).eval(), (example,), dynamic_shapes={"inputs_0": axes})
    for opset in opsets:
        artifact = opened(OnnxTarget().emit(program, opset=opset, optimize=False))
        for x in (example, *others):
            for got, expected in zip(artifact.run_flat([x]), program.run_flat([x]), strict=True):
                assert_same(got, expected)
