"""A criterion of one's own, by name, from a file, in Python."""

from pathlib import Path

import pytest
import torch

from fxopt.errors import FxoptError, InputError, PipelineError
from fxopt.passes.prune import LayerView, Prune, PrunePlan, plan_pruning, register_criterion
from fxopt.passes.prune import _criteria as criteria
from fxopt.pipeline import PassManager
from tests.passes.prune.test_prune import gone, hidden

FILE = """
import torch

def largest(layer):
    return -layer.rows[0].abs().sum(1)

def broken(layer):
    raise KeyError(layer.name)

def nan(layer):
    return torch.full((len(layer.rows[0]),), float("nan"))
"""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criteria, "_registered", {})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mine.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return "mine.py"


def most_first(layer: LayerView) -> torch.Tensor:
    return -layer.rows[0].abs().sum(1)


def test_a_registered_function_has_a_name_in_pipelines() -> None:
    register_criterion(most_first)
    register_criterion(most_first)
    text = "prune{criterion=most-first}"
    manager = PassManager.parse(text)
    assert str(manager) == text
    result = manager.run(hidden())
    assert gone(result.program) == [4, 5, 6, 7]
    (plan,) = result.attachments
    assert isinstance(plan, PrunePlan) and plan.criterion == "most-first"


def test_names_have_one_owner() -> None:
    def l1(layer: LayerView) -> torch.Tensor:
        return most_first(layer)

    with pytest.raises(InputError, match=r"criterion name 'l1' of .*l1 is taken by a built-in one"):
        register_criterion(l1)
    register_criterion(most_first)

    def another(layer: LayerView) -> torch.Tensor:
        return most_first(layer)

    another.__name__ = "most_first"
    with pytest.raises(InputError, match=r"is taken by tests\.passes\.prune\.test_criteria\.most_first"):
        register_criterion(another)


def test_a_function_in_a_file(file: str) -> None:
    text = f"prune{{criterion={file}:largest}}"
    manager = PassManager.parse(text)
    assert str(manager) == text
    assert gone(manager.run(hidden()).program) == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.py:larger", "mine.py has no function 'larger'; did you mean 'largest'?"),
        ("mine.py:zzz", "mine.py has no function 'zzz'; it defines broken, largest, nan"),
        ("yours.py:largest", "'yours.py' does not exist"),
        ("mine.py:broken", "the criterion broken fails for w: KeyError: 'w'"),
        ("mine.py:nan", "the importance of 8 of 8 groups of w is NaN"),
    ],
)
def test_mistakes_are_told_in_one_line(file: str, name: str, message: str) -> None:
    with pytest.raises(FxoptError) as caught:
        plan_pruning(hidden(), criterion=name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_what_there_is() -> None:
    register_criterion(most_first)
    with pytest.raises(PipelineError) as caught:
        PassManager.parse("prune{criterion=most-last}")
    expected = "they are l1, l2, bn-scale, fpgm, lamp, taylor, obs, random, most-first, a function in Python, FILE.py:"
    assert expected in str(caught.value)


def test_a_plan_runs_no_code(file: str) -> None:
    before = hidden()
    plan = plan_pruning(before, criterion="mine.py:largest", granularity="weight", ratio=0.25)
    Path(file).unlink()
    with pytest.raises(FxoptError, match="which a plan does not run: give criterion= too"):
        PassManager.of([Prune(plan=plan)]).run(before)
    Path(file).write_text("def largest(layer):\n    return -layer.rows[0].abs()\n")
    item = Prune(plan=plan, criterion="mine.py:largest")
    after = PassManager.of([item]).run(before).program
    assert int((after.weights["w"] == 0).sum()) == 8
    assert float(after.weights["w"].max()) < 4.0
