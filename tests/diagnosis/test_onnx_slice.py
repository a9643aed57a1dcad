"""An ONNX file that disagrees with its source is cut to the nodes that do."""

from pathlib import Path

import pytest

import fxopt
from fxopt.cli import main
from fxopt.diagnosis import call_count, slice_onnx
from fxopt.errors import ArtifactError
from fxopt.frontend import trace
from fxopt.program import Program
from tests.diagnosis.test_divergence import IMAGE, SIZES, small, with_other_bias

onnx = pytest.importorskip("onnx")


def foreign(path: Path, program: Program) -> str:
    """The file of a program, all that fxopt knows of it taken out."""
    fxopt.lower(program, "onnx", path=path)
    proto = onnx.load(path)
    del proto.metadata_props[:]
    onnx.save(proto, path)
    return str(path)


def test_a_wrong_file_is_cut_to_the_wrong_layer(tmp_path: Path):
    program = trace(small(), (IMAGE,), dynamic_shapes=SIZES)
    wrong = fxopt.run_pipeline(trace(with_other_bias(), (IMAGE,), dynamic_shapes=SIZES), "O1")
    cut = slice_onnx(program, foreign(tmp_path / "wrong.onnx", wrong), tmp_path / "cut")
    assert cut is not None and call_count(cut.program) <= 2 and cut.nodes <= 2
    assert {p.name for p in cut.folder.iterdir()} == {
        "program.fxopt", "candidate.onnx", "reproduce.py", "report.txt",
    }  # fmt: skip
    part = fxopt.load(str(cut.folder / "program.fxopt"))
    assert fxopt.verify(part, str(cut.folder / "candidate.onnx")).verdict == "different"
    assert any("linear" in str(n.target) for n in cut.program.calls())


def test_a_file_of_fxopt_that_was_changed_since(tmp_path: Path):
    program, path = trace(small(), (IMAGE,), dynamic_shapes=SIZES), str(tmp_path / "changed.onnx")
    fxopt.lower(program, "onnx", path=path)
    proto = onnx.load(path)
    (last,) = (t for t in proto.graph.initializer if t.name == list(program.weights)[-1])
    last.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(last) + 1, last.name))
    onnx.save(proto, path)
    with pytest.raises(ArtifactError, match="was changed since"):
        slice_onnx(program, path, tmp_path / "cut")
    cut = slice_onnx(program, path, tmp_path / "cut", trust=True)
    assert cut is not None and cut.nodes <= 2
    program.save(str(tmp_path / "net.fxopt"))
    options = ["--artifact", path, "--output", str(tmp_path / "again")]
    assert main(["reduce", str(tmp_path / "net.fxopt"), *options]) == 2
    assert main(["reduce", str(tmp_path / "net.fxopt"), *options, "--trust"]) == 1


def test_a_right_file_is_not_cut(tmp_path: Path):
    program = trace(small(), (IMAGE,), dynamic_shapes=SIZES)
    path = foreign(tmp_path / "right.onnx", fxopt.run_pipeline(program, "O1"))
    assert slice_onnx(program, path, tmp_path / "cut") is None
    assert not (tmp_path / "cut").exists()
