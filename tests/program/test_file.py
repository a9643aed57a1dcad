import errno
import json
import os
import random
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import fxopt
from fxopt.errors import ArtifactError
from fxopt.frontend import trace
from fxopt.program import Program, origins_of, writing
from fxopt.program.container import container_bytes
from fxopt.program.file import file_buffers, file_kind, load_program, save_program
from tests.traced import inputs, same_bits, traced
from tests.zoo import names

USUAL = ("digits", "mlp", "resnet10", "bert", "lstm", "unet")


def saved(program: Program, folder: Path, name: str = "model.fxopt") -> str:
    path = str(folder / name)
    program.save(path)
    return path


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(
    "name", [n if n in USUAL else pytest.param(n, marks=pytest.mark.slow) for n in names("minilm")]
)
def test_every_model_of_the_zoo_comes_back(name: str, dynamic: bool, tmp_path: Path):
    program = traced(name, dynamic)
    again = load_program(saved(program, tmp_path))
    assert str(again) == str(program)
    assert again.signature.inputs == program.signature.inputs
    assert again.signature.outputs == program.signature.outputs
    assert again.signature.symbols == program.signature.symbols
    assert again.ties == program.ties
    tensors = inputs(name, dynamic)
    assert same_bits(again.run_flat(tensors), program.run_flat(tensors))
    for a, b in zip(program.graph.nodes, again.graph.nodes, strict=True):
        assert [o.line for o in origins_of(a)] == [o.line for o in origins_of(b)]
    assert Path(saved(again, tmp_path, "again.fxopt")).read_bytes() == (tmp_path / "model.fxopt").read_bytes()


def test_the_same_program_gives_the_same_bytes(tmp_path: Path):
    program = traced("mlp", True)
    first = Path(saved(program, tmp_path)).read_bytes()
    assert Path(saved(program.copy(), tmp_path, "other.fxopt")).read_bytes() == first
    assert str(tmp_path).encode() not in first
    assert str(Path(torch.__file__).parent).encode() not in first


def test_a_path_object_will_do(tmp_path: Path):
    program = traced("mlp", False)
    save_program(program, tmp_path / "m.fxopt")
    assert str(load_program(tmp_path / "m.fxopt")) == str(program)
    assert file_kind(tmp_path / "m.fxopt") == "program"


class Box(nn.Module):
    """Containers, constants, numbers of sizes, special values, a tied weight, a shared memory."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.randn(4, 6)
        self.register_buffer("top", whole[:2], persistent=False)
        self.register_buffer("turned", whole.t())
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight

    def forward(
        self, batch: dict[str, torch.Tensor], scale: float, mode: str | None = None
    ) -> dict[str, object]:
        x = batch["x"]
        y = self.second(self.first(x)) * scale
        masked = y.masked_fill(batch["mask"], float("-inf")).clamp(min=-1e-7)
        pooled = (masked @ self.turned).reshape(-1, 2)
        return {
            "rows": (x.shape[0] * 2, masked),
            "none": None,
            "pooled": pooled,
            "top": self.top,
            "list": [y, 7],
        }


def box() -> tuple[Program, dict[str, torch.Tensor]]:
    batch = {"x": torch.randn(3, 6), "mask": torch.rand(3, 6) > 0.5}
    shapes = {"batch": {"x": {0: "rows"}, "mask": {0: "rows"}}, "scale": None}
    return trace(Box().eval(), (batch, 0.5), dynamic_shapes=shapes), batch


def test_containers_constants_and_shared_memory_come_back(tmp_path: Path):
    program, batch = box()
    again = load_program(saved(program, tmp_path))
    larger = {k: torch.cat([v, v]) for k, v in batch.items()}
    expected, got = program(larger, 0.5), again(larger, 0.5)
    assert pytree.tree_structure(got) == pytree.tree_structure(expected)
    assert got["rows"][0] == 12
    assert same_bits(pytree.tree_leaves(got), pytree.tree_leaves(expected))
    assert again.ties == program.ties
    for name, weight in program.weights.items():
        assert again.weights[name].stride() == weight.stride()
        assert again.weights[name].requires_grad == weight.requires_grad
    top, turned = (again.weights[n] for n in ("top", "turned"))
    assert top.untyped_storage().data_ptr() == turned.untyped_storage().data_ptr()
    assert str(again) == str(program)


def test_history_name_and_properties_come_back(tmp_path: Path):
    program = traced("mlp", False).copy()
    program.history, program.name = ("fold-constants", "a{b=1e-07}"), "my net"
    program.properties, program.ties = frozenset({"quantized"}), {"tied": "0.weight", "also": "0.weight"}
    again = load_program(saved(program, tmp_path))
    assert (again.history, again.name, again.properties) == (
        program.history,
        program.name,
        program.properties,
    )
    assert list(again.ties.items()) == list(program.ties.items())
    assert again.state_dict()["also"] is again.weights["0.weight"]


class Derived(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0] // 2, -1) + y


def test_sizes_keep_names_ranges_and_relations(tmp_path: Path):
    half = torch.export.Dim("half", min=3, max=50)
    program = trace(
        Derived().eval(), (torch.randn(8, 3), torch.randn(4, 6)), dynamic_shapes=({0: 2 * half}, {0: half})
    )
    again = load_program(saved(program, tmp_path))
    assert again.signature.symbols == program.signature.symbols
    assert [str(s) for s in again.signature.inputs] == [str(s) for s in program.signature.inputs]
    tensors = [torch.randn(20, 3), torch.randn(10, 6)]
    assert same_bits(again.run_flat(tensors), program.run_flat(tensors))
    env, old = again.fake_mode.shape_env, program.fake_mode.shape_env
    assert env is not None
    assert old is not None
    ranges = {str(again.symbol_names.get(s, s)): (r.lower, r.upper) for s, r in env.var_to_range.items()}
    for symbol, name in program.symbol_names.items():
        assert ranges[name] == (old.var_to_range[symbol].lower, old.var_to_range[symbol].upper)


def test_a_loaded_program_can_be_copied_saved_and_exported(tmp_path: Path):
    again = load_program(saved(traced("digits", True), tmp_path))
    tensors = inputs("digits", True)
    assert same_bits(again.copy().run_flat(tensors), again.run_flat(tensors))
    with torch.no_grad():
        exported = again.exported_program().module()(*tensors)
    assert same_bits([exported], again.run_flat(tensors))


def test_weights_on_meta_can_be_saved(tmp_path: Path):
    with torch.device("meta"):
        model = nn.Linear(10_000, 10_000).eval()
        program = trace(model, (torch.empty(2, 10_000),))
    path = saved(program, tmp_path)
    assert os.path.getsize(path) < 10_000
    assert load_program(path).weights["weight"].is_meta


# --- what is refused


@pytest.mark.parametrize("name", ["model.onnx", "model", "model.fxopt.bak", "fxopt"])
def test_a_wrong_suffix_is_refused(name: str, tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"ends in \.fxopt"):
        traced("mlp", False).save(str(tmp_path / name))
    with pytest.raises(ArtifactError, match=r"ends in \.fxopt"):
        load_program(str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(ArtifactError, match="No such file"):
        load_program(tmp_path / "a.fxopt")
    (tmp_path / "b.fxopt").mkdir()
    with pytest.raises(ArtifactError):
        load_program(tmp_path / "b.fxopt")


def test_an_eager_file_is_no_program(tmp_path: Path):
    (tmp_path / "a.fxopt").write_bytes(b"".join(file_buffers(traced("mlp", False), "eager", lines=False)))
    assert file_kind(tmp_path / "a.fxopt") == "eager"
    with pytest.raises(
        ArtifactError, match=r"it is of kind 'eager', expected 'program'; fxopt\.load opens either"
    ):
        load_program(tmp_path / "a.fxopt")


@pytest.mark.parametrize("sixteenth", range(16))
def test_a_cut_file_is_refused(sixteenth: int, tmp_path: Path):
    path = Path(saved(traced("mlp", True), tmp_path))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * sixteenth // 16])
    with pytest.raises(ArtifactError, match=r"^can't read .*model\.fxopt: [^\n]*$"):
        load_program(path)


def test_flipped_bits_are_found(tmp_path: Path):
    path = Path(saved(traced("mlp", True), tmp_path))
    data = path.read_bytes()
    generator = random.Random(0)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"^can't read .*model\.fxopt: [^\n]*$"):
            load_program(path)


def repacked(path: Path, edit: dict[str, object], *, member: str = "manifest.json") -> None:
    """The file with fields of its manifest (or graph) changed and all hashes right again."""
    with zipfile.ZipFile(path) as archive:
        parts = {n: archive.read(n) for n in archive.namelist()}
    content = json.loads(parts[member])
    content.update(edit)
    parts[member] = json.dumps(content).encode()
    manifest = json.loads(parts.pop("manifest.json"))
    path.write_bytes(b"".join(container_bytes({n: [b] for n, b in parts.items()}, manifest)))


def test_a_file_repacked_without_change_loads(tmp_path: Path):
    path = Path(saved(traced("mlp", True), tmp_path))
    repacked(path, {})
    assert str(load_program(path)) == str(traced("mlp", True))


BAD_SPEC = {"kind": "tensor", "name": "input", "dtype": "float32", "shape": [4, 63], "device": "cpu"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("format", None),
        ("kind", "weights"),
        ("kind", None),
        ("signature", None),
        ("signature", {}),
        ("sizes", None),
        ("sizes", [{"name": "batch"}]),
        ("sizes", [{"name": "batch", "low": 5, "high": 3, "example": 4, "named": True}]),
        ("sizes", []),
        ("ties", [["a"]]),
        ("ties", {"a": "b"}),
        ("history", "x"),
        ("history", [1]),
        ("properties", None),
        ("settings", []),
        ("weights", []),
        ("weights", None),
        ("storages", []),
    ],
)
def test_a_manifest_that_lies_is_refused(key: str, value: object, tmp_path: Path):
    path = Path(saved(traced("mlp", True), tmp_path))
    repacked(path, {key: value})
    with pytest.raises(ArtifactError, match=r"^can't read .*model\.fxopt: [^\n]*$"):
        load_program(path)


@pytest.mark.parametrize("part", ["inputs", "outputs"])
@pytest.mark.parametrize(
    "specs",
    [
        [],
        [BAD_SPEC, BAD_SPEC],
        [BAD_SPEC],
        [{**BAD_SPEC, "shape": ["batch + ", 64]}],
        [{**BAD_SPEC, "shape": ["__import__('os')", 64]}],
        [{**BAD_SPEC, "dtype": "complex"}],
        [{**BAD_SPEC, "shape": [4]}],
        [{**BAD_SPEC, "shape": [-4, 64]}],
        [{"kind": "scalar", "name": "n", "type": "int"}],
    ],
)
def test_a_signature_that_does_not_fit_the_graph_is_refused(part: str, specs: list[object], tmp_path: Path):
    path = Path(saved(traced("mlp", False), tmp_path))
    with zipfile.ZipFile(path) as archive:
        signature = json.loads(archive.read("manifest.json"))["signature"]
    repacked(path, {"signature": {**signature, part: specs}})
    with pytest.raises(ArtifactError, match=r"^can't read .*model\.fxopt: [^\n]*$"):
        load_program(path)


def test_arguments_that_an_op_does_not_take_are_refused(tmp_path: Path):
    path = Path(saved(traced("mlp", False), tmp_path))
    with zipfile.ZipFile(path) as archive:
        nodes = json.loads(archive.read("graph.json"))["nodes"]
    call = next(n for n in nodes if n["op"] == "call")
    call["args"] = call["args"][:1]
    repacked(path, {"nodes": nodes}, member="graph.json")
    with pytest.raises(ArtifactError, match=f"malformed at {call['name']}"):
        load_program(path)


def test_an_unknown_op_names_what_to_do(tmp_path: Path):
    path = Path(saved(traced("mlp", False), tmp_path))
    with zipfile.ZipFile(path) as archive:
        nodes = json.loads(archive.read("graph.json"))["nodes"]
    next(n for n in nodes if n["op"] == "call")["target"] = "mylib.scale.default"
    repacked(path, {"nodes": nodes}, member="graph.json")
    with pytest.raises(ArtifactError, match=r"mylib\.scale.*import what defines it"):
        load_program(path)


# --- writing


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = Path(saved(traced("mlp", False), tmp_path))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(ArtifactError, match=r"^can't write .*model\.fxopt: No space left on device$"):
        traced("digits", False).save(str(path))
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [before]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_device_that_is_full_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    program = traced("mlp", False)
    monkeypatch.setattr(writing, "hidden_name", lambda _: tmp_path / "link")
    os.symlink("/dev/full", tmp_path / "link")
    with pytest.raises(ArtifactError, match="can't write"):
        program.save(str(tmp_path / "m.fxopt"))


def test_an_unwritable_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def denied(*_: object, **__: object) -> None:  # chmod would not stop root
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(writing.os, "open", denied)
    with pytest.raises(ArtifactError, match=r"^can't write [^\n]*m\.fxopt: Permission denied$"):
        traced("mlp", False).save(str(tmp_path / "m.fxopt"))
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        traced("mlp", False).save(str(tmp_path / "m.fxopt"))
    assert list(tmp_path.iterdir()) == []


def test_user_ops_pass_through(tmp_path: Path):
    @torch.library.custom_op("fxopt_file_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(torch.empty_like)

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(torch.ops.fxopt_file_test.twice(x))

    program = trace(Model().eval(), (torch.randn(3),))
    again = load_program(saved(program, tmp_path))
    x = torch.randn(3)
    assert torch.equal(again(x), torch.relu(x * 2))  # type: ignore[arg-type]


def test_the_unknown_container_comes_back_as_a_dict(tmp_path: Path):
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
            return OrderedDict(b=x + 1, a=x)

    program = trace(Model().eval(), (torch.randn(3),))
    result = load_program(saved(program, tmp_path))(torch.zeros(3))
    assert isinstance(result, dict)
    assert list(result) == ["b", "a"]


def test_the_manifest_says_who_wrote_it(tmp_path: Path):
    with zipfile.ZipFile(saved(traced("mlp", False), tmp_path)) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["fxopt"] == fxopt.__version__
    assert torch.__version__.startswith(manifest["torch"])
