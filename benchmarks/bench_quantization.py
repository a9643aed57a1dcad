"""Quantized files of fxopt and of onnxruntime's own tools, from the same float model, timed in turns.

    python -m benchmarks.bench_quantization [PART ...] [--seconds 3]

A part is a model, or a model with other files: mixed precision, layers in float. Each is measured in a process of its
own, in which all files take turns (`fxopt.measure`), on one thread, by processor time. What is lost is measured on data
that calibration did not see. benchmarks/quantization.json holds the figures, docs/benchmarks-quantization.md shows them,
with the bars that they are held to; a part's row is replaced when it is measured again.
"""

import argparse
import datetime
import functools
import importlib
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

import fxopt
from benchmarks.markdown import table
from benchmarks.quantization_bars import bars
from fxopt.lowering.onnx.run import open_session
from fxopt.lowering.tensors import pack, unpack
from fxopt.measure import interleave, seconds_of, speed_ratio, spread, this_machine

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "quantization.json", ROOT / "docs" / "benchmarks-quantization.md"
Batch = tuple[torch.Tensor, ...]
Run = Callable[..., torch.Tensor]
FLOAT, MODEL = "float onnx", "model"


@dataclass(frozen=True)
class Case:
    """A float model, the batch that is timed, the batches that ranges and losses are measured on, and the files.

    Attributes:
        schemes: of files for all targets, beside onnxruntime's.
        theirs: schemes of onnxruntime's files.
        choices: pipelines of ONNX files, by what their sides are called.
        beyond: also a file of mixed precision whose signal to noise on the calibration data is to be so much above
            that of onnxruntime's int8 file, dB.
    """

    model: nn.Module
    timed: Batch
    shapes: Mapping[str, Mapping[int, str]] | Sequence[Mapping[int, str]]
    calibration: Sequence[Batch]
    held_out: Sequence[Batch]
    schemes: tuple[str, ...] = ("int8",)
    theirs: tuple[str, ...] = ("int8",)
    choices: Mapping[str, str] = field(default_factory=dict)
    beyond: float | None = None


def _picture_model(file: str, name: str) -> Case:
    """A network of pytorchcv with random weights, whose BatchNorm layers have seen the calibration data."""
    torch.manual_seed(0)
    model = getattr(importlib.import_module(f"pytorchcv.models.{file}"), name)(pretrained=False)
    noise = torch.Generator().manual_seed(1)
    batches = [(torch.randn(4, 3, 224, 224, generator=noise),) for _ in range(8)]
    model.train()
    with torch.no_grad():
        for (x,) in batches[:4]:
            model(x)
    return Case(model.eval(), (batches[7][0][:1],), [{0: "batch"}], batches[:4], batches[4:])


def _minilm() -> Case:
    """The sentence encoder with its real weights, on docstrings."""
    from examples.prune_minilm import batches, docstrings
    from fxopt.demo.models import minilm

    demo = minilm()
    seen, unseen = (batches(docstrings(p, 256)) for p in (("sklearn", "networkx"), ("email", "numpy")))
    timed = max(unseen, key=lambda b: b[0].shape[1])
    schemes = ("int8", "int8-dynamic", "int8-weights")
    timed = tuple(t[:4] for t in timed)
    return Case(demo.model, timed, demo.dynamic, seen, unseen, schemes, ("int8", "int8-dynamic"))


def _chosen(case: Callable[[], Case], **given: object) -> Callable[[], Case]:
    """A part of its own: the same model, other files."""
    return lambda: replace(case(), **{"schemes": (), **given})  # type: ignore[arg-type]  # fields by name


_RESNET = functools.partial(_picture_model, "resnet", "resnet18")
_MOBILENET = functools.partial(_picture_model, "mobilenetv2", "mobilenetv2_w1")
_FIRST = '"features.init_block.*=float"'
_STAGES = f'{_FIRST},"features.stage1.*=float"'
CASES: dict[str, Callable[[], Case]] = {
    "resnet18": _RESNET,
    "resnet18-mixed": _chosen(_RESNET, beyond=3.0),
    "mobilenetv2": _MOBILENET,
    "mobilenetv2-layers": _chosen(
        _MOBILENET,
        choices={
            "int8, first layer float": f"int8{{layers=[{_FIRST}]}}",
            "int8, first stage float": f"int8{{layers=[{_STAGES}]}}",
            "int8, two units float": f'int8{{layers=[{_STAGES},"features.stage2.unit1.*=float"]}}',
        },
    ),
    "minilm": _minilm,
    "minilm-rows": _chosen(
        _minilm,
        theirs=("int8-dynamic",),
        choices={
            "int8-dynamic by rows": "int8-dynamic{rows=true}",
            "int8-dynamic by rows, smooth, gptq": "int8-dynamic{rows=true,smooth=true},gptq",
        },
    ),
    "minilm-int4": _chosen(
        _minilm, theirs=(), choices={"int4-weights": "int4-weights{block=64,symmetric=false},gptq"}
    ),
}


def _session(path: Path) -> Run:
    session = open_session(str(path))

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        return unpack(session.run([pack(t) for t in tensors])[0])

    return run


def _onnxruntime(case: Case, source: Path, path: Path, scheme: str) -> None:
    """What onnxruntime's tools make of the float file, with the settings that its documentation names for x86."""
    from onnxruntime import quantization as q

    if scheme == "int8-dynamic":
        q.quantize_dynamic(source, path, per_channel=True, weight_type=q.QuantType.QInt8)
        return
    prepared = path.with_suffix(".prepared.onnx")
    q.quant_pre_process(source, prepared, skip_symbolic_shape=True)
    names = [i.name for i in open_session(str(source)).inputs]

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Batch] = iter(case.calibration)

        def get_next(self) -> dict[str, object] | None:
            batch = next(self.batches, None)
            return None if batch is None else {n: t.numpy() for n, t in zip(names, batch, strict=True)}

    q.quantize_static(
        prepared, path, Reader(), per_channel=True,
        activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
    )  # fmt: skip


def sides(case: Case, folder: Path) -> dict[str, tuple[Run, int]]:
    """Everything that is compared: what runs it, and the bytes of its file (0 for the model)."""
    program = fxopt.trace(case.model, case.timed, dynamic_shapes=case.shapes)
    found: dict[str, tuple[Run, int]] = {MODEL: (case.model, 0)}
    source = folder / "float.onnx"
    fxopt.lower(fxopt.run_pipeline(program, "O1"), "onnx", path=source)
    found[FLOAT] = (_session(source), source.stat().st_size)
    for scheme in case.theirs:
        path = folder / f"onnxruntime-{scheme}.onnx"
        _onnxruntime(case, source, path, scheme)
        found[f"onnxruntime {scheme}"] = (_session(path), path.stat().st_size)
    for scheme in case.schemes:
        for target in ("onnx", "torchscript", "eager"):
            data = case.calibration if scheme == "int8" else None
            rounded = fxopt.run_pipeline(program, scheme, calibration=data, target=target)
            path = folder / f"{scheme}{fxopt.lowering.get_target(target).suffix}"
            artifact = fxopt.lower(rounded, target, path=path)
            run: Run = _session(path) if target == "onnx" else artifact  # type: ignore[assignment]  # one tensor
            found[f"fxopt {scheme} {target}"] = (run, artifact.size)
    for i, (side, pipeline) in enumerate(case.choices.items()):
        path = folder / f"{i}.onnx"
        rounded = fxopt.run_pipeline(program, pipeline, calibration=case.calibration, target="onnx")
        size = fxopt.lower(rounded, "onnx", path=path).size
        found[f"fxopt {side}"] = (_session(path), size)
    if case.beyond is not None:
        found["fxopt int8 mixed"] = _mixed(case, program, found["onnxruntime int8"][0], folder / "mixed.onnx")
    return found


def _mixed(case: Case, program: fxopt.Program, theirs: Run, path: Path) -> tuple[Run, int]:
    """The file of mixed precision that a search makes, for what onnxruntime's file reaches on the same data."""
    with torch.inference_mode():
        wanted = [case.model(*b) for b in case.calibration]
        floor = losses(theirs, wanted, case.calibration)["sqnr"] + (case.beyond or 0.0)
    fxopt.optimize(
        program, pipeline="int8", calibration=case.calibration, target="onnx", path=path, min_sqnr=floor
    )
    return _session(path), path.stat().st_size


def losses(run: Run, wanted: Sequence[torch.Tensor], batches: Sequence[Batch]) -> dict[str, float]:
    """Signal to noise over all values, dB, and the mean cosine of a batch's rows to the float model's."""
    got = torch.cat([run(*b).flatten(1) for b in batches])
    expected = torch.cat([w.flatten(1) for w in wanted])
    noise = (got - expected).square().sum()
    cosine = nn.functional.cosine_similarity(got, expected).mean()
    return {"sqnr": float(10 * torch.log10(expected.square().sum() / noise)), "cosine": float(cosine)}


def measure(name: str, seconds: float, folder: Path) -> dict[str, object]:
    """All sides of a model, in this process."""
    torch.set_num_threads(1)
    case = CASES[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sides(case, folder)
    with torch.inference_mode():
        wanted = [case.model(*b) for b in case.held_out]
        lost = {
            s: losses(run, wanted, case.held_out) for s, (run, _) in found.items() if s not in (MODEL, FLOAT)
        }
        timers = [functools.partial(seconds_of, functools.partial(r, *case.timed)) for r, _ in found.values()]
        series = interleave(timers, seconds=seconds * len(timers))
    laps = {s: [lap.cpu for lap in each] for s, each in zip(found, series, strict=True)}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load": round(this_machine().load, 1),
        "sides": {
            side: {
                "size": size,
                "cpu": spread(laps[side]).to_json(),
                "speed": {of: speed_ratio([laps[of]], [laps[side]]).to_json() for of in (MODEL, FLOAT)},
                **lost.get(side, {}),
            }
            for side, (_, size) in found.items()
        },
    }


def page(results: Mapping[str, dict]) -> str:
    """docs/benchmarks-quantization.md for the content of benchmarks/quantization.json."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts = [
        "# Benchmarks of quantization",
        "Generated by `python -m benchmarks.bench_quantization`: int8 files of fxopt, and of onnxruntime's "
        "`quantize_static` and `quantize_dynamic` from the same float model and calibration data (unsigned 8-bit "
        "activations, signed weights by channel, else by their defaults: every op type that they know).\n\n"
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}; Python {machine['python']}, "
        f"{versions}.\n\n"
        "All sides of a model take turns of ten milliseconds in random order, on one thread, in one process. Times "
        "are medians of *processor time*; speeds are medians of the ratios within each round, to the float model as "
        "PyTorch runs it and to the float ONNX file in onnxruntime. SQNR (signal to quantization noise) and the "
        "mean cosine of results are to the float model, on data that calibration did not see.",
    ]
    held = [bar.cells() for bar in bars(results["models"])]
    parts += ["## What is asked for", table(["", "", "bar", "measured", "met"], held)]
    for name, row in results["models"].items():
        parts += [f"## {name}", _DESCRIBED[name] + f" {row['date']}, load {row['load']}."]
        parts.append(table(_HEAD, [_line(side, found) for side, found in row["sides"].items()]))
    return "\n\n".join(parts) + "\n"


_HEAD = ["", "a call", "to the model", "to float ONNX", "SQNR", "cosine", "file"]
_RANDOM = "at batch 1 of 224 x 224, random weights, BatchNorm statistics of noise, calibrated on noise."
_DESCRIBED = {
    "resnet18-mixed": "The same in mixed precision, for three dB more than onnxruntime's file.",
    "mobilenetv2-layers": "The same with its first layers in float.",
    "minilm-rows": "The same, each row that a layer reads divided by its largest magnitude.",
    "minilm-int4": "The same with weights of 4 bits, a scale and a zero point for 64 of them.",
    "resnet18": f"pytorchcv's `resnet18` {_RANDOM}",
    "mobilenetv2": f"pytorchcv's `mobilenetv2_w1` {_RANDOM}",
    "minilm": "all-MiniLM-L6-v2 with its real weights, four sentences of up to 32 tokens, calibrated on docstrings.",
}


def _line(side: str, found: Mapping[str, dict]) -> list[str]:
    speeds = [f"{found['speed'][of]['value']:.2f}" for of in (MODEL, FLOAT)]
    lost = [f"{found['sqnr']:.1f} dB", f"{found['cosine']:.4f}"] if "sqnr" in found else ["", ""]
    size = f"{found['size'] / 1e6:.2f} MB" if found["size"] else ""
    return [side, f"{found['cpu']['median'] * 1e3:.2f} ms", *speeds, *lost, size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="by default all")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds a side")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        logging.disable(logging.WARNING)
        with tempfile.TemporaryDirectory() as folder:
            found = measure(options.parts[0], options.seconds, Path(folder))
        sys.stdout.write("\n" + json.dumps(found) + "\n")
        return
    for name in options.parts or CASES:
        command = [sys.executable, "-m", "benchmarks.bench_quantization", name, "--child"]
        done = subprocess.run(
            [*command, "--seconds", str(options.seconds)], check=True, cwd=ROOT, stdout=subprocess.PIPE
        )
        _store(options.output, name, json.loads(done.stdout.splitlines()[-1]))
    results = json.loads(options.output.read_text(encoding="utf-8"))
    sys.stdout.write("\n".join("  ".join(bar.cells()) for bar in bars(results["models"])) + "\n")
    if options.output == RESULTS:
        PAGE.write_text(page(results), encoding="utf-8")


def _store(path: Path, name: str, row: Mapping[str, object]) -> None:
    """Replaces the model's row; models stand in the order of `CASES`."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"models": {}}
    results["machine"] = {key: v for key, v in this_machine().to_json().items() if key != "load"}
    rows = {**results["models"], name: row}
    results["models"] = {n: rows[n] for n in CASES if n in rows}
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
