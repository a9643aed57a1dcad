"""`bench`: kinds of sides, inputs, what is measured, and one line for each mistake."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import fxopt
from fxopt.errors import FxoptError, InputError
from fxopt.measure import BenchReport, bench, compare
from fxopt.measure.machine import Machine
from fxopt.pipeline import load_plugin
from tests.traced import traced

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(64, 64), nn.Dropout(), nn.Linear(64, 10))

    def forward(self, x, *, scale=1.0):
        assert not self.training and torch.is_inference_mode_enabled()
        return self.body(x) * scale

def build():
    return Net(), (torch.randn(4, 64),), {"scale": 2.0}

def fails():
    return (lambda x: x.missing()), (torch.randn(4, 64),)

def no_model():
    return 3, (torch.randn(4, 64),)
"""

PLUGIN = """
import torch

@torch.library.custom_op("mine::triple", mutates_args=())
def triple(x: torch.Tensor) -> torch.Tensor:
    return x * 3

triple.register_fake(torch.empty_like)
"""


class UsesTriple(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mine.triple(x)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its files of every kind, and a file that is as large as its weights twice over."""
    folder = tmp_path_factory.mktemp("sides")
    (folder / "measured_net.py").write_text(NET)
    for target, name in (("onnx", "mlp.onnx"), ("torchscript", "mlp.pt"), ("eager", "mlp.fxopt")):
        fxopt.lower(traced("mlp", True), target, path=folder / name, verify=False)
    traced("mlp", True).save(str(folder / "program.fxopt"))
    fxopt.lower(traced("tied_encoder", False), "onnx", path=folder / "tied.onnx", verify=False)
    foreign = onnx.load(folder / "mlp.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, folder / "foreign.onnx", save_as_external_data=True, location="w", size_threshold=0)
    return folder


def quick(folder: Path, *names: str, **options: object) -> BenchReport:
    return bench([str(folder / name) for name in names], **{"starts": 1, "seconds": 0.01, **options})  # type: ignore[arg-type]


def test_models_and_files_of_every_kind(folder: Path):
    names = ("measured_net.py:build", "mlp.fxopt", "program.fxopt", "mlp.pt", "mlp.onnx", "foreign.onnx")
    report = quick(folder, *names)
    assert [side.kind for side in report.sides] == [
        "model",
        "eager",
        "program",
        "torchscript",
        "onnx",
        "onnx",
    ]
    assert report.inputs == ("x: f32[4, 64]",)
    assert not [note for note in report.notes if "returns" in note]
    for side, name in zip(report.sides, names, strict=True):
        assert side.name == str(folder / name)
        assert 0 < side.wall.least <= side.wall.low <= side.wall.median <= side.wall.high
        assert side.calls > 15
        assert side.speed.low <= side.speed.value <= side.speed.high
    model, eager, _, _, own, foreign = report.sides
    assert model.size == 4 * (64 * 64 + 64 + 64 * 10 + 10)
    assert eager.size == (folder / "mlp.fxopt").stat().st_size
    assert foreign.size == (folder / "foreign.onnx").stat().st_size + (folder / "w").stat().st_size
    assert 10e6 < own.peak_memory < 0.6 * model.peak_memory  # without torch
    assert BenchReport.from_json(report.to_json()) == report


def test_drawn_inputs_have_the_asked_sizes(folder: Path):
    (name,) = traced("mlp", True).signature.symbols
    for sizes, expected in (({}, 8), ({name: 3}, 3)):
        report = quick(folder, "mlp.onnx", "mlp.onnx", sizes=sizes)
        assert report.inputs == (f"input: f32[{expected}, 64]",)
    with pytest.raises(InputError, match="'btch' is no dynamic size of the model; did you mean 'batch'"):
        quick(folder, "mlp.onnx", "mlp.onnx", sizes={"btch": 3})


def test_given_inputs_are_taken_in_the_dtype_of_the_side(folder: Path):
    given = {"input": torch.zeros(5, 64, dtype=torch.float64)}
    report = quick(folder, "mlp.onnx", "foreign.onnx", inputs=given, starts=2)
    assert report.inputs == ("input: f64[5, 64]",)
    assert report.starts == 2
    assert report.rounds >= 30


def test_other_functions_are_told(folder: Path):
    given = {"a": torch.zeros(2, 6, dtype=torch.int64)}
    notes = quick(folder, "tied.onnx", "tied.onnx", inputs=given).notes
    assert not [n for n in notes if "returns" in n]


def busy_machine() -> Machine:
    return Machine("p", 2, "s", "3", load=7.0)


def test_a_busy_machine_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compare, "this_machine", busy_machine)
    report = quick(folder, "mlp.onnx", "mlp.onnx")
    assert report.clock == "cpu"
    assert "busy (load 7.0 on 2 cores): times are too long, speeds compare processor" in report.notes[0]
    report = quick(folder, "mlp.onnx", "mlp.onnx", threads=2)
    assert report.clock == "wall"
    assert report.notes[0].endswith("the speeds are unsure")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("mlp.onnx",), "expected at least two"),
        (("mlp.onnx", "none.onnx"), r"none\.onnx does not exist"),
        (("mlp.onnx", "folder.onnx"), r"folder\.onnx is a folder"),
        (("mlp.onnx", "damaged.onnx"), r"damaged\.onnx can't be opened as an ONNX file: "),
        (("mlp.onnx", "tied.onnx"), r"tied\.onnx can't be run: .*(dimension|rank|shape|Rank)"),
    ],
)
def test_mistakes(folder: Path, names: tuple[str, ...], message: str):
    (folder / "folder.onnx").mkdir(exist_ok=True)
    (folder / "damaged.onnx").write_bytes((folder / "mlp.onnx").read_bytes()[:100])
    with pytest.raises(FxoptError, match=message) as caught:
        quick(folder, *names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("fails", r"measured_net\.py:fails can't be run: AttributeError: 'Tensor' object has no attribute"),
        ("no_model", r"measured_net\.py:no_model: no_model returned a int as model; expected a torch.nn"),
    ],
)
def test_mistakes_of_a_factory(folder: Path, factory: str, message: str):
    with pytest.raises(FxoptError, match=message):
        quick(folder, "mlp.onnx", f"measured_net.py:{factory}")


@pytest.mark.parametrize("option", ["threads", "starts", "seconds"])
def test_numbers_are_positive(folder: Path, option: str):
    with pytest.raises(InputError, match="must be positive"):
        quick(folder, "mlp.onnx", "mlp.onnx", **{option: 0})


def test_a_time_without_an_end_is_refused(folder: Path):
    with pytest.raises(InputError, match="must be positive and finite"):
        quick(folder, "mlp.onnx", "mlp.onnx", seconds=float("inf"))


def test_ops_of_the_users_are_defined_by_plugins(folder: Path):
    plugin = folder / "ops_of_mine.py"
    plugin.write_text(PLUGIN)
    load_plugin(str(plugin))
    program = fxopt.trace(UsesTriple(), (torch.zeros(2, 3),))
    fxopt.lower(program, "eager", path=folder / "triple.fxopt", verify=False)
    with pytest.raises(InputError, match=r"unknown op .mine\.triple"):
        quick(folder, "triple.fxopt", "triple.fxopt")
    assert quick(folder, "triple.fxopt", "triple.fxopt", plugins=[str(plugin)]).rounds
