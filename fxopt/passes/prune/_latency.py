"""How much of a program's time is left once masked groups are gone, measured."""

import statistics
import time
from collections.abc import Iterable

import torch

from fxopt.passes.prune._masks import with_zeros
from fxopt.pipeline import PassManager
from fxopt.program import Program
from fxopt.verification import sample_inputs

__all__ = ["latency_share"]

_ROUNDS, _SECONDS = 7, 0.02


def latency_share(program: Program, masks: Iterable[tuple[str, torch.Tensor]]) -> float:
    """The median of time ratios of the cut to the whole program, measured in turns, as `eager` runs them.

    Args:
        program: what is cut.
        masks: names of weights and the elements of them that are zero.
    """
    cut = with_zeros(program, masks)
    finish = PassManager.parse("clean,eliminate-dead-weights,O1")
    sides = [PassManager.parse("O1").run(program).program, finish.run(cut).program]
    first, *_ = sample_inputs(program.signature)
    tensors = list(first.tensors)
    counts = [max(1, round(_SECONDS / _seconds(side, tensors, 2))) for side in sides]
    rounds = [[_seconds(s, tensors, n) for s, n in zip(sides, counts, strict=True)] for _ in range(_ROUNDS)]
    return statistics.median(after / before for before, after in rounds)


def _seconds(program: Program, tensors: list[torch.Tensor], count: int) -> float:
    """Processor time of a call: other work on the machine does not add to it."""
    start = time.process_time()
    for _ in range(count):
        program.run_flat(tensors)
    return max(time.process_time() - start, 1e-7) / count
