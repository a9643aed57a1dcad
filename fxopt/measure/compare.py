"""`bench`: models and files against each other, in turns, on the same inputs.

>>> bench(["net.onnx"])
Traceback (most recent call last):
fxopt.errors.InputError: expected at least two models or files to compare, got 1
"""

import contextlib
import difflib
import logging
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fxopt.api import load
from fxopt.errors import FxoptError, InputError
from fxopt.measure.clock import Lap
from fxopt.measure.machine import Machine, this_machine
from fxopt.measure.result import BenchReport, Measurement
from fxopt.measure.rounds import interleave
from fxopt.measure.sides import Side
from fxopt.measure.statistics import speed_ratio, spread
from fxopt.program import Signature
from fxopt.program.signature import dtype_name
from fxopt.verification.sampling import sample_inputs
from fxopt.verification.sizes import dynamic_symbols

__all__ = ["DEFAULT_SIZE", "bench"]

DEFAULT_SIZE = 8
"""Of a dynamic size that nobody states."""

log = logging.getLogger(__name__)


def bench(
    sides: Sequence[str],
    *,
    inputs: Mapping[str, torch.Tensor] | None = None,
    sizes: Mapping[str, int] | None = None,
    threads: int = 1,
    starts: int = 3,
    seconds: float = 3.0,
    plugins: Sequence[str] = (),
    trust: bool = False,
) -> BenchReport:
    """Times models and files in turns, each in a process of its own.

    Args:
        sides: each `FILE.py:FACTORY` or a file: `.onnx`, `.pt`, `.fxopt`, `.pt2`. The first is what the
            others are compared with.
        inputs: one call's tensors by input name, given to every side in its own dtypes; by default the
            example of the first factory, else drawn from the signature of the first file.
        sizes: dynamic sizes by name, for drawn inputs.
        threads: how many compute an op. On one, speeds compare processor time, which other work on the
            machine does not add to; on more, time by the wall clock.
        starts: how often each side's process is started anew.
        seconds: how long each side is timed, all starts together.
        plugins: files of Python that define what the sides need, such as ops; run in each process.
        trust: as in `fxopt.load`.

    Raises:
        InputError: fewer than two sides; one that can't be opened or does not take the inputs.
    """
    if len(sides) < 2:
        raise InputError(f"expected at least two models or files to compare, got {len(sides)}")
    if min(threads, starts) < 1 or not 0 < seconds < math.inf:
        raise InputError("threads, starts and seconds must be positive and finite")
    machine = this_machine()
    runs: list[_Start] = []
    for number in range(starts):
        log.info("start %d of %d: open %s", number + 1, starts, ", ".join(sides))
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(Side(name, threads=threads)) for name in sides]
            for side in opened:
                side.open(trust=trust, plugins=plugins)
            # Drawn once: every start is to measure the same.
            inputs = _inputs(opened, inputs, sizes or {}, trust=trust)
            runs.append(_measured(opened, inputs, seconds / starts, seed=number))
    assert inputs is not None
    clock = "cpu" if threads == 1 else "wall"
    return BenchReport(
        tuple(_summed(runs, i, clock) for i in range(len(sides))),
        sum(len(run.series[0]) for run in runs),
        starts,
        tuple(f"{name}: {dtype_name(t.dtype)}{list(t.shape)}" for name, t in inputs.items()),
        threads,
        clock,
        machine,
        tuple(_notes(sides, runs[0].shapes, machine, clock)),
    )


@dataclass(frozen=True)
class _Start:
    """What one start of the processes gave, a value a side."""

    sides: list[Side]
    """Closed: for what they say of themselves."""
    series: list[list[Lap]]
    shapes: list[list[list[int]]]
    peaks: list[int]


def _measured(sides: list[Side], inputs: Mapping[str, torch.Tensor], seconds: float, *, seed: int) -> _Start:
    shapes = [side.bind(inputs) for side in sides]
    log.info("time %d sides in turns", len(sides))
    series = interleave([side.time for side in sides], seconds=seconds * len(sides), seed=seed)
    return _Start(sides, series, shapes, [side.peak_memory() for side in sides])


def _summed(runs: Sequence[_Start], index: int, clock: str) -> Measurement:
    """One side over all starts."""
    side = runs[0].sides[index]
    laps = [lap for run in runs for lap in run.series[index]]
    times = [[[getattr(lap, clock) for lap in run.series[i]] for run in runs] for i in (0, index)]
    return Measurement(
        side.name,
        side.kind,
        spread([lap.wall for lap in laps]),
        spread([lap.cpu for lap in laps]),
        speed_ratio(*times),
        side.weight_bytes or _file_bytes(side.name),
        max(run.peaks[index] for run in runs),
        statistics.median(run.sides[index].load_seconds for run in runs),
        sum(run.sides[index].calls for run in runs),
    )


def _notes(
    names: Sequence[str], shapes: Sequence[list[list[int]]], machine: Machine, clock: str
) -> "list[str]":
    """What the reader of the figures should know."""
    notes = [
        f"{name} returns tensors of shape {shape}, {names[0]} of {shapes[0]}: not the same function?"
        for name, shape in zip(names, shapes, strict=True)
        if shape != shapes[0]
    ]
    if machine.busy:
        what = (
            "times are too long, speeds compare processor time" if clock == "cpu" else "the speeds are unsure"
        )
        notes.append(f"the machine was busy (load {machine.load:.1f} on {machine.cores} cores): {what}")
    return notes


def _inputs(
    sides: Sequence[Side],
    given: Mapping[str, torch.Tensor] | None,
    sizes: Mapping[str, int],
    *,
    trust: bool,
) -> Mapping[str, torch.Tensor]:
    """One call's tensors by name: the caller's, a factory's example, or drawn at the asked sizes."""
    if given is not None:
        return given
    example = next((side.example for side in sides if side.example), None)
    if example is not None and not sizes:
        return example
    # A foreign TorchScript file does not say what it takes.
    file = next((side.name for side in sides if side.kind != "model" and side.slots), None)
    if file is None:
        what = "which sizes vary" if example else "what it takes"
        raise InputError(f"no side says {what}: give inputs (--inputs X.npz)")
    return _drawn(load(file, trust=trust).signature, sizes)


def _drawn(signature: Signature, sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
    symbols = {symbol.name: symbol for symbol in dynamic_symbols(signature)}
    for name in sizes:
        if name not in symbols:
            close = difflib.get_close_matches(name, symbols, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"they are {', '.join(symbols) or 'none'}"
            raise InputError(f"{name!r} is no dynamic size of the model; {hint}")
    at = {
        name: sizes.get(name, min(max(DEFAULT_SIZE, symbol.min), symbol.max or DEFAULT_SIZE))
        for name, symbol in symbols.items()
    }
    sample = sample_inputs(signature, sizes=[at])[0]
    signature.check_sizes(sample.tensors)
    return {s.name: t for s, t in zip(signature.tensor_inputs, sample.tensors, strict=True)}


def _file_bytes(path: str) -> int:
    """Bytes of a file and of those that hold its weights."""
    if not os.path.isfile(path):
        return 0
    folder = os.path.dirname(path)
    beside = _weight_files(path) if path.endswith(".onnx") else set()
    return sum(os.path.getsize(p) for p in [path, *(os.path.join(folder, name) for name in beside)])


def _weight_files(path: str) -> set[str]:
    """The files beside an ONNX file that its initializers lie in."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise FxoptError(f"{path} can't be read as an ONNX file: {error}") from error
    entries = (e for t in model.graph.initializer for e in t.external_data)
    return {entry.value for entry in entries if entry.key == "location"}
