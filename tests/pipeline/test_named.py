"""The named pipelines: what they stand for, and what they keep."""

import pytest
import torch
from torch import nn

from fxopt.errors import PipelineError
from fxopt.pipeline import Contract, PassManager, register_pipeline
from fxopt.pipeline.named import NAMED
from fxopt.verification import check_programs
from tests.passes.helpers import calls, program, rand
from tests.zoo import randomise_statistics


def test_every_name_parses_and_prints_back():
    for name in NAMED:
        manager = PassManager.parse(name)
        assert str(manager) == name
        assert PassManager.parse(manager.expand()).expand() == manager.expand()


def test_o0_does_nothing():
    assert PassManager.parse("O0").passes() == []
    before = program(nn.Sequential(nn.Linear(4, 4), nn.Dropout()), rand(2, 4))
    assert str(PassManager.parse("O0").run(before).program) == str(before)


def test_clean_is_exact():
    assert {p.contract for p in PassManager.parse("clean").passes()} == {Contract.EXACT}


def test_o1_changes_nothing_on_purpose():
    assert Contract.APPROXIMATE not in {p.contract for p in PassManager.parse("O1").passes()}


def test_o2_is_o1_for_any_target():
    o1 = PassManager.parse("O1").expand()
    assert PassManager.parse("O2{target=onnx}").expand() == o1
    assert PassManager.parse("O2{target=onnx:onnxruntime}").expand() == o1
    assert str(PassManager.parse("O2{target=onnx}")) == "O2{target=onnx}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("O2{level=3}", "no option 'level'"),
        ("O2{target=3}", "expected the name of a target"),
        ("O1{target=onnx}", "takes no options, got target"),
        ("clean{exact=true}", "takes no options, got exact"),
        ("int8{smooth=3}", "int8: smooth is true or false, got 3"),
        ("int8{equalize=no}", "int8: equalize is true or false, got 'no'"),
        ("int8{center=no}", "int8: center is true or false, got 'no'"),
    ],
)
def test_options_that_are_not_there(text: str, why: str):
    with pytest.raises(PipelineError, match=why):
        PassManager.parse(text)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        (
            "int8",
            ["smooth-quant", "equalize-layers", "center-channels", "insert-fake-quant", "correct-bias"],
        ),
        ("int8{smooth=false}", ["equalize-layers", "center-channels", "insert-fake-quant", "correct-bias"]),
        ("int8{equalize=false,smooth=false,center=false}", ["insert-fake-quant", "correct-bias"]),
        ("int8-dynamic{center=true}", ["center-channels", "insert-fake-quant"]),
        ("int8-dynamic{equalize=true}", ["equalize-layers", "insert-fake-quant"]),
        ("int8-dynamic", ["insert-fake-quant"]),
        ("int8-dynamic{smooth=true}", ["smooth-quant", "insert-fake-quant"]),
        ("int8-weights", ["insert-fake-quant"]),
    ],
)
def test_passes_of_eight_bits(text: str, passes: list[str]):
    first = PassManager.parse("O1").passes()
    assert [p.pass_name() for p in PassManager.parse(text).passes()[len(first) :]] == passes


@pytest.mark.parametrize(("text", "observe"), [("int8", True), ("int8{weights=unsigned}", False)])
def test_weights_of_one_scale_are_equalized_without_data(text: str, observe: bool):
    (equalize,) = (p for p in PassManager.parse(text).passes() if p.pass_name() == "equalize-layers")
    assert equalize.takes_calibration() is observe


class Trainable(nn.Module):
    """What training needs to find again: norms, dropouts, a scale of ones, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.conv, self.norm = nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4)
        self.drop, self.scale = nn.Dropout(0.1), nn.Parameter(torch.ones(4))
        randomise_statistics(self)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids).transpose(1, 2)
        x = self.drop(self.norm(self.conv(x * 1))).transpose(1, 2).reshape(-1, 5, 4)
        return (x * self.scale) @ self.embed.weight.t()


IDS = torch.tensor([[1, 2, 3, 4, 8], [0, 0, 1, 2, 3]])


def test_clean_keeps_what_training_needs():
    before = program(Trainable(), IDS, dynamic=True)
    after = PassManager.parse("clean").run(before).program
    kept = calls(after)
    assert kept == [
        "embedding",
        "permute",
        "conv1d",
        "batch_norm",
        "dropout",
        "permute",
        "mul",
        "permute",
        "matmul",
    ]
    assert set(after.weights) == set(before.weights)
    assert check_programs(before, after, "exact").ok


def test_o1_takes_all_of_it_away():
    before = program(Trainable(), IDS, dynamic=True)
    after = PassManager.parse("O1").run(before).program
    assert calls(after) == ["embedding", "permute", "conv1d", "permute", "linear"]
    assert "embed.weight" in after.weights
    assert len(after.weights) == 3
    assert check_programs(before, after).ok


def test_a_name_can_be_added():
    register_pipeline("mine", lambda options: "eliminate-dead-code,O0")
    try:
        assert PassManager.parse("mine").expand() == "eliminate-dead-code"
    finally:
        del NAMED["mine"]
