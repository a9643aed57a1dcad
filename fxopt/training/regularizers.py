"""Penalties that make weights small, or whole rows and channels, before they are pruned.

>>> from fxopt.frontend import trace
>>> program = trace(torch.nn.Linear(2, 2, bias=False).eval(), torch.zeros(1, 2))
>>> weights = {"weight": torch.tensor([[3.0, 4.0], [0.0, 0.0]])}
>>> {name: float(make_regularizer(name, program)(weights)) for name in ("l1", "l2")}
{'l1': 7.0, 'l2': 25.0}
"""

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch.fx import Node

from fxopt.analysis.channels import Space, read_call
from fxopt.analysis.channels.products import products_of
from fxopt.errors import InputError, nearest
from fxopt.program import Program

__all__ = ["REGULARIZERS", "Regularizer", "make_regularizer"]

Regularizer = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]

_BATCH_NORM = torch.ops.aten.batch_norm.default


def _l1(weights: Mapping[str, torch.Tensor], program: Program) -> torch.Tensor:
    """The sum of absolute values of all weights of two dimensions and more."""
    return _total(w.abs().sum() for w in weights.values() if w.dim() > 1)


def _l2(weights: Mapping[str, torch.Tensor], program: Program) -> torch.Tensor:
    """The sum of squares of all weights of two dimensions and more."""
    return _total(w.square().sum() for w in weights.values() if w.dim() > 1)


def _group_lasso(weights: Mapping[str, torch.Tensor], program: Program) -> torch.Tensor:
    """The sum of the norms of what makes one output row or channel, each times the root of its size.

    Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006.
    """
    axes = _output_axes(program)

    def norms(name: str, weight: torch.Tensor) -> torch.Tensor:
        rows = weight.movedim(axes[name], 0).flatten(1)
        # The norm of zeros has no gradient: the smallest normal number keeps it at zero.
        squares = rows.square().sum(1).clamp_min(torch.finfo(rows.dtype).tiny)
        return squares.sqrt().sum() * math.sqrt(rows.shape[1])

    return _total(norms(name, w) for name, w in weights.items() if name in axes)


def _bn_l1(weights: Mapping[str, torch.Tensor], program: Program) -> torch.Tensor:
    """The sum of absolute values of BatchNorm's scales.

    Liu et al., "Learning efficient convolutional networks through network slimming", 2017.
    """
    scales = _batch_norm_scales(program)
    return _total(w.abs().sum() for name, w in weights.items() if name in scales)


REGULARIZERS: dict[str, Callable[[Mapping[str, torch.Tensor], Program], torch.Tensor]] = {
    "l1": _l1,
    "l2": _l2,
    "group-lasso": _group_lasso,
    "bn-l1": _bn_l1,
}


def make_regularizer(name: str, program: Program) -> Regularizer:
    """The penalty of the weights of a program.

    Args:
        name: "l1", "l2", "group-lasso" or "bn-l1".
        program: says what each weight is.

    Raises:
        InputError: an unknown name, or a program without what it is about.
    """
    if name not in REGULARIZERS:
        close = nearest(name, REGULARIZERS)
        hint = f"did you mean {close!r}?" if close else f"there are {', '.join(REGULARIZERS)}"
        raise InputError(f"unknown regularizer {name!r}; {hint}")
    if name == "bn-l1" and not _batch_norm_scales(program):
        raise InputError(
            "regularizer 'bn-l1': the program has no BatchNorm with a scale; train before O1 folds it"
        )
    return lambda weights: REGULARIZERS[name](weights, program)


def _total(terms: Iterator[torch.Tensor]) -> torch.Tensor:
    return sum(terms, torch.zeros(()))


def _batch_norm_scales(program: Program) -> set[str]:
    scales = (n.args[1] for n in program.calls() if n.target is _BATCH_NORM)
    return {str(s.target) for s in scales if isinstance(s, Node) and s.op == "get_attr"}


def _output_axes(program: Program) -> dict[str, int]:
    """For each weight of a product (linear, convolution, matmul) the axis along which it makes channels."""
    space = Space(program)
    known = {n: program.weights[str(n.target)] for n in program.weight_nodes()}
    axes: dict[str, int] = {}
    for node in program.calls():
        reading = read_call(node, space)
        for product in () if reading is None else products_of(reading, known):
            made = [i for i, names in enumerate(product.weight.dims) if set(names) & set(product.rows)]
            axes.setdefault(str(product.weight.node.target), made[0])
    return axes
