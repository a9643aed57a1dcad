from pathlib import Path

import pytest
import torch
from torch import nn

from fxopt.errors import ArtifactError
from fxopt.lowering import Artifact, get_target, open_artifact
from fxopt.program import Program
from tests.traced import traced

SUFFIXES = {"eager": ".fxopt", "torchscript": ".pt", "onnx": ".onnx"}


@pytest.mark.parametrize("target", SUFFIXES)
def test_an_artifact_is_opened_by_its_suffix_and_content(target: str, tmp_path: Path):
    path = tmp_path / f"m{SUFFIXES[target]}"
    path.write_bytes(get_target(target).emit(traced("mlp", True)).content)
    artifact = open_artifact(path)
    assert isinstance(artifact, Artifact)
    assert artifact.target == target
    assert artifact(torch.zeros(2, 64)).shape == (2, 10)  # type: ignore[attr-defined]


def test_a_program_is_opened_as_one(tmp_path: Path):
    traced("mlp", True).save(str(tmp_path / "m.fxopt"))
    program = open_artifact(tmp_path / "m.fxopt")
    assert isinstance(program, Program)
    assert str(program) == str(traced("mlp", True))


@pytest.mark.parametrize("name", ["m.txt", "m", "m.onnx.unverified", "m.fxopt.bak"])
def test_an_unknown_suffix_is_refused(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        ArtifactError, match=r"expected a file that ends in \.fxopt, \.onnx, \.ort, \.pt or \.pt2"
    ):
        open_artifact(tmp_path / name)


@pytest.mark.parametrize("suffix", [".fxopt", ".onnx", ".ort", ".pt", ".pt2"])
def test_a_missing_file_is_named(suffix: str, tmp_path: Path):
    with pytest.raises(ArtifactError, match=f"can't open .*m{suffix}: no such file"):
        open_artifact(tmp_path / f"m{suffix}", trust=True)
    (tmp_path / f"d{suffix}").mkdir()
    with pytest.raises(ArtifactError, match="it is a folder"):
        open_artifact(tmp_path / f"d{suffix}", trust=True)


@pytest.mark.parametrize("suffix", [".fxopt", ".onnx", ".pt"])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 100, b"PK\3\4" + bytes(100)])
def test_other_content_is_refused(suffix: str, content: bytes, tmp_path: Path):
    (tmp_path / f"m{suffix}").write_bytes(content)
    with pytest.raises(ArtifactError):
        open_artifact(tmp_path / f"m{suffix}", trust=True)


def test_a_pt2_wants_trust(tmp_path: Path):
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(nn.Linear(2, 2).eval(), (torch.zeros(1, 2),)), path)
    with pytest.raises(ArtifactError, match=r"opening a \.pt2 file can run code.*trust=True"):
        open_artifact(path)
    program = open_artifact(path, trust=True)
    assert isinstance(program, Program)
    assert program(torch.zeros(1, 2)).shape == (1, 2)  # type: ignore[attr-defined]
