"""The best split into consecutive runs of one order of the pieces, over one row of devices: a dynamic program over the cuts.

`f[k][j] = min over i of max(f[k-1][i], load of i..j on device k)`, vectorised over i and j; as in Archer et al.,
"Pipeline parallelism for inference: practical algorithms" (ICML 2024), for one order.
"""

import numpy as np

from fxopt.passes.partition._places import Places, stage_costs
from fxopt.passes.partition._problem import Problem, Split

__all__ = ["split_in_order"]


def split_in_order(problem: Problem, places: Places) -> Split | None:
    """The best split with cuts at some places; None where none fits."""
    stages = len(problem.devices)
    between = [problem.link(b) for b in range(stages - 1)]
    links = list(zip([None, *between], [*between, None], strict=True))
    best, choice = stage_costs(problem, 0, links[0], places)[0], []
    for stage in range(1, stages):
        through = problem.joined(best[:, None], stage_costs(problem, stage, links[stage], places))
        choice.append(through.argmin(axis=0))
        best = through.min(axis=0)
    if not np.isfinite(best[-1]):
        return None
    end, stage_of = len(places) - 1, np.zeros(len(problem.pieces), dtype=int)
    for chosen in reversed(choice):
        end = int(chosen[end])
        stage_of += ~places.inside[end]
    return Split(tuple(map(int, stage_of)), float(best[-1]))
