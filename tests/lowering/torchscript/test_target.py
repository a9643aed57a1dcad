import hashlib
import io
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxopt.errors import ArtifactError, InputError, LoweringError
from fxopt.frontend import trace
from fxopt.lowering import open_artifact
from fxopt.lowering.torchscript.emit import Source
from fxopt.lowering.torchscript.foreign import ForeignScript
from fxopt.lowering.torchscript.module import script_bytes
from fxopt.lowering.torchscript.target import TorchScriptTarget, written_by_fxopt
from fxopt.program import Program, signature_to_json
from fxopt.testing import ProgramBuilder
from tests.lowering.cases import CASES
from tests.traced import inputs, same_bits, traced
from tests.zoo import model

MODELS = ("digits", "mlp", "bert", "lstm", "resnet10", "unet")


def written(program: Program, folder: Path, name: str = "m.pt") -> str:
    path = folder / name
    path.write_bytes(TorchScriptTarget().emit(program).content)
    return str(path)


def doubled(args: tuple[object, ...]) -> list[object]:
    return [torch.cat([a, a]) if isinstance(a, torch.Tensor) and a.dim() else a for a in args]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", MODELS)
def test_models_agree_bit_for_bit(name: str, dynamic: bool, tmp_path: Path):
    program = traced(name, dynamic)
    artifact = TorchScriptTarget().open(written(program, tmp_path))
    tensors = inputs(name, dynamic)
    assert same_bits(artifact.run_flat(tensors), program.run_flat(tensors))
    assert signature_to_json(artifact.signature) == signature_to_json(program.signature)


@pytest.mark.parametrize("name", CASES)
def test_what_a_target_has_to_spell(name: str, tmp_path: Path):
    module, args, shapes = CASES[name]
    program = trace(module, args, dynamic_shapes=shapes)
    artifact = TorchScriptTarget().open(written(program, tmp_path))
    given = doubled(args) if shapes else list(args)
    expected, got = program(*given), artifact(*given)
    assert pytree.tree_structure(got) == pytree.tree_structure(expected)
    assert same_bits(pytree.tree_leaves(got), pytree.tree_leaves(expected))


def test_an_expansion_that_is_marked_as_implicit_is_kept(tmp_path: Path):
    b = ProgramBuilder()
    program = b.finish(b.call("aten.expand", b.input((1, 1)), [4, 1, 1], implicit=True))
    artifact = TorchScriptTarget().open(written(program, tmp_path))
    for _ in range(3):  # what is left out is so from the second run on
        assert artifact(torch.ones(1, 1)).shape == (4, 1, 1)


FRESH = """
import sys, torch, warnings
warnings.simplefilter("ignore")
module = torch.jit.load(sys.argv[1])
with torch.no_grad():
    result = module(torch.ones(5, 64))
assert not [m for m in sys.modules if m.startswith("fxopt")]
print(type(result).__name__, tuple(result[0].shape), float(result[0].sum()))
"""


def test_the_file_loads_with_torch_alone(tmp_path: Path):
    program = traced("mlp", True)
    out = subprocess.run(
        [sys.executable, "-P", "-c", FRESH, written(program, tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PATH": "", "OMP_NUM_THREADS": "1"},
    ).stdout.split()
    assert out[:3] == ["tuple", "(5,", "10)"]
    assert float(out[3]) == pytest.approx(float(program(torch.ones(5, 64)).sum()), rel=1e-5)  # type: ignore[attr-defined]


DIGEST = """
import sys, hashlib, torch
torch.set_num_threads(1)
from fxopt.program.file import load_program
from fxopt.lowering.torchscript.target import TorchScriptTarget
print(hashlib.sha256(TorchScriptTarget().emit(load_program(sys.argv[1])).content).hexdigest())
"""


def test_bytes_are_the_same_in_any_process(tmp_path: Path):
    program = traced("bert", True)
    first = TorchScriptTarget().emit(program).content
    TorchScriptTarget().emit(traced("mlp", True))
    assert TorchScriptTarget().emit(program).content == first
    program.save(str(tmp_path / "p.fxopt"))
    root = Path(__file__).parents[3]
    out = subprocess.run(
        [sys.executable, "-c", DIGEST, str(tmp_path / "p.fxopt")],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    assert out.stdout.strip() == hashlib.sha256(first).hexdigest()


def test_no_path_of_this_machine_is_in_the_file():
    content = TorchScriptTarget().emit(traced("digits", True)).content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        everything = b"".join(archive.read(n) + n.encode() for n in archive.namelist())
    for secret in (
        str(Path.cwd()),
        str(Path.home()),
        str(Path(torch.__file__).parent),
        "site-packages",
        "conv.py",
        "<frozen",
    ):
        assert secret.encode() not in everything


def test_weights_keep_their_names_and_kinds(tmp_path: Path):
    module = TorchScriptTarget().open(written(traced("digits", True), tmp_path)).module
    assert dict(module.named_parameters()).keys() >= {"_0_weight", "_3_bias"}
    assert dict(module.named_buffers()).keys() >= {"_1_running_mean"}
    assert not any(p.requires_grad for p in module.parameters())


def test_tied_weights_are_stored_once(tmp_path: Path):
    program = traced("tied_encoder", True)
    weights = sum(t.numel() * t.element_size() for t in program.weights.values())
    embedding = 50 * 16 * 4
    artifact = TorchScriptTarget().open(written(program, tmp_path))
    stored = sum(t.numel() * t.element_size() for t in artifact.module.state_dict().values())
    assert stored == weights
    module, _ = model("tied_encoder")
    assert stored == sum(t.numel() * t.element_size() for t in module.parameters())
    assert embedding * 2 > embedding


def test_memory_that_a_weight_only_looks_into_is_not_stored(tmp_path: Path):
    large = torch.full((1000, 1000), 7.25)
    linear = nn.Linear(1000, 2, bias=False).eval()
    linear.weight = nn.Parameter(large[3:5])
    program = trace(linear, (torch.zeros(1, 1000),))
    assert len(TorchScriptTarget().emit(program).content) < 20_000


def test_the_shared_compilation_unit_is_left_alone():
    import torch.jit._state as state

    before = state._python_cu
    TorchScriptTarget().emit(traced("mlp", False))
    assert state._python_cu is before
    with pytest.raises(LoweringError):
        script_bytes(Source("def forward(self) -> Tuple[Tensor]:\n    return (undefined,)\n"), {}, {})
    assert state._python_cu is before


def test_what_torchscript_refuses_is_one_line():
    source = Source(
        "def forward(self, x: Tensor) -> Tuple[Tensor]:\n    y = torch.ops.aten.relu(x, 3)\n    return (y,)\n"
    )
    with pytest.raises(LoweringError, match=r"^TorchScript refuses the program: [^\n]*relu[^\n]*$"):
        script_bytes(source, {}, {})


# --- opening


def test_other_files_are_refused(tmp_path: Path):
    (tmp_path / "a.pt").write_bytes(b"no zip")
    with pytest.raises(ArtifactError, match="damaged, or no file of torch"):
        TorchScriptTarget().open(str(tmp_path / "a.pt"))
    with pytest.raises(ArtifactError, match="no such file"):
        TorchScriptTarget().open(str(tmp_path / "b.pt"))
    torch.save({"a": 1}, tmp_path / "c.pt")
    with pytest.raises(ArtifactError):
        TorchScriptTarget().open(str(tmp_path / "c.pt"))


@pytest.mark.parametrize("sixteenth", range(16))
def test_a_cut_file_is_refused(sixteenth: int, tmp_path: Path):
    path = Path(written(traced("mlp", True), tmp_path))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * sixteenth // 16])
    with pytest.raises(ArtifactError, match=r"^can't read [^\n]*$"):
        TorchScriptTarget().open(str(path))


def test_flipped_bits_give_an_error_or_the_same_model(tmp_path: Path):
    program = traced("mlp", True)
    path = Path(written(program, tmp_path))
    data = path.read_bytes()
    tensors = inputs("mlp", True)
    expected = program.run_flat(tensors)
    generator = random.Random(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(data)
        damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            artifact = TorchScriptTarget().open(str(path))
        except ArtifactError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
        else:  # a bit in the padding between members
            assert same_bits(artifact.run_flat(tensors), expected)
    assert refused > 80


def foreign(folder: Path) -> str:
    class Own(nn.Module):
        def forward(self, x: torch.Tensor, k: int = 2) -> dict[str, torch.Tensor]:
            return {"y": x * k}

    path = str(folder / "own.pt")
    unit = torch._C.CompilationUnit()
    del unit
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2).eval(), torch.zeros(1, 2)), path)
    return path


def test_a_foreign_file_wants_trust(tmp_path: Path):
    path = foreign(tmp_path)
    assert not written_by_fxopt(path)
    with pytest.raises(ArtifactError, match="fxopt did not write it"):
        TorchScriptTarget().open(path)
    with pytest.raises(ArtifactError, match="trust=True"):
        open_artifact(path)
    artifact = open_artifact(path, trust=True)
    assert isinstance(artifact, ForeignScript)
    assert artifact(torch.zeros(3, 2)).shape == (3, 2)  # type: ignore[attr-defined]
    assert [t.shape for t in artifact.run_flat([torch.zeros(3, 2)])] == [(3, 2)]  # type: ignore[attr-defined]


def test_what_torch_save_wrote_is_told_from_a_damaged_file(tmp_path: Path):
    path = str(tmp_path / "weights.pt")
    torch.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(
        ArtifactError, match=r"torch\.save wrote it, not torch\.jit\.save; load it in a function"
    ):
        open_artifact(path, trust=True)


def test_a_later_format_is_refused(tmp_path: Path):
    source = Source("def forward(self, x: Tensor) -> Tuple[Tensor]:\n    return (x,)\n")
    for text, reason in (
        ('{"format": 2}', "it has format 2"),
        ("{}", "is malformed"),
        ("[", "is malformed"),
    ):
        (tmp_path / "m.pt").write_bytes(script_bytes(source, {}, {"fxopt.json": text}))
        with pytest.raises(ArtifactError, match=reason):
            TorchScriptTarget().open(str(tmp_path / "m.pt"))


def test_arguments_are_checked(tmp_path: Path):
    artifact = TorchScriptTarget().open(written(traced("mlp", True), tmp_path))
    with pytest.raises(InputError):
        artifact(torch.zeros(2, 3))
