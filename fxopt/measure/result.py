"""What a comparison found, as data.

>>> side = Measurement("net.onnx", "onnx", Spread(2e-3, 0, 2e-3, 2e-3, 2e-3), Spread(1e-3, 0, 1e-3, 1e-3, 1e-3))
>>> BenchReport((side,), rounds=15).to_json()["sides"][0]["wall"]["median"]
0.002
"""

from dataclasses import dataclass, field

from fxopt.measure.machine import Machine
from fxopt.measure.statistics import Ratio, Spread
from fxopt.report import JsonData

__all__ = ["BENCH_SCHEMA", "BenchReport", "Measurement"]

BENCH_SCHEMA = 1


@dataclass(frozen=True)
class Measurement(JsonData):
    """One side: seconds a call, and what it takes to have it."""

    name: str
    """As it was given."""
    kind: str
    """model, program, eager, torchscript or onnx."""
    wall: Spread
    """By the wall clock: what a caller waits, other work on the machine included."""
    cpu: Spread
    """Of processor time, all threads together."""
    speed: Ratio = field(default_factory=lambda: Ratio(1.0, 1.0, 1.0))
    """How many times as fast as the first side."""
    size: int = 0
    """Bytes of its files; of its weights for a model in memory."""
    peak_memory: int = 0
    """The most bytes that its process had, runtime and imports included; 0 where unknown."""
    load_seconds: float = 0.0
    """How long it took to open, once its runtime was there."""
    calls: int = 0
    """How often it was timed."""


@dataclass(frozen=True)
class BenchReport(JsonData):
    """Sides measured in turns."""

    sides: tuple[Measurement, ...]
    rounds: int = 0
    starts: int = 1
    """How often each side was started."""
    inputs: tuple[str, ...] = ()
    """What every side was called with: `x: f32[8, 64]`."""
    threads: int = 1
    clock: str = "cpu"
    """Which times the speeds compare, `cpu` or `wall`."""
    machine: Machine | None = None
    notes: tuple[str, ...] = ()
    schema: int = BENCH_SCHEMA
