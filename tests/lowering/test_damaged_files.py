"""Files that are cut, damaged, tampered with or made to exhaust memory: one `ArtifactError`, no allocation."""

import json
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

import fxopt
from fxopt.errors import ArtifactError
from fxopt.lowering import get_target, open_artifact
from fxopt.lowering.onnx.metadata import SEAL_MARK as ONNX_MARK
from fxopt.lowering.torchscript.module import SEAL_MARK as SCRIPT_MARK
from fxopt.program.seal import SEAL_SIZE, sealed
from tests.traced import traced

NAMES = ("program.fxopt", "eager.fxopt", "script.pt", "model.onnx", "exported.pt2")
ONE_LINE = r"^can't (read|open) [^\n]*$|^[^\n]* can't be opened as an ONNX file[^\n]*$"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A file of each kind, of one small model."""
    folder = tmp_path_factory.mktemp("whole")
    program = traced("mlp", True)
    program.save(str(folder / "program.fxopt"))
    for name, target in (("eager.fxopt", "eager"), ("script.pt", "torchscript"), ("model.onnx", "onnx")):
        (folder / name).write_bytes(get_target(target).emit(program, optimize=False).content)
    torch.export.save(program.exported_program(), folder / "exported.pt2")
    return {name: (folder / name).read_bytes() for name in NAMES}


def refused(path: Path, *, trust: bool = False) -> str:
    with pytest.raises(ArtifactError, match=ONE_LINE) as caught:
        open_artifact(path, trust=trust)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_cut_at_every_sixteenth(name: str, written: dict[str, bytes], tmp_path: Path):
    path, data = tmp_path / name, written[name]
    for sixteenth in range(16):
        path.write_bytes(data[: len(data) * sixteenth // 16])
        refused(path, trust=name.endswith("pt2"))


@pytest.mark.parametrize("name", NAMES[:4])
def test_flipped_bits(name: str, written: dict[str, bytes], tmp_path: Path):
    path, data = tmp_path / name, written[name]
    generator = random.Random(0)
    for _ in range(80):
        damaged = bytearray(data)
        damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        refused(path)


def test_flipped_bits_of_an_exported_program_change_nothing_unseen(written: dict[str, bytes], tmp_path: Path):
    """Its headers hold dates and the like, which nobody checks; what a member holds has a checksum."""
    path, data = tmp_path / "exported.pt2", written["exported.pt2"]
    generator = random.Random(0)
    x = torch.randn(3, 64)
    path.write_bytes(data)
    expected = open_artifact(path, trust=True)(x)
    for _ in range(20):
        damaged = bytearray(data)
        damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        opened = opened_or_refused(path)
        assert opened is None or torch.equal(opened(x), expected)


def opened_or_refused(path: Path) -> Callable[..., torch.Tensor] | None:
    try:
        return open_artifact(path, trust=True)  # type: ignore[return-value]
    except ArtifactError:
        return None


@pytest.mark.parametrize("name", NAMES[:4])
@pytest.mark.parametrize("more", [b"\0", b"PK\5\6" + bytes(18), b"x" * 1000])
def test_bytes_behind_the_end(name: str, more: bytes, written: dict[str, bytes], tmp_path: Path):
    (tmp_path / name).write_bytes(written[name] + more)
    refused(tmp_path / name)


@pytest.mark.parametrize("name", NAMES[:4])
@pytest.mark.parametrize("other", NAMES[:4])
def test_a_file_under_another_suffix(name: str, other: str, written: dict[str, bytes], tmp_path: Path):
    if name.partition(".")[2] == other.partition(".")[2]:
        pytest.skip("the suffix is the same")
    (tmp_path / other).write_bytes(written[name])
    refused(tmp_path / other)


# --- zips, packed anew


def repacked(
    data: bytes,
    path: Path,
    edit: Callable[[dict[str, bytes]], dict[str, bytes]] = lambda members: members,
    *,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """The zip with its members edited; a `.pt` gets a new seal, as somebody who means it would make."""
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in edit(members).items():
            archive.writestr(name, content)
    return seal_anew(path)


def seal_anew(path: Path) -> Path:
    if path.suffix == ".pt":
        path.write_bytes(sealed([path.read_bytes()[:-2]], SCRIPT_MARK))
    return path


def swapped(members: dict[str, bytes]) -> dict[str, bytes]:
    """The first two members of one size exchanged."""
    sizes: dict[int, str] = {}
    for name, content in members.items():
        other = sizes.setdefault(len(content), name)
        if other != name and members[other] != content:
            return {**members, name: members[other], other: content}
    first, second = list(members)[:2]
    return {**members, first: members[second], second: members[first]}


@pytest.mark.parametrize("name", ["program.fxopt", "eager.fxopt", "script.pt"])
def test_members_exchanged(name: str, written: dict[str, bytes], tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(written[name])
    with zipfile.ZipFile(path) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in swapped(members).items():
            archive.writestr(member, content)
    refused(path)


@pytest.mark.parametrize("name", ["program.fxopt", "script.pt", "exported.pt2"])
def test_a_zip_bomb(name: str, written: dict[str, bytes], tmp_path: Path):
    def inflate(members: dict[str, bytes]) -> dict[str, bytes]:
        largest = max(members, key=lambda n: len(members[n]))
        return {**members, largest: bytes(100_000_000)}

    path = repacked(written[name], tmp_path / name, inflate, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    refused(path, trust=name.endswith("pt2"))


@pytest.mark.parametrize("name", ["program.fxopt", "script.pt", "exported.pt2"])
@pytest.mark.parametrize("member", ["../evil", "/evil", "a/../../evil", "a\\..\\evil", "c:evil"])
def test_a_name_that_leaves_the_file(name: str, member: str, written: dict[str, bytes], tmp_path: Path):
    path = repacked(written[name], tmp_path / name, lambda members: {**members, member: b"x"})
    refused(path, trust=True)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["program.fxopt", "script.pt", "exported.pt2"])
def test_a_link_in_the_file(name: str, written: dict[str, bytes], tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(written[name])
    link = zipfile.ZipInfo("archive/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b""
        archive.writestr(link, "/etc/passwd")
    refused(seal_anew(path), trust=True)


def test_a_script_that_wants_to_run_when_it_is_opened(written: dict[str, bytes], tmp_path: Path):
    def edit(members: dict[str, bytes]) -> dict[str, bytes]:
        name = next(n for n in members if n.endswith("__torch__/fxopt.py"))
        code = members[name] + b"  def __setstate__(self, state: Tensor) -> NoneType:\n    return None\n"
        return {**members, name: code}

    path = repacked(written["script.pt"], tmp_path / "script.pt", edit)
    assert "runs when it is opened" in refused(path)


def test_a_script_that_reads_files(tmp_path: Path):
    from fxopt.lowering.torchscript.emit import Source
    from fxopt.lowering.torchscript.module import script_bytes
    from fxopt.program.trees import signature_to_json

    text = "def forward(self, x: Tensor) -> Tuple[Tensor]:\n    y = torch.from_file('/etc/passwd', size=4)\n"
    extra = {"format": 1, "signature": signature_to_json(traced("mlp", True).signature)}
    content = script_bytes(Source(text + "    return (y,)\n"), {}, {"fxopt.json": json.dumps(extra)})
    (tmp_path / "script.pt").write_bytes(content)
    assert "aten::from_file" in refused(tmp_path / "script.pt")


# --- ONNX


def test_an_onnx_file_that_was_changed_is_opened_with_trust(written: dict[str, bytes], tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(written["model.onnx"])
    model = onnx.load(path)
    model.doc_string = "mine"
    onnx.save(model, path)
    assert "pass trust=True if you changed it yourself" in refused(path)
    x = torch.randn(3, 64)
    torch.testing.assert_close(open_artifact(path, trust=True)(x), traced("mlp", True)(x))


def with_data(folder: Path) -> tuple[Path, Path]:
    """A file whose weights are beside it."""
    from fxopt.lowering.onnx.target import OnnxTarget

    emitted = OnnxTarget(external_threshold=100).emit(traced("mlp", True), stem="model", optimize=False)
    assert emitted.data is not None and emitted.data_name is not None
    path, data = folder / "model.onnx", folder / emitted.data_name
    path.write_bytes(emitted.content)
    data.write_bytes(emitted.data)
    return path, data


def test_weights_beside_the_file(tmp_path: Path):
    path, data = with_data(tmp_path)
    x = torch.randn(3, 64)
    torch.testing.assert_close(open_artifact(path)(x), traced("mlp", True)(x))
    whole = bytearray(data.read_bytes())
    whole[len(whole) // 2] ^= 1
    data.write_bytes(whole)
    assert "damaged or were changed" in refused(path)
    data.unlink()
    assert f"{data.name} must stand beside it" in refused(path)
    (tmp_path / "elsewhere").write_bytes(b"")
    data.symlink_to(tmp_path / "elsewhere")
    assert "no file beside it" in refused(path)


@pytest.mark.parametrize("place", ["../{}", "{folder}/{}"])
def test_weights_elsewhere(place: str, tmp_path: Path):
    """onnxruntime itself refuses them, in files of others too."""
    (tmp_path / "in").mkdir()
    path, data = with_data(tmp_path)
    model = onnx.load(path, load_external_data=False)
    name = place.format(data.name, folder=tmp_path)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = name if entry.key == "location" else entry.value
    metadata = [p for p in model.metadata_props if p.key != "fxopt.sha256"]
    kept = [(p.key, name if p.key == "fxopt.data" else p.value) for p in metadata]
    del model.metadata_props[:]
    for key, value in kept:
        model.metadata_props.add(key=key, value=value)
    inner = tmp_path / "in" / "model.onnx"
    inner.write_bytes(sealed([model.SerializeToString()], ONNX_MARK))
    refused(inner)
    refused(inner, trust=True)


def test_the_seal_is_the_end_of_the_file(written: dict[str, bytes]):
    for name, mark in (("script.pt", SCRIPT_MARK), ("model.onnx", ONNX_MARK)):
        assert written[name][-SEAL_SIZE - len(mark) : -SEAL_SIZE] == mark


# --- memory

LIMITED = """
import resource, sys
import fxopt
from fxopt.lowering import open_artifact
paths = sys.argv[3:]
open_artifact(sys.argv[1])  # what opening a file imports is no allocation for another file
open_artifact(sys.argv[2])
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 96_000_000, resource.RLIM_INFINITY))
for path in paths:
    try:
        open_artifact(path, trust=not path.endswith("fxopt"))
    except fxopt.ArtifactError as error:
        print("refused", path.rsplit("/")[-1])
"""


def lying(data: bytes, path: Path, edit: dict[str, object]) -> Path:
    """The `.fxopt` file with its manifest edited and all hashes right."""
    from fxopt.program.container import container_bytes

    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    manifest = {**json.loads(members.pop("manifest.json")), **edit}
    path.write_bytes(b"".join(container_bytes({n: [b] for n, b in members.items()}, manifest)))
    return path


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_no_memory_is_taken_for_what_a_file_only_claims(written: dict[str, bytes], tmp_path: Path):
    """A process that may take less than 96 MB more is given files that claim gigabytes."""
    for name in ("eager.fxopt", "script.pt"):
        (tmp_path / name).write_bytes(written[name])
    huge = {"name": "0.weight", "dtype": "float32", "shape": [1 << 30]}
    weight = {**huge, "stride": [1], "offset": 0, "storage": "0.weight", "device": "cpu"}
    bad = [
        lying(written["program.fxopt"], tmp_path / "storages.fxopt", {"storages": [huge]}),
        lying(written["program.fxopt"], tmp_path / "weights.fxopt", {"weights": [weight]}),
    ]
    for name in ("program.fxopt", "script.pt", "exported.pt2"):
        kind = name.partition(".")[2]

        def inflate(members: dict[str, bytes]) -> dict[str, bytes]:
            largest = max(members, key=lambda n: len(members[n]))
            return {**members, largest: bytes(400_000_000)}

        bad.append(
            repacked(written[name], tmp_path / f"bomb.{kind}", inflate, compression=zipfile.ZIP_DEFLATED)
        )
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1 << 30])
    value = [onnx.helper.make_tensor_value_info(n, 1, [1]) for n in ("x", "y")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", value[:1], value[1:], [tensor]
    )
    onnx.save(onnx.helper.make_model(graph, ir_version=10), tmp_path / "claims.onnx")
    bad.append(tmp_path / "claims.onnx")
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "eager.fxopt"), str(tmp_path / "script.pt")]
    done = subprocess.run([*command, *map(str, bad)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"refused {p.name}" for p in bad], done.stderr


LAZY = """
import sys
import fxopt
from fxopt.lowering import open_artifact
def kilobytes(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))
open_artifact(sys.argv[1])
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak is counted from here
before = [kilobytes(name) for name in ("RssAnon", "VmRSS")]
opened = open_artifact(sys.argv[2])
print(*(kilobytes(name) - b for name, b in zip(("RssAnon", "VmHWM"), before)))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
def test_opening_takes_at_most_twice_the_weights_and_the_eager_file_is_mapped(target: str, tmp_path: Path):
    suffix = {"eager": "fxopt", "torchscript": "pt", "onnx": "onnx"}[target]
    names = [str(tmp_path / f"{size}.{suffix}") for size in (4, 4000)]
    for size, name in zip((4, 4000), names, strict=True):
        program = fxopt.trace(torch.nn.Linear(size, size).eval(), (torch.zeros(1, size),))
        fxopt.lower(program, target, path=name, verify=False)
    done = subprocess.run([sys.executable, "-c", LAZY, *names], capture_output=True, text=True, check=True)
    anonymous, peak = (int(number) * 1024 for number in done.stdout.split())
    slack = 16_000_000
    assert peak <= 2 * 4 * 4000 * 4000 + slack
    if target == "eager":
        assert anonymous < slack


# --- folders of entry points


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("entries") / "both"
    fxopt.lower({"one": traced("mlp", True), "two": traced("mlp", True)}, "eager", path=path)
    return path


@pytest.mark.parametrize(
    "edit",
    [
        {"target": "tensorrt"},
        {"target": None},
        {"entries": 5},
        {"entries": {"one": "../model.fxopt"}},
        {"entries": {"three": "model.fxopt"}},
        {"format": 2},
    ],
)
def test_a_list_of_entry_points_that_lies(edit: dict[str, object], folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    manifest = json.loads((copy / "entries.json").read_text())
    (copy / "entries.json").write_text(json.dumps({**manifest, **edit}))
    refused(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_no_list_of_entry_points(text: str, folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "entries.json").write_text(text)
    refused(copy)


def test_flipped_bits_behind_entry_points(folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    data = (copy / "model.fxopt").read_bytes()
    generator = random.Random(0)
    for _ in range(40):
        damaged = bytearray(data)
        damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        (copy / "model.fxopt").write_bytes(damaged)
        refused(copy)
