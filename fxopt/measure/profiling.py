"""How long each call of a program takes on this machine: measured, where it stands, as the program runs.

Of several runs the least counts. Calls that are alike (op, sizes, dtypes, numbers) share the middle of theirs, and all are
scaled to the time of the whole, which pays for no clock.

>>> import torch
>>> from fxopt.frontend import trace
>>> program = trace(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()).eval(), torch.zeros(2, 8))
>>> sorted(profile(program, seconds=0).seconds)
['linear', 'relu']
"""

import json
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.fx import Interpreter, Node

from fxopt.errors import ArtifactError, InputError
from fxopt.measure.calibration import described_machine, own_time
from fxopt.measure.clock import Lap, seconds_of
from fxopt.ops import op_key
from fxopt.passes.partition import Profile
from fxopt.program import Program, expect_program
from fxopt.program.writing import replacing, write_file
from fxopt.verification import sample_inputs, subject_of

__all__ = ["profile"]

_LEAST_ROUNDS, _MOST_ROUNDS = 5, 300


def profile(
    program: Program, *, seconds: float = 2.0, cache: str | os.PathLike[str] | None = None
) -> Profile:
    """Times the calls of a program on the CPU, at the sizes of the example that was traced.

    With one thread it is processor time, which other work on the machine does not add to.

    Args:
        program: stays as it is.
        seconds: how long it runs, five times at least.
        cache: a JSON file of times by op, sizes, dtypes and machine (processor, threads, torch's version). Where it
            knows all calls nothing is run; else those that it lacks are added.

    Returns:
        The profile, which `partition(cost=...)` takes.

    Raises:
        InputError: a weight is not on the CPU, or an input can't be drawn.
        ArtifactError: the cache is damaged or can't be written.
    """
    expect_program(program, "profile")
    elsewhere = next((w.device for w in program.weights.values() if w.device.type != "cpu"), None)
    if elsewhere is not None:
        raise InputError(f"{program.name} has weights on {elsewhere}; a profile is of the CPU")
    machine = described_machine()
    keys = {n: _key(n) for n in program.calls()}
    whole = {} if cache is None else _read(Path(cache))
    known = whole.get(machine, {})
    if not known.keys() >= set(keys.values()):
        known = {**_timed(program, keys, seconds), **known}
        if cache is not None:
            _write(Path(cache), {**whole, machine: known})
    return Profile({n.name: known[k] for n, k in keys.items()}, machine)


class _Stopwatch(Interpreter):
    """Runs the program and notes the least time of each call."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.graph_module)
        self.least: dict[str, float] = {}

    def run_node(self, n: Node) -> Any:
        """The value of a node."""
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        wall, cpu = time.perf_counter(), time.process_time()
        value = n.target(*args, **kwargs)  # type: ignore[operator]  # of a call
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        self.least[n.name] = min(own_time(Lap(wall, cpu)), self.least.get(n.name, float("inf")))
        return value


def _timed(program: Program, keys: Mapping[Node, str], seconds: float) -> dict[str, float]:
    """Seconds by key."""
    sizes = subject_of(program).example_sizes
    tensors = list(sample_inputs(program.signature, sizes=[sizes])[0].tensors)
    watch, whole, start = _Stopwatch(program), float("inf"), time.perf_counter()
    for number in range(_MOST_ROUNDS):
        whole = min(whole, own_time(seconds_of(lambda: program.run_flat(tensors), 1)))
        with torch.no_grad():
            watch.run(*tensors)
        if number + 1 >= _LEAST_ROUNDS and time.perf_counter() - start > seconds:
            break
    alike: dict[str, list[float]] = {}
    for node, key in keys.items():
        alike.setdefault(key, []).append(watch.least[node.name])
    middle = {key: statistics.median(times) for key, times in alike.items()}
    scale = whole / sum(middle[key] for key in keys.values())
    return {key: time_ * scale for key, time_ in middle.items()}


def _key(node: Node) -> str:
    """What the time of a call hangs on: op, sizes, dtypes, numbers."""
    arguments = [_said(a) for a in node.args] + [f"{k}={_said(a)}" for k, a in sorted(node.kwargs.items())]
    return f"{op_key(node.target)}({', '.join(arguments)})"


def _said(value: object) -> str:
    if isinstance(value, Node):
        return _said(value.meta["val"])
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(_said, value.shape))}]"
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return str(value.node.hint)
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_said, value))})"
    return repr(value)


def _read(path: Path) -> dict[str, dict[str, float]]:
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {str(m): {str(k): float(s) for k, s in times.items()} for m, times in data.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"can't read {path}: it is no cache of times") from error


def _write(path: Path, times: Mapping[str, Mapping[str, float]]) -> None:
    with replacing(path) as temporary:
        write_file(temporary, [json.dumps(times, indent=1).encode()])
