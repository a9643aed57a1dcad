"""Several entry points over one set of weights: a folder a target writes, opens and verifies."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import fxopt
from fxopt.errors import ArtifactError, InputError, LoweringError, VerificationError
from fxopt.lowering import EntryPoints, entries
from fxopt.program.sharing import share_weights

TARGETS = ("eager", "torchscript", "onnx")


class Body(nn.Module):
    """A layer that both entry points have, and one of its own."""

    def __init__(self, body: nn.Module, own: int) -> None:
        super().__init__()
        torch.manual_seed(10 + own)
        self.body, self.own = body, nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.own(torch.relu(self.body(x)))}


@pytest.fixture(scope="module")
def programs() -> dict[str, fxopt.Program]:
    torch.manual_seed(0)
    body = nn.Linear(64, 64)
    x, shapes = torch.randn(3, 64), {"x": {0: "batch"}}
    return {
        n: fxopt.trace(Body(body, i).eval(), x, dynamic_shapes=shapes)
        for i, n in enumerate(("first", "second"))
    }


def test_equal_weights_are_one_and_others_keep_their_own(programs):
    shared = share_weights(programs)
    first, second = shared["first"].weights, shared["second"].weights
    assert first["body.weight"] is second["body.weight"]
    assert set(second) == {"body.weight", "body.bias", "own.weight_second", "own.bias_second"}
    x = torch.randn(2, 64)
    for name, program in programs.items():
        assert torch.equal(shared[name](x)["y"], program(x)["y"])
    copied = programs["first"].copy()
    copied.weights = {n: t.detach().clone().requires_grad_(True) for n, t in copied.weights.items()}
    copied.weights = {n: nn.Parameter(t) for n, t in copied.weights.items()}
    again = share_weights({"first": programs["first"], "copied": copied})
    assert again["copied"].weights["own.weight"] is again["first"].weights["own.weight"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_folder_of_entry_points(programs, target: str, tmp_path: Path):
    folder = tmp_path / "model"
    points = fxopt.lower(programs, target, path=folder)
    assert isinstance(points, EntryPoints)
    assert list(points) == ["first", "second"] and points.path == str(folder)
    x = torch.randn(5, 64)
    for opened in (points, fxopt.load(folder)):
        for name, program in programs.items():
            assert torch.allclose(opened[name](x)["y"], program(x)["y"], atol=1e-5)
            assert getattr(opened, name) is opened[name]
    assert all(p.report.ok for p in points.values())
    # One body and two heads of 64 x 64 floats; two files of their own would hold four.
    assert 3 * 64 * 64 * 4 < points.size < 3.9 * 64 * 64 * 4
    assert sorted(tmp_path.iterdir()) == [folder]
    assert not any(f.name.startswith(".") for f in folder.iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_a_folder_in_memory(programs, target: str):
    points = fxopt.lower(programs, target)
    assert points.path is None
    assert points.second(torch.randn(2, 64))["y"].shape == (2, 64)
    with pytest.raises(AttributeError, match="'third'; there are first, second"):
        points.third  # noqa: B018
    with pytest.raises(InputError, match="call one of them: first, second"):
        points(torch.randn(2, 64))


@pytest.mark.parametrize("scheme", ["int8", "int8-weights", "int8-dynamic"])
@pytest.mark.parametrize("target", TARGETS)
def test_rounded_weights_are_integers_stored_once(programs, target: str, scheme: str):
    data = [torch.randn(8, 64)] if scheme == "int8" else None
    rounded = {n: fxopt.run_pipeline(p, scheme, calibration=data, target=target) for n, p in programs.items()}
    points = fxopt.lower(rounded, target)
    assert all(p.report.ok for p in points.values()), {n: p.report.reason for n, p in points.items()}
    apart = sum(fxopt.lower(p, target).size for p in rounded.values())
    floats = fxopt.lower(programs, target).size
    assert points.size < min(0.6 * floats, 0.95 * apart)


def test_an_onnx_entry_point_is_a_file_like_any_other(programs, tmp_path: Path):
    fxopt.lower(programs, "onnx", path=tmp_path / "model")
    names = sorted(f.name for f in (tmp_path / "model").iterdir())
    assert [n for n in names if not n.startswith("weights.")] == ["entries.json", "first.onnx", "second.onnx"]
    assert fxopt.verify(programs["first"], tmp_path / "model" / "first.onnx").ok


def test_what_stands_there_is_replaced_whole_or_left(
    programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "model"
    fxopt.lower(programs, "eager", path=folder)
    fxopt.lower(programs, "torchscript", path=folder)
    assert sorted(f.name for f in folder.iterdir()) == ["entries.json", "model.pt"]
    honest = entries.verify_file

    def wrong(reference, program, target, path, entry):
        return honest(reference if entry == "first" else programs["first"], program, target, path, entry)

    monkeypatch.setattr(entries, "verify_file", wrong)
    with pytest.raises(VerificationError, match="'second' is not equivalent"):
        fxopt.lower(programs, "eager", path=folder)
    assert sorted(f.name for f in folder.iterdir()) == ["entries.json", "model.pt"]
    with pytest.raises(VerificationError, match=r"kept as model.unverified"):
        fxopt.lower(programs, "eager", path=folder, keep_unverified=True)
    assert sorted(os.listdir(tmp_path)) == ["model", "model.unverified"]


def test_mistakes(programs, tmp_path: Path):
    for names in ({}, {"a b": programs["first"]}, {"forward": programs["first"]}, {"": programs["first"]}):
        with pytest.raises(LoweringError, match="entry points are given by name"):
            fxopt.lower(names, "eager")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    with pytest.raises(ArtifactError, match="folder of something else"):
        fxopt.lower(programs, "eager", path=tmp_path / "mine")
    with pytest.raises(ArtifactError, match="does not exist"):
        fxopt.lower(programs, "eager", path=tmp_path / "no" / "model")
    fxopt.lower(programs, "eager", path=tmp_path / "model")
    with pytest.raises(ArtifactError, match="several entry points; open its folder"):
        fxopt.load(tmp_path / "model" / "model.fxopt")
    for change in (
        {"format": 2},
        {"entries": {"first": "../x.fxopt"}},
        {"entries": {"third": "model.fxopt"}},
    ):
        manifest = json.loads((tmp_path / "model" / "entries.json").read_text())
        (tmp_path / "model" / "entries.json").write_text(json.dumps(manifest | change))
        with pytest.raises(ArtifactError):
            fxopt.load(tmp_path / "model")
        (tmp_path / "model" / "entries.json").write_text(json.dumps(manifest))
