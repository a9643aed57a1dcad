"""How long each call takes, in seconds: by a roofline over its static cost, or as the user says.

>>> import torch
>>> from fxopt.frontend import trace
>>> program = trace(torch.nn.Linear(100, 50).eval(), torch.zeros(10, 100))
>>> rates = Rates(flops=1e9, bandwidth=1e12, overhead=1e-6)
>>> [round(s * 1e6) for s in seconds_of(program, rates).values()]
[101]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch.fx import Node

from fxopt.analysis.cost import Cost
from fxopt.errors import InputError, nearest
from fxopt.program import Program

__all__ = ["CostOf", "Rates", "seconds_of"]


@dataclass(frozen=True)
class Rates:
    """A device for the roofline: a call takes `overhead + max(flops / F, bytes / B)`.

    The defaults are those of one core of an x86 server, as fitted on three networks: good for ranking.
    """

    flops: float = 5e10
    bandwidth: float = 2.4e10
    overhead: float = 8e-6


CostOf = Rates | Callable[[Node], float] | Mapping[str, float] | None
"""Rates, seconds by call, or seconds by the names of calls (those not named take none)."""


def seconds_of(program: Program, cost: CostOf = None) -> dict[Node, float]:
    """Seconds by call, at the sizes of the example that was traced.

    Raises:
        InputError: a name is no call's, a time is negative or no number, or a size depends on data.
    """
    calls = list(program.calls())
    if isinstance(cost, Mapping):
        known = {n.name for n in calls}
        strange = next((n for n in cost if n not in known), None)
        if strange is not None:
            close = nearest(strange, list(known))
            hint = f"; did you mean {close!r}?" if close else ""
            raise InputError(f"cost names {strange!r}, which is no call of {program.name}{hint}")
        times = {n: cost.get(n.name, 0.0) for n in calls}
    elif cost is None or isinstance(cost, Rates):
        return _roofline(program, cost or Rates())
    else:
        times = {n: cost(n) for n in calls}
    wrong = next(((n, t) for n, t in times.items() if not isinstance(t, (int, float)) or not t >= 0), None)
    if wrong is not None:
        raise InputError(f"cost gives {wrong[1]!r} for {wrong[0].name}; expected seconds, from 0 up")
    return {n: float(t) for n, t in times.items()}


def _roofline(program: Program, rates: Rates) -> dict[Node, float]:
    cost = Cost.compute(program)
    flops, moved = cost.flops_at(), cost.bytes_at()
    return {
        n: rates.overhead + max(flops[n] / rates.flops, moved[n] / rates.bandwidth)
        if flops[n] or moved[n]
        else 0.0
        for n in program.calls()
    }
