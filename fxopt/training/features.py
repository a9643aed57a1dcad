"""Layers of two models by their module path: what a module of the student gives, what one of the teacher gives.

A program's nodes carry the path of the module that they stood in, through every rewrite. What a module gives
is the last result of it or of a module inside it.

>>> from fxopt.frontend import trace
>>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()).eval()
>>> exit_of(trace(model, torch.zeros(1, 2)), "0").name
'linear'
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.fx import Node

from fxopt.errors import InputError, nearest
from fxopt.program import Program, origins_of
from fxopt.training.losses import relative_error

__all__ = ["Projections", "exit_of", "named_pairs"]


def named_pairs(features: Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    """The teacher's layer by the student's.

    Raises:
        InputError: it is no list of names and no dict of them.
    """
    if isinstance(features, str):
        raise InputError(f"features is {features!r}; expected a list of module paths: [{features!r}]")
    pairs = dict(features) if isinstance(features, Mapping) else {name: name for name in features}
    if not all(isinstance(n, str) for n in (*pairs, *pairs.values())):
        raise InputError(f"features is {features!r}; expected module paths")
    return pairs


def exit_of(program: Program, path: str) -> Node:
    """The last call of a module.

    Raises:
        InputError: no call stood in such a module, or it gives no tensor of floats.
    """
    inside = [
        n
        for n in program.calls()
        if any(o.module == path or o.module.startswith(f"{path}.") for o in origins_of(n))
        and isinstance(n.meta["val"], torch.Tensor)
        and n.meta["val"].is_floating_point()
    ]
    if not inside:
        known = {o.module for n in program.calls() for o in origins_of(n) if o.module}
        known |= {".".join(m.split(".")[:i]) for m in known for i in range(1, m.count(".") + 1)}
        close = nearest(path, sorted(known))
        hint = (
            f"did you mean {close!r}?"
            if close
            else f"its modules are {', '.join(sorted(known)[:8]) or 'none'}"
        )
        raise InputError(f"features: no call of the program stands in a module {path!r}; {hint}")
    return inside[-1]


class Projections(nn.Module):
    """Brings the student's layers to the width of the teacher's: a linear map along the axis that differs.

    Romero et al., "FitNets: hints for thin deep nets", 2015. The maps train along and are thrown away.

    Args:
        names: of the student's layers.
        ours: what they give for an example.
        theirs: what the teacher's give for it.

    Raises:
        InputError: two layers differ in rank or along more than one axis.
    """

    def __init__(
        self, names: Sequence[str], ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.axes: list[int | None] = []
        self.maps = nn.ModuleList()
        for name, a, b in zip(names, ours, theirs, strict=True):
            axis = _differing(name, a, b)
            self.axes.append(axis)
            linear = nn.Identity() if axis is None else nn.Linear(a.shape[axis], b.shape[axis], bias=False)
            self.maps.append(linear.to(a.device))

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The features, as wide as the teacher's."""
        return [
            f if axis is None else linear(f.movedim(axis, -1)).movedim(-1, axis)
            for f, axis, linear in zip(features, self.axes, self.maps, strict=True)
        ]

    def error(self, ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The mean of the layers' relative errors; `ours` are projected."""
        errors = [relative_error(a.float(), b.float()) for a, b in zip(ours, theirs, strict=True)]
        return torch.stack(errors).mean()


def _differing(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> int | None:
    """The axis along which two layers have other widths; None if there is none."""
    differing = [i for i, (a, b) in enumerate(zip(ours.shape, theirs.shape, strict=False)) if a != b]
    if ours.dim() != theirs.dim() or len(differing) > 1 or differing == [0]:
        raise InputError(
            f"features: the student's {name!r} gives {tuple(ours.shape)}, the teacher's {tuple(theirs.shape)}; "
            "they may differ in width along one axis"
        )
    return differing[0] if differing else None
