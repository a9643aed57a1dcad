"""The rates of this machine: some calls of each kind, timed small and large.

The small one shows what a call costs; of the large ones the best shows how fast the kernels compute, and how fast they
move bytes.

>>> calibrate.__name__
'calibrate'
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import nn
from torch.fx import Node
from torch.fx.node import map_arg
from torch.nn import functional as F

from fxopt.analysis.cost import Cost, CostSummary
from fxopt.frontend import trace
from fxopt.measure.clock import Lap, seconds_of
from fxopt.measure.machine import this_machine
from fxopt.passes.partition import VIEW, Rates, kind_of, op_name

__all__ = ["calibrate", "described_machine", "own_time"]

_ROUNDS, _SECONDS, _TURNS = 7, 0.01, 50
Shapes = Sequence[tuple[int, ...]]


class _Module(nn.Module):
    """A function as a module."""

    def __init__(self, call: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """What the function gives."""
        return self.call(*tensors)


@dataclass(frozen=True)
class _Probe:
    """A call, and sizes of its tensors: small ones, and those at which its kernel is at its best."""

    call: Callable[..., torch.Tensor]
    small: Shapes
    large: Sequence[Shapes]


def _window(pool: Callable[..., torch.Tensor]) -> _Probe:
    return _Probe(lambda x: pool(x, 3, 2), [(1, 2, 8, 8)], [[(1, 64, 56, 56)]])


def _elementwise(call: Callable[..., torch.Tensor], count: int = 1) -> _Probe:
    return _Probe(call, [(2, 16)] * count, [[(64, 16384)] * count])


_PROBES = (
    _Probe(
        F.linear,
        [(4, 32), (32, 32)],
        [[(256, 1024), (1024, 1024)], [(2, 1024), (1024, 1024)]],
    ),
    _Probe(torch.matmul, [(2, 4, 16), (2, 16, 4)], [[(16, 128, 128), (16, 128, 128)]]),
    _Probe(
        lambda x, w: F.conv2d(x, w, padding=w.shape[-1] // 2),
        [(1, 4, 8, 8), (4, 4, 3, 3)],
        [[(1, 64, 56, 56), (64, 64, 3, 3)], [(1, 256, 7, 7), (256, 256, 3, 3)]],
    ),
    _Probe(
        F.conv2d,
        [(1, 4, 8, 8), (4, 4, 1, 1)],
        [[(1, 64, 56, 56), (64, 64, 1, 1)], [(1, 12, 112, 112), (12, 12, 1, 1)]],
    ),
    _Probe(
        lambda x, w: F.conv2d(x, w, padding=1, groups=w.shape[0]),
        [(1, 8, 8, 8), (8, 1, 3, 3)],
        [[(1, 36, 56, 56), (36, 1, 3, 3)]],
    ),
    _Probe(
        lambda x, w: F.conv_transpose2d(x, w, stride=2),
        [(1, 8, 4, 4), (8, 8, 2, 2)],
        [[(1, 32, 32, 32), (32, 16, 2, 2)]],
    ),
    _Probe(
        F.scaled_dot_product_attention,
        [(1, 2, 8, 8)] * 4,
        [
            [(2, 8, 128, 64)] * 3 + [(1, 1, 128, 128)],
            [(2, 8, 1, 64), (2, 8, 512, 64), (2, 8, 512, 64), (1, 1, 1, 512)],
        ],
    ),
    _window(F.max_pool2d),
    _window(F.avg_pool2d),
    _elementwise(F.relu),
    _elementwise(torch.add, 2),
    _elementwise(torch.mul, 2),
    _elementwise(torch.neg),
    _elementwise(F.gelu),
    _elementwise(torch.tanh),
    _elementwise(lambda x: F.layer_norm(x, x.shape[-1:])),
    _elementwise(lambda x: F.rms_norm(x, x.shape[-1:])),
    _elementwise(lambda x: F.softmax(x, -1)),
    _elementwise(lambda x: torch.cat([x, x], 0)),
    _elementwise(lambda x: x.mean(-1)),
    _elementwise(lambda x: x.reshape(-1)),
    _elementwise(lambda x: x.permute(1, 0)),
    _elementwise(lambda x: x[1:]),
    _elementwise(lambda x: x.unsqueeze(0)),
    _elementwise(lambda x: x.expand(2, *x.shape)),
)


@dataclass(frozen=True)
class _Call:
    """A call as a program has it, its cost, and what runs it."""

    node: Node
    cost: CostSummary
    run: Callable[[], object]

    @classmethod
    def of(cls, probe: _Probe, shapes: Shapes) -> "_Call":
        """The call at some sizes."""
        tensors = list(map(torch.randn, shapes))
        program = trace(_Module(probe.call), tuple(tensors))
        values = dict(zip(program.placeholders(), tensors, strict=True))
        node = next(program.calls())
        args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
        assert isinstance(node.target, torch._ops.OpOverload)
        return cls(node, Cost.compute(program).at(), partial(node.target, *args, **kwargs))

    @property
    def names(self) -> tuple[str, ...]:
        """What its times stand for: its kind, and its op where that says more."""
        kind = kind_of(self.node) if self.cost.bytes_written else VIEW
        return (kind, op_name(self.node)) if kind in (VIEW, "elementwise", "other", "window") else (kind,)

    def speeds(self, overhead: float) -> tuple[float, float]:
        """Operations and bytes a second, of the best of several turns; 0 where it has none."""
        calls = max(2, round(_SECONDS / max(own_time(seconds_of(self.run, 2)), 1e-7)))
        least = min(own_time(seconds_of(self.run, calls)) for _ in range(_ROUNDS))
        seconds = max(least - overhead, 1e-9)
        return self.cost.flops / seconds, (self.cost.bytes_read + self.cost.bytes_written) / seconds


def calibrate() -> Rates:
    """Times some calls of each kind on the CPU, with the threads that torch has; takes some seconds."""
    overheads: dict[str, list[float]] = {}
    speeds: dict[str, list[tuple[float, float]]] = {}
    with torch.no_grad():
        for probe, overhead in zip(_PROBES, _overheads(), strict=True):
            for call in (_Call.of(probe, shapes) for shapes in probe.large):
                found = call.speeds(overhead)
                for name in call.names:
                    overheads.setdefault(name, []).append(overhead)
                    speeds.setdefault(name, []).append(found)
    best = {name: (max(f for f, _ in s), max(b for _, b in s)) for name, s in speeds.items()}
    flops, bandwidth = best["product"][0], best["elementwise"][1]
    kinds = {
        name: Rates(own[0] or flops, own[1] or bandwidth, median(overheads[name]))
        for name, own in best.items()
    }
    return Rates(flops, bandwidth, median(r.overhead for r in kinds.values()), kinds, described_machine())


def _overheads() -> list[float]:
    """Seconds of each small call, called in turns as in a program, where another's code is in the caches: the least."""
    calls = [lambda: None, *(_Call.of(p, p.small).run for p in _PROBES)]
    laps = [[own_time(seconds_of(call, 1)) for call in calls] for _ in range(_TURNS)]
    clock, *least = map(min, zip(*laps, strict=True))
    return [max(seconds - clock, 0.0) for seconds in least]


def described_machine() -> str:
    """The processor, the threads that compute an op, torch's version."""
    return f"{this_machine().processor}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def own_time(lap: Lap) -> float:
    """Processor time of one thread, which other work on the machine does not add to; by the wall of several."""
    return lap.cpu if torch.get_num_threads() == 1 else lap.wall
