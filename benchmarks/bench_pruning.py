"""Dead weights removed by fxopt and by Torch-Pruning at the same masks; what pruning is worth in speed.

    python -m benchmarks.bench_pruning [MODEL ...] [--limit 120] [--seconds 20] [--no-speed]

Half of the rows of each inner layer, those of least L2 norm, are zero, their biases too; both tools are then to
make the model smaller. Each model and tool runs in a process of its own with a time limit. benchmarks/pruning.json
holds the figures, docs/benchmarks-pruning.md shows them. Torch-Pruning comes with `fxopt[bench]`; without it fxopt's
figures are measured alone.
"""

import argparse
import copy
import datetime
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import nn

from benchmarks.markdown import table
from fxopt.lowering import lower
from fxopt.measure import bench, this_machine
from fxopt.passes.prune import PrunePlan
from fxopt.pipeline import PassManager
from tests import zoo

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "pruning.json", ROOT / "docs" / "benchmarks-pruning.md"
TOOLS = ("fxopt", "Torch-Pruning")
KEPT = 1e-9
"""Largest relative difference in float64 up to which a function counts as kept."""
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


def inner_layers(module: nn.Module) -> list[tuple[nn.Module, int]]:
    """Layers but the last, with the dimension of the weight that its outputs lie along."""
    found: list[tuple[nn.Module, int]] = []
    for layer in module.modules():
        if isinstance(layer, _KINDS):
            found.append((layer, 1 if isinstance(layer, nn.ConvTranspose2d) else 0))
        elif type(layer).__name__ == "Conv1D":  # of transformers: y = x w + b
            found.append((layer, 1))
    return found[:-1]


def masked(name: str, share: float = 0.5) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A model of the zoo with zeros, in float64."""
    module, args = copy.deepcopy(zoo.model(name))
    mask_least_rows(module, share)
    return module.double().eval(), tuple(x.double() if x.is_floating_point() else x for x in args)


def mask_least_rows(module: nn.Module, share: float = 0.5) -> None:
    """Writes zeros into the rows of least norm of each inner layer, and into their biases."""
    with torch.no_grad():
        for layer, dim in inner_layers(module):
            rows = layer.weight.movedim(dim, 0)
            least = rows.flatten(1).norm(dim=1).argsort()[: int(len(rows) * share)]
            layer.weight.index_fill_(dim, least, 0)
            if layer.bias is not None and len(layer.bias) == len(rows):
                layer.bias[least] = 0


def removed_by_fxopt(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[object, int]:
    from fxopt.frontend import trace

    program = trace(module, args)
    names = {n for n, _ in module.named_parameters()}
    result = PassManager.parse("eliminate-dead-weights").run(program).program
    made = {n for n in result.weights if n not in program.weights}  # biases that took constants up
    return result, sum(t.numel() for n, t in result.weights.items() if n in names | made)


def removed_by_torch_pruning(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[object, int]:
    import torch_pruning as tp

    module = copy.deepcopy(module)
    graph = tp.DependencyGraph().build_dependency(module, example_inputs=args)
    for layer, dim in inner_layers(module):
        rows = layer.weight.movedim(dim, 0).flatten(1)
        dead = (rows == 0).all(1).nonzero().flatten().tolist()
        if not dead or len(dead) == len(rows):
            continue
        prune = graph.get_pruner_of_module(layer)
        if prune is None or layer not in graph.module2node:
            continue  # a kind of layer that it does not know
        group = graph.get_pruning_group(layer, prune.prune_out_channels, idxs=dead)
        if graph.check_pruning_group(group):
            group.prune()
    return module, sum(p.numel() for p in module.parameters())


def installed_tools() -> tuple[str, ...]:
    """The tools that can be measured here; says which is missing."""
    if importlib.util.find_spec("torch_pruning") is not None:
        return TOOLS
    print("Torch-Pruning is missing and left out: pip install --no-deps torch-pruning", file=sys.stderr)
    return TOOLS[:1]


def difference(first: object, second: object) -> float:
    """The largest, over the largest magnitude; infinite where shapes differ."""
    pairs = zip(torch.utils._pytree.tree_leaves(first), torch.utils._pytree.tree_leaves(second), strict=True)
    worst = 0.0
    for a, b in pairs:
        if isinstance(a, torch.Tensor):
            if a.shape != b.shape:
                return float("inf")
            worst = max(worst, ((a - b).abs().max() / a.abs().max().clamp(min=1e-30)).item())
    return worst


def measure(name: str, tool: str) -> dict[str, object]:
    """What a tool makes of a masked model."""
    module, args = masked(name)
    before = sum(p.numel() for p in module.parameters())
    with torch.no_grad():
        expected = module(*args)
    start = time.process_time()
    made, left = (removed_by_fxopt if tool == "fxopt" else removed_by_torch_pruning)(module, args)
    seconds = time.process_time() - start
    with torch.no_grad():
        got = made(*args)
    return {"before": before, "left": left, "error": difference(expected, got), "seconds": seconds}


def in_a_process(name: str, tool: str, limit: float) -> dict[str, object]:
    """`measure`, or why there is nothing to show."""
    one = [sys.executable, "-m", "benchmarks.bench_pruning", "--one", name, tool]
    try:
        done = subprocess.run(one, capture_output=True, text=True, timeout=limit, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return {"failure": f"no end in {limit:g} s"}
    if done.returncode:
        return {"failure": (done.stderr.strip().splitlines() or ["it dies"])[-1][:120]}
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def large(name: str = "resnet50") -> dict[str, object]:
    """What a network of 25 million parameters, masked as the others, costs the pass alone."""
    from fxopt.frontend import trace

    module, args = zoo.from_pytorchcv("resnet", name, batch=1)
    mask_least_rows(module.eval())
    program = trace(module, args)
    start = time.process_time()
    result = PassManager.parse("eliminate-dead-weights").run(program).program
    seconds = time.process_time() - start
    before, left = (sum(w.numel() for w in p.weights.values()) for p in (program, result))
    return {"model": name, "before": before, "left": left, "seconds": seconds}


def speed(seconds: float, name: str = "resnet18", size: int = 224) -> dict[str, object]:
    """A ResNet, half of its coupled channels gone, against the whole one: files of one target in one run."""
    from fxopt.frontend import trace

    module, args = zoo.from_pytorchcv("resnet", name, batch=1)
    program = trace(module.eval(), args)
    pipeline = "clean,prune{ratio=0.5,multiple=8},eliminate-dead-weights,O1"
    result = PassManager.parse(pipeline).run(program)
    plan = next(x for x in result.attachments if isinstance(x, PrunePlan))
    whole = PassManager.parse("O1").run(program).program
    found: dict[str, object] = {
        "model": name,
        "pipeline": pipeline,
        "params": plan.after.params / plan.before.params,
        "flops": plan.after.flops / plan.before.flops,
        "seconds": sum(p.seconds for p in result.passes),
    }
    with tempfile.TemporaryDirectory() as folder:
        for target, suffix in (("onnx", ".onnx"), ("torchscript", ".pt")):
            files = [str(Path(folder) / f"{n}{suffix}") for n in ("whole", "pruned")]
            reference = result.reference
            lower(whole, target, path=files[0])
            lower(result.program, target, path=files[1], reference=reference)
            report = bench(files, seconds=seconds)
            ratio = report.sides[1].speed
            sizes = [Path(f).stat().st_size for f in files]
            found[target] = {
                "speed": ratio.value,
                "low": ratio.low,
                "high": ratio.high,
                "size": sizes[1] / sizes[0],
                "rounds": report.rounds,
            }
    return found


def page(results: dict) -> str:
    """docs/benchmarks-pruning.md for the content of benchmarks/pruning.json."""
    machine, rows = results["machine"], results["models"]
    tools = [t for t in TOOLS if any(t in row for row in rows.values())]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    parts = [
        "# Benchmarks of pruning",
        "Generated by `python -m benchmarks.bench_pruning` from the models of `tests/zoo.py`.\n\n"
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}; Python {machine['python']}, "
        f"{versions}; {results['date']}.",
        "## Dead weights removed",
        "Half of the rows of each inner layer, those of least L2 norm, are zero, and their biases; BatchNorm is as it "
        "was. Both tools get the same model and are to make it smaller: fxopt by `eliminate-dead-weights`, "
        "Torch-Pruning by its dependency graph, asked to remove the rows that are zero. Left: parameters, of those "
        "before. Error: the largest difference of outputs in float64, over their largest magnitude. A function is "
        f"kept where that is below {KEPT:g}. Seconds are those of a processor, for fxopt with tracing.",
        _tally(rows),
        table(
            ["model", *(f"{t}: {c}" for t in tools for c in ("left", "error", "seconds"))],
            [[name, *(c for t in tools for c in _cells(row.get(t)))] for name, row in rows.items()],
        ),
    ]
    failures = [
        [n, t, f"`{made['failure']}`"]
        for n, row in rows.items()
        for t, made in row.items()
        if "failure" in made
    ]
    if failures:
        parts += ["## What failed", table(["model", "tool", "why"], failures)]
    if "large" in results:
        parts += ["## A large network", _large(results["large"])]
    if "speed" in results:
        parts += ["## Speed", _speed(results["speed"])]
    return "\n\n".join(parts) + "\n"


def _tally(rows: dict) -> str:
    made = {t: [row[t] for row in rows.values() if t in row] for t in TOOLS}
    kept = {t: sum(m.get("error", 1) < KEPT for m in all_) for t, all_ in made.items()}
    told = [f"{kept[t]} of {len(all_)} models by {t}" for t, all_ in made.items() if all_]
    return f"The function is kept on {', '.join(told)}."


def _cells(made: dict | None) -> list[str]:
    if made is None:
        return ["-", "-", "-"]
    if "failure" in made:
        return ["fails", "-", "-"]
    return [
        f"{made['left'] / made['before']:.1%}",
        f"{made['error']:.0e}",
        f"{made['seconds']:.2f}",
    ]


def _large(found: dict) -> str:
    return (
        f"{found['model']}, masked like these: `eliminate-dead-weights` takes {found['seconds']:.1f} s of processor "
        f"time for {found['before'] / 1e6:.1f} million parameters; {found['left'] / found['before']:.1%} are left."
    )


def _speed(found: dict) -> str:
    rows = [
        [
            t,
            f"{found[t]['speed']:.2f} ({found[t]['low']:.2f} to {found[t]['high']:.2f})",
            f"{found[t]['size']:.1%}",
        ]
        for t in ("onnx", "torchscript")
    ]
    return (
        f"{found['model']} (224 x 224, batch 1), `{found['pipeline']}` against `O1` alone: {found['params']:.1%} of "
        f"the parameters and {found['flops']:.1%} of the operations are left; the pipeline takes "
        f"{found['seconds']:.1f} s. Both files of a target take turns in one run, on one thread, by processor time; in "
        "brackets the 95 % range.\n\n" + table(["target", "speed", "size of the file"], rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="by default all of the zoo")
    parser.add_argument("--limit", type=float, default=120, help="seconds a model and tool")
    parser.add_argument("--seconds", type=float, default=20, help="that each file is timed")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "TOOL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    from importlib.metadata import version

    tools = installed_tools()
    names = ("fxopt", "torch", "onnxruntime", *(["torch-pruning"] if len(tools) > 1 else []))
    results: dict = json.loads(RESULTS.read_text()) if options.models and RESULTS.exists() else {"models": {}}
    results |= {
        "machine": this_machine().to_json(),
        "versions": {n: version(n) for n in names},
        "date": datetime.date.today().isoformat(),
    }
    for name in options.models or zoo.names():
        results["models"][name] = {tool: in_a_process(name, tool, options.limit) for tool in tools}
        print(name, results["models"][name], flush=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    results["large"] = large()
    if not options.no_speed:
        results["speed"] = speed(options.seconds)
        print(results["speed"], flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(results))


if __name__ == "__main__":
    main()
