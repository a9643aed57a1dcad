"""The traced program against the model itself: at the example, and at a second size where sizes are dynamic.

A size that tracing burned in shows here as a `TraceError`, not as a wrong answer later.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxopt.errors import TraceError
from fxopt.frontend.inputs import Example, resized
from fxopt.program.program import Program
from fxopt.program.signature import TensorSpec, evaluate_dim, solve_sizes

__all__ = ["check_against_model", "warn_of_nan"]

_ROUNDING = 1e-3
"""Relative L2 difference above which two runs of one function in float32 are not rounding: capture can only differ by
kernel choice (torch's fused encoder path: 3e-6), a burned-in size differs by its whole value."""


def check_against_model(program: Program, model: nn.Module, example: Example) -> None:
    """Compares the program with the model at the example and at a second size.

    Raises:
        TraceError: they differ, naming the output and the sizes.
    """
    if any(t.is_meta for t in program.weights.values()) or program.signature.inputs != program.signature.inputs[: len(example.names)]:
        return
    _compare(program, model, example, "the example inputs")
    second = _second_size(program, example)
    if second is not None:
        sizes = ", ".join(f"{n} = {s}" for n, s in second[1].items())
        _compare(program, model, second[0], sizes)


def _second_size(program: Program, example: Example) -> tuple[Example, dict[str, int]] | None:
    """The example at other dynamic sizes (one more each, moved into range), or None where there are none."""
    symbols = program.signature.symbols
    if not symbols:
        return None
    tensors = [x for x in example.leaves if isinstance(x, torch.Tensor)]
    specs = program.signature.tensor_inputs
    old = solve_sizes(specs, [t.shape for t in tensors])
    new: dict[str, int] = {}
    for name, size in old.items():
        top = symbols[name].max if name in symbols else None
        new[name] = size + 1 if top is None or size < top else max(size - 1, 2)
    leaves: list[object] = []
    queue = iter(specs)
    for leaf in example.leaves:
        leaves.append(_resized(leaf, next(queue), new) if isinstance(leaf, torch.Tensor) else leaf)
    return example.with_leaves(leaves), new


def _resized(tensor: torch.Tensor, spec: TensorSpec, sizes: dict[str, int]) -> torch.Tensor:
    for axis, dim in enumerate(spec.shape):
        if isinstance(dim, str):
            tensor = resized(tensor, axis, evaluate_dim(dim, sizes))
    return tensor


def _run(call: object, example: Example) -> object:
    args, kwargs = pytree.tree_map(
        lambda t: t.clone() if isinstance(t, torch.Tensor) else t, (example.args, example.kwargs)
    )
    return call(*args, **kwargs)  # type: ignore[operator]


def _compare(program: Program, model: nn.Module, example: Example, where: str) -> None:
    try:
        expected = _run(model, example)
    except Exception:  # noqa: BLE001  (what raises in the model may raise in the program)
        return
    try:
        got = _run(program, example)
    except Exception as error:
        first = str(error).strip().splitlines()
        raise TraceError(
            f"traced at the example, the program fails at {where} where the model runs: {first[0] if first else type(error).__name__}; "
            "a size is fixed in the model (int(x.shape[0] * 0.5), range(n), a constant): compute it from x.shape with integers"
        ) from error
    flat_expected, flat_got = pytree.tree_leaves(expected), pytree.tree_leaves(got)
    _compare_leaves(program, flat_expected, flat_got, where)


def _compare_leaves(program: Program, expected: Sequence[object], got: Sequence[object], where: str) -> None:
    if len(expected) != len(got):
        raise TraceError(f"at {where} the model returns {len(expected)} values, the traced program {len(got)}: its structure depends on a size")
    for spec, a, b in zip(program.signature.outputs, expected, got, strict=True):
        difference = _difference(a, b)
        if difference:
            raise TraceError(
                f"at {where} the traced program's {spec.name!r} differs from the model's ({difference}): "
                "a size or value was fixed while tracing; compute it from x.shape with integers"
            )


def _difference(a: object, b: object) -> str:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return "" if a == b or (a != a and b != b) else f"{a!r} against {b!r}"
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype} {tuple(a.shape)} against {b.dtype} {tuple(b.shape)}"
    if torch.equal(a, b) or a.numel() == 0:
        return ""
    if not a.is_floating_point():
        return f"{int((a != b).sum())} of {a.numel()} values"
    x, y = a.double(), b.double()
    finite = torch.isfinite(x)
    if not torch.equal(finite, torch.isfinite(y)):
        return "not finite at other places"
    x, y = x[finite], y[finite]
    scale = max(float(x.norm()), 1e-30)
    error = float((x - y).norm()) / scale
    return f"relative error {error:.1e}" if error > _tolerance(a.dtype) else ""


def _tolerance(dtype: torch.dtype) -> float:
    return max(_ROUNDING, 8 * torch.finfo(dtype).eps)


def warn_of_nan(program: Program) -> None:
    """One warning that names the weights which hold NaN."""
    bad = [n for n, t in program.weights.items() if t.is_floating_point() and not t.is_meta and bool(torch.isnan(t).any())]
    if bad:
        warnings.warn(f"weights hold NaN: {', '.join(bad[:5])}{' ...' if len(bad) > 5 else ''}", UserWarning, stacklevel=4)
