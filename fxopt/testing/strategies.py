"""Hypothesis strategies: valid Programs, and inputs for a program.

@given(programs(motifs=[my_pattern]))
def test(program): ...
"""

from collections.abc import Callable, Sequence
from functools import cache
from weakref import WeakKeyDictionary

import torch
from hypothesis import strategies as st
from torch.fx import Node

from fxopt.program import Program
from fxopt.testing import families_layers, families_shape  # noqa: F401  (register their families)
from fxopt.testing.builder import NON_FINITE_KINDS, WEIGHT_KINDS, ProgramBuilder
from fxopt.testing.choice import Choose
from fxopt.testing.families import FAMILIES
from fxopt.testing.motifs import Motif, plant
from fxopt.verification import sample_inputs

__all__ = ["build_program", "inputs_for", "programs", "script_of"]

_SCRIPTS: WeakKeyDictionary[Program, str] = WeakKeyDictionary()

_SHAPES: tuple[tuple[int, ...], ...] = (
    (4,),
    (3, 4),
    (2, 5, 6),
    (4, 4),
    (4, 4, 4),
    (4,),
    (2, 6),
    (3, 4, 4, 4),
    (1, 8),
)
"""What follows the batch in a float input."""


def build_program(
    draw: Choose,
    *,
    families: Sequence[str] | None = None,
    motifs: Sequence[Callable[..., object] | Motif] = (),
    max_ops: int = 8,
    non_finite: bool = False,
    perturb: bool = False,
) -> tuple[Program, str]:
    """One program and the script that builds it.

    Args:
        draw: choices.
        families: names of op families; all by default.
        motifs: functions annotated as rule patterns; one of them is planted in most programs, among random
            ops.
        max_ops: the most steps.
        non_finite: weights may hold NaN and infinities, of which only a contract of the same bits speaks.
        perturb: one planted motif in three has other literals, ranks or dtypes.
    """
    names = list(families) if families is not None else list(FAMILIES)
    b = ProgramBuilder(kinds=NON_FINITE_KINDS if non_finite else WEIGHT_KINDS)
    static = draw.chance(6)
    shape = draw.of(_SHAPES)
    pool: list[Node] = [b.input((3 if static else b.batch, *shape))]
    used: list[Node] = []
    steps = 1 + draw.below(max_ops)
    where = draw.below(steps) if motifs else -1
    for step in range(steps):
        if step == where or (motifs and draw.chance(4)):
            motif = draw.of(list(motifs))
            made = plant(draw, b, motif if isinstance(motif, Motif) else Motif(motif), pool, perturb=perturb)
        else:
            known = [n for n in pool if _is_familiar(n)]
            source = draw.latest(known)
            node = FAMILIES[draw.of(names)](draw, b, source, known)
            made = [] if node is None else [node]
        used += made
        pool += [m for m in made if isinstance(m.meta["val"], torch.Tensor)]
    program = b.finish(*_outputs(draw, b, pool))
    return program, b.script()


def _is_familiar(node: Node) -> bool:
    """Whether families take a value: their weights are in float32, and half precision comes of perturbations."""
    dtype = node.meta["val"].dtype
    return not dtype.is_floating_point or dtype is torch.float32


def _outputs(draw: Choose, b: ProgramBuilder, pool: Sequence[Node]) -> list[Node]:
    """All values that nothing uses (dead code would hide most of a program), sometimes an inner one too."""
    leaves = [n for n in pool if not n.users and n.op == "call_function"] or [pool[-1]]
    if draw.chance(5):
        leaves.append(draw.latest(pool))
    return list(dict.fromkeys(leaves))


@cache
def _below(count: int) -> st.SearchStrategy[int]:
    return st.integers(0, count - 1)


@st.composite
def programs(
    draw: st.DrawFn,
    *,
    families: Sequence[str] | None = None,
    motifs: Sequence[Callable[..., object] | Motif] = (),
    max_ops: int = 8,
    non_finite: bool = False,
    perturb: bool = False,
) -> Program:
    """Valid programs over one dynamic size, `batch`.

    Args:
        draw: hypothesis's.
        families: names of op families (`FAMILIES`); all by default.
        motifs: functions annotated as rule patterns, planted among random ops with their near-misses.
        max_ops: the most steps.
        non_finite: weights may hold NaN and infinities, of which only a contract of the same bits speaks.
        perturb: one planted motif in three has other literals, ranks or dtypes.
    """
    choose = Choose(lambda n: draw(_below(n)))
    program, script = build_program(
        choose, families=families, motifs=motifs, max_ops=max_ops, non_finite=non_finite, perturb=perturb
    )
    _SCRIPTS[program] = script
    return program


def script_of(program: Program) -> str:
    """The `ProgramBuilder` calls that make a drawn program again; empty for other programs."""
    return _SCRIPTS.get(program, "")


def inputs_for(program: Program) -> st.SearchStrategy[tuple[torch.Tensor, ...]]:
    """Argument tuples for a program: two sizes above one for each dynamic size, and one; special values.

    Args:
        program: whose signature says what it takes.
    """
    return st.integers(0, 7).flatmap(
        lambda seed: st.sampled_from([tuple(s.tensors) for s in sample_inputs(program.signature, seed=seed)])
    )
