"""Measuring: sides of a comparison timed in turns, each in a process of its own, and what the times come to.

Its names are loaded when they are first used: the process that runs an ONNX file imports this package and
never torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fxopt.measure.calibration import calibrate
    from fxopt.measure.clock import Lap, seconds_of
    from fxopt.measure.compare import bench
    from fxopt.measure.machine import Machine, this_machine
    from fxopt.measure.profiling import profile
    from fxopt.measure.result import BenchReport, Measurement
    from fxopt.measure.rounds import Timer, interleave
    from fxopt.measure.statistics import Ratio, Spread, speed_ratio, spread

__all__ = [
    "BenchReport",
    "Lap",
    "Machine",
    "Measurement",
    "Ratio",
    "Spread",
    "Timer",
    "bench",
    "calibrate",
    "interleave",
    "profile",
    "seconds_of",
    "speed_ratio",
    "spread",
    "this_machine",
]

_HOMES = {
    "calibration": ("calibrate",),
    "compare": ("bench",),
    "clock": ("Lap", "seconds_of"),
    "machine": ("Machine", "this_machine"),
    "profiling": ("profile",),
    "result": ("BenchReport", "Measurement"),
    "rounds": ("Timer", "interleave"),
    "statistics": ("Ratio", "Spread", "speed_ratio", "spread"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'fxopt.measure' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"fxopt.measure.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
