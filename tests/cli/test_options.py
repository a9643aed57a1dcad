"""Models and files as arguments."""

from pathlib import Path

import pytest

from fxopt.cli.options import read_model, read_side
from fxopt.errors import InputError
from fxopt.factories import ModelSource


def test_a_file_is_a_side(tmp_path: Path):
    path = tmp_path / "net.onnx"
    path.touch()
    assert read_side(str(path)) == ModelSource("net", str(path))


def test_a_factory_is_both(tmp_path: Path):
    path = tmp_path / "net.py"
    path.write_text("def build():\n    return 'model', (1,)\n")
    assert read_side(f"{path}:build") == read_model(f"{path}:build") == ModelSource("build", "model", (1,))


def test_a_pt2_is_a_model(tmp_path: Path):
    path = tmp_path / "net.pt2"
    path.touch()
    assert read_model(str(path)) == ModelSource("net", str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net.onnx", "is no model: expected FILE.py:FACTORY, a .pt2 file or a .fxopt program"),
        ("net.py", "net.py:build"),
    ],
)
def test_no_model(tmp_path: Path, name: str, message: str):
    path = tmp_path / name
    path.touch()
    with pytest.raises(InputError, match=message):
        read_model(str(path))


@pytest.mark.parametrize("text", ["missing.pt2", "missing.onnx", "word"])
def test_missing(text: str):
    with pytest.raises(InputError, match="does not exist"):
        read_side(text)


def test_a_module_instead_of_a_file_gets_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("")
    with pytest.raises(InputError, match=r"did you mean net\.py:build\?"):
        read_side("net:build")
