"""Nodes of the zoo's ONNX graphs: fxopt's before its onnxsim step, other tools', and what they find left to do in ours.

    python -m benchmarks.bench_nodes [MODEL ...]

benchmarks/nodes.json holds the counts, docs/benchmarks-nodes.md shows them; a model's row is replaced when it is
counted again. Initializers are no nodes; Identity and Constant are not counted.
"""

import argparse
import datetime
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx

from benchmarks.markdown import table
from benchmarks.sides import silent

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "nodes.json", ROOT / "docs" / "benchmarks-nodes.md"

OTHERS = ("torch.onnx.export", "export + onnxsim", "export + onnxruntime basic")
CLEANERS = ("onnxsim", "onnxscript")
Counts = dict[str, int]


def count(model: onnx.ModelProto) -> Counts:
    """Compute nodes by op type."""
    types = Counter(n.op_type for n in model.graph.node if n.op_type not in ("Identity", "Constant"))
    return dict(sorted(types.items()))


def ours(name: str) -> onnx.ModelProto:
    """The file of a zoo model after O1, dynamic batch, as fxopt writes it before it asks onnxsim."""
    from fxopt.lowering.onnx.target import OnnxTarget
    from fxopt.pipeline import PassManager
    from tests.traced import traced

    program = PassManager.parse("O1").run(traced(name, True)).program
    return onnx.load_from_string(OnnxTarget().emit(program, optimize=False).content)


def onnxsim_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """By its defaults."""
    import onnxsim

    simplified, right = onnxsim.simplify(_copy(model))
    assert right
    return simplified


def onnxscript_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """By its optimizer's defaults, constant folding and its rewrite rules."""
    import onnx_ir
    import onnxscript.optimizer

    graph = onnx_ir.serde.deserialize_model(_copy(model))
    onnxscript.optimizer.optimize(graph)
    return onnx_ir.serde.serialize_model(graph)


CLEANED: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "onnxsim": onnxsim_of,
    "onnxscript": onnxscript_of,
}


def left_to_do(model: onnx.ModelProto) -> dict[str, str]:
    """By tool that makes a graph of fewer compute nodes: what it takes out and what it puts in."""
    before, found = count(model), {}
    for tool, clean in CLEANED.items():
        with silent():
            after = count(clean(model))
        if sum(after.values()) < sum(before.values()):
            found[tool] = difference(before, after)
    return found


def difference(before: Counts, after: Counts) -> str:
    """`-4 MatMul, +2 Split`."""
    changes = {t: after.get(t, 0) - before.get(t, 0) for t in sorted(before | after)}
    return ", ".join(f"{n:+d} {t}" for t, n in changes.items() if n)


def others(name: str, folder: Path) -> Counts:
    """Nodes by tool that starts from the module."""
    import torch

    from tests import zoo

    module, args = zoo.model(name)
    with silent():
        exported = torch.onnx.export(
            module, args, dynamo=True, dynamic_shapes=zoo.dynamic_batch(args), verbose=False
        )
        assert exported is not None
        path = folder / "exported.onnx"
        exported.save(path)
        model = onnx.load(path)
        models = (model, onnxsim_of(model), _by_onnxruntime(path, folder / "basic.onnx"))
    return {tool: sum(count(m).values()) for tool, m in zip(OTHERS, models, strict=True)}


def _by_onnxruntime(path: Path, to: Path) -> onnx.ModelProto:
    """The graph that a session of the basic level runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath, options.log_severity_level = str(to), 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(to)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.load_from_string(model.SerializeToString())


def row(name: str) -> dict[str, object]:
    """All counts of a model."""
    model = ours(name)
    with tempfile.TemporaryDirectory() as folder:
        counts = others(name, Path(folder))
    own = sum(count(model).values())
    return {
        "nodes": {**counts, "fxopt": own},
        "left": left_to_do(model),
        "date": datetime.date.today().isoformat(),
    }


def page(rows: Mapping[str, Mapping[str, dict]]) -> str:
    """docs/benchmarks-nodes.md for the content of benchmarks/nodes.json."""
    least = [n for n, r in rows.items() if r["nodes"]["fxopt"] > min(r["nodes"][o] for o in OTHERS)]
    left = [n for n, r in rows.items() if r["left"]]
    dates = sorted({str(r["date"]) for r in rows.values()})
    verdicts = [
        f"onnxsim or onnxscript's optimizer takes a node out of ours on {len(left)} of {len(rows)} models"
        + (f" ({', '.join(left)})." if left else "."),
        f"Ours is above another tool's on {len(least)}" + (f" ({', '.join(least)})." if least else "."),
    ]
    counts = [[n, *(str(r["nodes"][c]) for c in (*OTHERS, "fxopt"))] for n, r in rows.items()]
    remains = [[n, *(r["left"].get(c, "-") for c in CLEANERS)] for n, r in rows.items()]
    return (
        "\n\n".join(
            [
                "# Nodes of ONNX graphs",
                "Generated by `python -m benchmarks.bench_nodes` "
                f"({' to '.join(dict.fromkeys((dates[0], dates[-1])))}): the models of `tests/zoo.py` with a dynamic batch. "
                "fxopt's are counted after O1 and lowering, before its own onnxsim step. Identity and Constant are "
                "not counted.",
                " ".join(verdicts),
                "## Compute nodes",
                table(["model", *OTHERS, "fxopt"], counts).rstrip(),
                "## What others find left to do in ours",
                "Where the graph gets smaller by it; `-` where it does not.",
                table(["model", *CLEANERS], remains).rstrip(),
            ]
        )
        + "\n"
    )


def main() -> None:
    from tests import zoo

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", default=zoo.names())
    parser.add_argument(
        "--left", action="store_true", help="print what others find left to do in ours, as JSON"
    )
    options = parser.parse_args()
    if options.left:
        print(json.dumps({name: left_to_do(ours(name)) for name in options.models}))
        return
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in options.models:
        rows[name] = row(name)
        print(name, rows[name], flush=True)
        rows = {n: rows[n] for n in zoo.names() if n in rows}
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
