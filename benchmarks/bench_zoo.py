"""The zoo's models, fxopt's files and what other tools make of them, timed in turns.

    python -m benchmarks.bench_zoo [MODEL ...] [--starts 3] [--seconds 2] [--without torch.compile]

Each model is measured in fresh processes, one after the other; in each all sides take turns (`fxopt.measure`),
on one thread, by processor time. benchmarks/zoo.json holds the figures, docs/benchmarks.md shows them; a
model's row is replaced when it is measured again.
"""

import argparse
import datetime
import functools
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.markdown import page
from fxopt.measure import speed_ratio, spread, this_machine

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "zoo.json", ROOT / "docs" / "benchmarks.md"

PAIRS = (
    ("fxopt eager", "model"),
    ("fxopt eager", "torch.compile"),
    ("fxopt torchscript", "TorchScript freeze"),
    ("fxopt onnx", "torch.onnx.export"),
    ("fxopt onnx", "onnxsim"),
    ("fxopt onnx", "model"),
)
"""Whose speed is compared with whose."""


def measure(name: str, names: Sequence[str], seconds: float, seed: int, folder: Path) -> dict[str, object]:
    """All sides of a model in this process: what they are, and their times round by round."""
    import torch

    from benchmarks.sides import SIDES, Case, open_side
    from fxopt.measure import interleave, seconds_of
    from tests import zoo

    torch.set_num_threads(1)
    if seed == 0:
        # Imports and registries are no part of the time to export.
        module, args = zoo.model("mlp")
        warm_up = Case("warm-up", module, args, zoo.dynamic_batch(args), folder)
        for side in names:
            if SIDES[side].make:
                open_side(SIDES[side], warm_up)
    module, args = zoo.model(name)
    case = Case(name, module, args, zoo.dynamic_batch(args), folder)
    opened, failures = {}, {}
    for side in names:
        try:
            opened[side] = open_side(SIDES[side], case)
        except Exception as error:  # a tool that can't take a model is a result
            if side == "model" or side.startswith("fxopt"):
                raise
            failures[side] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    with torch.inference_mode():
        expected = opened["model"].run()
        errors = {side: _error(made.run(), expected) for side, made in opened.items()}
        timers = [functools.partial(seconds_of, made.run) for made in opened.values()]
        series = interleave(timers, seconds=seconds * len(timers), seed=seed)
    return {
        "failures": failures,
        "sides": {
            side: {
                "seconds": made.seconds,
                "size": made.size,
                "nodes": made.nodes,
                "error": errors[side],
                "wall": [lap.wall for lap in laps],
                "cpu": [lap.cpu for lap in laps],
            }
            for (side, made), laps in zip(opened.items(), series, strict=True)
        },
    }


def _error(result: object, expected: object) -> float:
    """The largest difference from the model's outputs, over their largest magnitude."""
    import torch
    from torch.utils import _pytree as pytree

    pairs = zip(pytree.tree_leaves(result), pytree.tree_leaves(expected), strict=True)
    tensors = [(torch.as_tensor(a).double(), torch.as_tensor(b).double()) for a, b in pairs]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in tensors)


def summed(runs: Sequence[Mapping[str, dict]]) -> dict[str, object]:
    """One model over all its starts."""
    first = runs[0]["sides"]

    def times(side: str, clock: str) -> list[list[float]]:
        return [run["sides"][side][clock] for run in runs]

    def flat(side: str, clock: str) -> list[float]:
        return [x for series in times(side, clock) for x in series]

    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "starts": len(runs),
        "rounds": len(flat("model", "cpu")),
        "failures": runs[0]["failures"],
        "sides": {
            side: {
                "cpu": spread(flat(side, "cpu")).to_json(),
                "wall": spread(flat(side, "wall")).to_json(),
                **{key: first[side][key] for key in ("seconds", "size", "nodes", "error")},
            }
            for side in first
        },
        "speeds": {
            f"{side} / {of}": speed_ratio(times(of, "cpu"), times(side, "cpu")).to_json()
            for side, of in PAIRS
            if side in first and of in first
        },
    }


def starts(name: str, names: Sequence[str], seconds: float, count: int) -> list[dict[str, dict]]:
    """`measure` in so many fresh processes, which share the files and what torch.compile has compiled."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder, "OMP_NUM_THREADS": "1"}
        for seed in range(count):
            command = [sys.executable, "-m", "benchmarks.bench_zoo", name, "--child", folder]
            options = ["--seconds", str(seconds), "--seed", str(seed), "--sides", *names]
            done = subprocess.run(
                [*command, *options], check=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def main() -> None:
    from benchmarks.sides import SIDES
    from tests import zoo

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="by default all")
    parser.add_argument("--starts", type=int, default=3, help="processes a model")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds a side and process")
    parser.add_argument("--without", nargs="*", default=[], help="sides to leave out")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--sides", nargs="*", default=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = [side for side in options.sides if side not in options.without]
    if options.child:
        logging.disable(logging.WARNING)  # exporters and compilers tell their own progress
        found = measure(options.models[0], names, options.seconds, options.seed, options.child)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for name in options.models or zoo.names():
        runs = starts(name, names, options.seconds, options.starts)
        row = summed(runs)
        sys.stdout.write(f"{name}: {_line(row)}\n")
        sys.stdout.flush()
        _store(options.output, name, row)
    if options.output == RESULTS:
        PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


def _line(row: Mapping[str, dict]) -> str:
    return ", ".join(
        f"{pair} {s['value']:.3f} ({s['low']:.3f} to {s['high']:.3f})" for pair, s in row["speeds"].items()
    )


def _store(path: Path, name: str, row: Mapping[str, object]) -> None:
    """Replaces the model's row."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"models": {}}
    results["machine"] = {key: v for key, v in this_machine().to_json().items() if key != "load"}
    results["models"][name] = row
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
