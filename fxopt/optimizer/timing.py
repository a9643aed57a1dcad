"""How long the layers of a quantized file take, and whether it is slower than one in float, and why.

>>> print(slower(1e-3, 2e-3, [], {}))
<BLANKLINE>
>>> print(slower(2e-3, 1e-3, [NodeTime("conv_1", "Conv", 1e-3)], {"conv_1": "stem"}))
8 bits are slower than float on this machine: 2.000 ms a call, in float 1.000 ms; computed in float: stem (Conv, 50%)
"""

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence

import torch

from fxopt.lowering import Artifact, get_target, lower
from fxopt.lowering.times import NodeTime
from fxopt.optimizer.precision import describe_layers
from fxopt.passes.quantize import LayerError
from fxopt.pipeline import PassManager
from fxopt.program import Program, origins_of
from fxopt.report import Report
from fxopt.verification.sampling import batch_tensors

__all__ = ["slower", "time_file"]

_FLOAT = "O1"
_ROUNDS = 15
_MARGIN = 1.05
"""What two measurements of the same differ by."""
_NAMED = 5
"""Kernels that a warning names."""


def time_file(
    report: Report,
    artifact: Artifact,
    program: Program,
    original: Program,
    layers: Sequence[LayerError],
    data: Iterable[object],
) -> None:
    """Enters the times of the layers, and a warning if the file is slower than one in float.

    Args:
        report: what it is entered into.
        artifact: the file.
        program: what it was made from.
        original: the model, in float.
        layers: of the program.
        data: calibration data, of which the first batch is run.
    """
    tensors = batch_tensors(original.signature, next(iter(data)))
    given = artifact.signature.inputs_in_integers(tensors)
    places = {n.name: _place(n.name, [o.module for o in origins_of(n)]) for n in program.calls()}
    nodes = artifact.node_times(given, frozenset(places))
    seconds: dict[str, float] = {}
    for node in nodes:
        seconds[node.name] = seconds.get(node.name, 0.0) + node.seconds
    report.layers = describe_layers(layers, seconds)
    floats = lower(PassManager.parse(_FLOAT).run(original).program, get_target(artifact.target), verify=False)
    ours, theirs = _in_turns([(artifact, given), (floats, tensors)])
    warning = slower(ours, theirs, nodes, places)
    if warning:
        report.warnings.append(warning)


def _place(name: str, modules: Sequence[str]) -> str:
    return next((m for m in modules if m), name)


def _in_turns(sides: Sequence[tuple[Artifact, list[torch.Tensor]]]) -> list[float]:
    """The middle of the processor times of each side, run in turns."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(_ROUNDS):
        for (artifact, tensors), found in zip(sides, times, strict=True):
            start = time.process_time()
            artifact.run_flat(list(tensors))
            found.append(time.process_time() - start)
    return [statistics.median(found) for found in times]


def slower(ours: float, floats: float, nodes: Sequence[NodeTime], places: Mapping[str, str]) -> str:
    """The warning that a quantized file is slower than one in float; "" if it is not.

    Args:
        ours: seconds of a call.
        floats: of the file in float.
        nodes: the kernels of a run.
        places: modules by the calls that kernels are named after.
    """
    if ours <= _MARGIN * floats:
        return ""
    text = f"8 bits are slower than float on this machine: {1e3 * ours:.3f} ms a call, in float {1e3 * floats:.3f} ms"
    # The largest first: what was not fused into an integer kernel.
    left = sorted((n for n in nodes if n.kind == "floats"), key=lambda n: -n.seconds)
    if left:
        named = [
            f"{places.get(n.name, n.name or 'added')} ({n.kernel}, {n.seconds / ours:.0%})"
            for n in left[:_NAMED]
        ]
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        text += f"; computed in float: {', '.join(named)}{more}"
    rounding = sum(n.seconds for n in nodes if n.kind == "rounding")
    return f"{text}; roundings take {rounding / ours:.0%}" if rounding else text
