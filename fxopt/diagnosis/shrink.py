"""Edits that leave the calls of a program as they are and make what they work on smaller or plainer.

>>> import torch
>>> from fxopt.diagnosis.rebuild import rebuild
>>> from fxopt.frontend import trace
>>> program = trace(torch.nn.Linear(64, 32).eval(), (torch.zeros(3, 64),))
>>> made = [rebuild(program, edit) for edit in smaller_sizes(program)]
>>> sorted({str(p.signature.inputs[0]) for p in made if p is not None})[:4]
['input: f32[1, 64]', 'input: f32[2, 64]', 'input: f32[3, 1]', 'input: f32[3, 2]']
"""

from collections.abc import Callable, Iterator

import torch

from fxopt.diagnosis.rebuild import Edit, Size
from fxopt.program import Program

__all__ = ["plainer_weights", "smaller_sizes", "static_sizes"]

_FIXED = 2
"""What a dynamic size becomes: two, since much is right at one."""


def static_sizes(program: Program) -> Iterator[Edit]:
    """All dynamic sizes fixed."""
    shapes = {
        node: tuple(d if isinstance(d, int) else _FIXED for d in node.meta["val"].shape)
        for node in program.placeholders()
    }
    if any(isinstance(d, torch.SymInt) for n in shapes for d in n.meta["val"].shape):
        yield Edit(shapes=shapes)


def smaller_sizes(program: Program) -> Iterator[Edit]:
    """Every size of some value made smaller at once, in inputs, weights and literals.

    Sizes that go together (the features of a layer and its weight's) are equal, and what is made of them (the
    channels of all heads) is a multiple: all multiples are tried first, then equal sizes, then those of inputs
    and weights without the literals, which may mean something else, then those of one input alone.
    """
    for size in sorted(_sizes(program), reverse=True):
        for smaller in dict.fromkeys((1, 2, size // 2)):
            if smaller < size:
                yield from _resized(program, size, smaller)


def _sizes(program: Program) -> set[int]:
    shapes = [n.meta["val"].shape for n in (*program.placeholders(), *program.weight_nodes())]
    return {d for shape in shapes for d in shape if isinstance(d, int) and d > 1}


def _resized(program: Program, size: int, smaller: int) -> Iterator[Edit]:
    def multiple(n: int) -> int:
        return n // size * smaller if n and n % size == 0 else n

    def equal(n: int) -> int:
        return smaller if n == size else n

    yield _edit(program, multiple, literals=True)
    yield _edit(program, equal, literals=True)
    yield _edit(program, equal, literals=False)
    for node in program.placeholders():
        shape = node.meta["val"].shape
        for axis, d in enumerate(shape):
            if isinstance(d, int) and d == size:
                yield Edit(shapes={node: (*shape[:axis], smaller, *shape[axis + 1 :])})


def _edit(program: Program, change: Callable[[int], int], *, literals: bool) -> Edit:
    shapes: dict[torch.fx.Node, tuple[Size, ...]] = {}
    for node in program.placeholders():
        old = tuple(node.meta["val"].shape)
        new = tuple(change(d) if isinstance(d, int) else d for d in old)
        if str(new) != str(old):
            shapes[node] = new
    weights = {}
    for name, tensor in program.weights.items():
        sizes = [change(d) for d in tensor.shape]
        if sizes != list(tensor.shape):
            weights[name] = tensor[tuple(slice(0, d) for d in sizes)].contiguous()
    return Edit(shapes=shapes, weights=weights, literal=change if literals else None)


def plainer_weights(program: Program) -> Iterator[Edit]:
    """A weight as zeros, as ones, or in small integers, where it is none of the plainer yet."""
    for name, tensor in sorted(program.weights.items(), key=lambda item: -item[1].numel()):
        for plain in (torch.zeros_like(tensor), torch.ones_like(tensor), _integers(tensor)):
            if torch.equal(plain, tensor):
                break
            yield Edit(weights={name: plain})


def _integers(tensor: torch.Tensor) -> torch.Tensor:
    """Values rounded to integers of at most 3, at least 1 in size where they were positive (a variance)."""
    if not tensor.dtype.is_floating_point:
        return tensor.clamp(-3, 3) if tensor.dtype.is_signed else tensor
    rounded = torch.nan_to_num(tensor.detach()).round().clamp(-3, 3)
    return torch.where((tensor > 0) & (rounded == 0), torch.ones_like(rounded), rounded)
