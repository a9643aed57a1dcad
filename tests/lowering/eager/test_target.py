import json
import random
import zipfile
from pathlib import Path

import pytest
import torch

from fxopt.errors import ArtifactError
from fxopt.lowering.eager.target import EagerTarget
from fxopt.program import Program, signature_to_json
from fxopt.program.container import container_bytes
from tests.traced import inputs, same_bits, traced

MODELS = ("digits", "lstm")


def written(program: Program, folder: Path) -> Path:
    path = folder / "m.fxopt"
    path.write_bytes(EagerTarget().emit(program).content)
    return path


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", MODELS)
def test_a_file_is_its_program(name: str, dynamic: bool, tmp_path: Path):
    program = traced(name, dynamic)
    artifact = EagerTarget().open(str(written(program, tmp_path)))
    tensors = inputs(name, dynamic)
    assert same_bits(artifact.run_flat(tensors), program.run_flat(tensors))
    assert signature_to_json(artifact.signature) == signature_to_json(program.signature)


def test_it_keeps_module_paths_and_no_lines(tmp_path: Path):
    with zipfile.ZipFile(written(traced("digits", True), tmp_path)) as archive:
        graph = json.loads(archive.read("graph.json"))
        manifest = json.loads(archive.read("manifest.json"))
    assert {tuple(o[1:3]) for o in graph["origins"]} == {("", 0)}
    assert {o[0] for o in graph["origins"]} >= {"0", "1", "11"}
    assert manifest["kind"] == "eager"


def test_a_program_file_is_no_artifact(tmp_path: Path):
    traced("mlp", True).save(str(tmp_path / "p.fxopt"))
    with pytest.raises(ArtifactError, match="it is of kind 'program', expected 'eager'"):
        EagerTarget().open(str(tmp_path / "p.fxopt"))


def test_weights_packed_in_an_unknown_way_are_refused(tmp_path: Path):
    path = written(traced("mlp", True), tmp_path)
    with zipfile.ZipFile(path) as archive:
        parts = {n: archive.read(n) for n in archive.namelist()}
    manifest = {**json.loads(parts.pop("manifest.json")), "settings": {"prepack": [["conv2d"]]}}
    path.write_bytes(b"".join(container_bytes({n: [b] for n, b in parts.items()}, manifest)))
    with pytest.raises(ArtifactError, match="packs weights in a way that this fxopt does not know"):
        EagerTarget().open(str(path))


@pytest.mark.parametrize("sixteenth", range(16))
def test_a_cut_file_is_refused(sixteenth: int, tmp_path: Path):
    path = written(traced("mlp", True), tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * sixteenth // 16])
    with pytest.raises(ArtifactError, match=r"^can't read [^\n]*$"):
        EagerTarget().open(str(path))


def test_flipped_bits_are_found(tmp_path: Path):
    path = written(traced("mlp", True), tmp_path)
    data = path.read_bytes()
    generator = random.Random(1)
    for _ in range(100):
        damaged = bytearray(data)
        damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"^can't read [^\n]*$"):
            EagerTarget().open(str(path))


def test_the_callers_inputs_stay_as_they_are(tmp_path: Path):
    artifact = EagerTarget().open(str(written(traced("mlp", True), tmp_path)))
    x = torch.randn(3, 64)
    before = x.clone()
    artifact(x)
    assert torch.equal(x, before)
