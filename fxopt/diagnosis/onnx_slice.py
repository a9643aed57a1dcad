"""`slice_onnx`: an ONNX file that disagrees with its source, cut to the few nodes that do, beside those of the source.

Both are cut at values that agree: from the last such values on either side to the first that differs. The folder
holds the part of the source (`program.fxopt`), the part of the file (`candidate.onnx`) and a script that compares
them.

>>> slice_onnx.__name__
'slice_onnx'
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.fx import Node

from fxopt.diagnosis.divergence import Judge, nearest
from fxopt.diagnosis.inner import InnerValue, double_values, onnx_values, program_values
from fxopt.diagnosis.rebuild import Edit, rebuild
from fxopt.diagnosis.reduce import call_count
from fxopt.lowering import get_target, open_artifact
from fxopt.lowering.artifact import Artifact
from fxopt.lowering.onnx.run import DTYPES
from fxopt.program import Program, Spec, TensorSpec
from fxopt.report import Verdict, VerifyReport
from fxopt.verification import Subject, subject_of, verify_runs

__all__ = ["OnnxSlice", "slice_onnx"]

_NUMBERS = dict(DTYPES.values())
_SCRIPT = '''"""Compares a part of a model with the part of an ONNX file that should do the same."""

from pathlib import Path

import fxopt

HERE = Path(__file__).parent
report = fxopt.verify(str(HERE / "program.fxopt"), str(HERE / "candidate.onnx"))
print(report)
print(fxopt.load(HERE / "program.fxopt"))
'''


@dataclass(frozen=True)
class OnnxSlice:
    """The parts that disagree.

    Attributes:
        program: of the source.
        before: calls of the whole source.
        nodes: of the file's part.
        report: the comparison of the two parts.
        folder: where they were written.
    """

    program: Program
    before: int
    nodes: int
    report: VerifyReport
    folder: Path

    def __str__(self) -> str:
        after = call_count(self.program)
        return (
            f"{self.report}\nreduced from {self.before} to {after} calls of the source, {self.nodes} nodes of the file\n"
            f"repeat it with: python {self.folder / 'reproduce.py'}"
        )


def slice_onnx(
    program: Program, path: str, folder: str | os.PathLike[str], *, trust: bool = False
) -> OnnxSlice | None:
    """Cuts a file and its source to what disagrees.

    Args:
        program: the source.
        path: the ONNX file, which takes the same inputs.
        folder: written to; made if it is not there.
        trust: also take a file of fxopt's that was changed since.

    Returns:
        None if the two don't differ, or no smaller parts that differ were found.

    Raises:
        ArtifactError: the file can't be opened.
        OSError: the folder can't be written.
    """
    artifact = open_artifact(path, trust=trust)
    assert isinstance(artifact, Artifact)
    report = verify_runs(subject_of(program), Subject(artifact.signature, artifact.run_flat, None, "onnx"))
    if report.counterexample is None:
        return None
    tensors = [t for t in report.counterexample.inputs.values() if isinstance(t, torch.Tensor)]
    cut = _Cut(program, path, tensors)
    for end, value in cut.ends():
        found = _tried(cut, end, value, Path(folder))
        if found is not None:
            return found
    return None


class _Cut:
    """Which values of the file are which nodes of the source."""

    def __init__(self, program: Program, path: str, tensors: Sequence[torch.Tensor]) -> None:
        import onnx

        self.program = program
        self.model = onnx.load(path)
        self.values = onnx_values(path, tensors)
        own = {v.name: v.tensor for v in program_values(program, tensors)}
        self.judge = Judge(own, double_values(program, tensors))
        inputs = [i.name for i in self.model.graph.input]
        self.names: dict[Node, str] = dict(zip(program.placeholders(), inputs, strict=False))
        for node in program.calls():
            match = self.judge.match(node, self.values)
            if match is not None:
                self.names[node] = match.name
        outputs = [n for n in program.output_nodes() if isinstance(n, Node)]
        self.outputs = dict(zip(outputs, [o.name for o in self.model.graph.output], strict=False))

    def ends(self) -> list[tuple[Node, str]]:
        """Nodes that part, with the file's value that should be theirs: near ones first, then the outputs."""
        apart = [n for n in self.program.calls() if n.name in self.judge.own and n not in self.names]
        found = [(n, v.name) for n in apart if (v := self._near(n)) is not None]
        return [*found, *((n, name) for n, name in self.outputs.items() if n in apart)]

    def _near(self, node: Node) -> InnerValue | None:
        return nearest(self.judge.own[node.name], self.values)

    def frontier(self, end: Node) -> list[Node]:
        """The last values before a node that agree."""
        found: dict[Node, None] = {}
        seen, todo = {end}, [end]
        while todo:
            for node in todo.pop().all_input_nodes:
                if node in self.names:
                    found[node] = None
                elif node not in seen and node.op == "call_function":
                    seen.add(node)
                    todo.append(node)
        return list(found)


def _described(model: "onnx.ModelProto", specs: Mapping[str, Spec]) -> "onnx.ModelProto":  # type: ignore[name-defined]  # noqa: F821
    """The model with the types of inner values that are to become inputs or outputs."""
    import onnx

    described = onnx.ModelProto()
    described.CopyFrom(model)
    known = {v.name for v in (*model.graph.input, *model.graph.output)}
    kept = [v for v in model.graph.value_info if v.name not in specs]
    for name, spec in specs.items():
        if name not in known and isinstance(spec, TensorSpec):
            number = _NUMBERS[str(spec.dtype).removeprefix("torch.")]
            shape = [d if isinstance(d, int) or d.isidentifier() else None for d in spec.shape]
            kept.append(onnx.helper.make_tensor_value_info(name, number, shape))
    del described.graph.value_info[:]
    described.graph.value_info.extend(kept)
    return described


def _tried(cut: _Cut, end: Node, value: str, folder: Path) -> OnnxSlice | None:
    """The parts up to one end, if they differ."""
    import onnx
    from onnx.utils import Extractor

    starts = cut.frontier(end)
    part = rebuild(
        cut.program, Edit(outputs=(end,), inputs=frozenset(n for n in starts if n.op == "call_function"))
    )
    if part is None:
        return None
    name_of = {n.name: cut.names[n] for n in starts}
    names = [name_of.get(n.name, "") for n in part.placeholders()]
    specs = (*part.signature.tensor_inputs, part.signature.computed_outputs[0])
    try:
        piece = Extractor(
            _described(cut.model, dict(zip([*names, value], specs, strict=True)))
        ).extract_model(names, [value])
        with tempfile.TemporaryDirectory(prefix="fxopt-slice-") as place:
            file = str(Path(place) / "candidate.onnx")
            onnx.save(piece, file)
            artifact = get_target("onnx").open(file)
            report = verify_runs(
                subject_of(part), Subject(artifact.signature, artifact.run_flat, None, "onnx")
            )
    except (ValueError, RuntimeError, KeyError):  # the file's nodes can't be cut there
        return None
    if report.verdict is not Verdict.DIFFERENT:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    part.save(str(folder / "program.fxopt"))
    onnx.save(piece, str(folder / "candidate.onnx"))
    (folder / "reproduce.py").write_text(_SCRIPT, encoding="utf-8")
    found = OnnxSlice(part, call_count(cut.program), len(piece.graph.node), report, folder)
    (folder / "report.txt").write_text(
        f"{found}\n\n{part}\n\n{onnx.printer.to_text(piece)}\n", encoding="utf-8"
    )
    return found
