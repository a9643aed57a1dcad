"""`optimize`: what its report says, and what is left on the disk when something fails."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import fxopt
from fxopt.lowering.onnx.target import OnnxTarget
from fxopt.report import Report


class Block(nn.Module):
    """A convolution that is fused, and one that is not because it is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor, *, shared: bool = False) -> torch.Tensor:
        h = self.conv(x)
        y = self.norm(h)
        return y + h if shared else y


X = torch.randn(2, 1, 4, 4)


@pytest.fixture
def block() -> nn.Module:
    return Block().eval()


def test_the_report_says_all_that_was_done(block: nn.Module, tmp_path: Path):
    result = fxopt.optimize(block, (X,), path=tmp_path / "m.onnx", metric=lambda run: float(run(X).sum()))
    report = Report.load(saved(result.report, tmp_path))
    assert report.artifact is not None and report.artifact.coverage is not None
    assert (report.artifact.opset, str(report.artifact.coverage)) == (20, "1 ops, 100% by own rules")
    assert report.before is not None and report.after is not None
    assert report.before.cost is not None and report.after.cost is not None
    assert report.before.ops == {"aten.batch_norm": 1, "aten.conv2d": 1}
    assert report.before.cost.flops > report.after.cost.flops == 2 * 9 * (2 * 2 * 16)
    assert report.metric is not None
    assert report.metric.before == pytest.approx(report.metric.after, abs=1e-4)
    (fused,) = [p for p in report.passes if p.name == "fuse-conv-bn" and p.changed]
    assert (fused.ops_before, fused.ops) == (2, 1)
    (rewrite,) = fused.applied
    assert "test_optimizer.py:" in rewrite.where and "conv" in rewrite.where and "norm" in rewrite.where
    assert rewrite.removed == 8 and rewrite.created == 3  # weights among them
    assert report.versions["torch"] == torch.__version__


def saved(report: Report, folder: Path) -> Path:
    report.save(folder / "report.json")
    return folder / "report.json"


def test_what_is_not_covered_by_own_rules_is_named():
    class Lent(OnnxTarget):
        def lent_rule(self, node: torch.fx.Node) -> str:
            return "somebody else" if "relu" in str(node.target) else ""

    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval()
    report = fxopt.optimize(model, (torch.randn(3, 2),), target=Lent()).report
    assert report.artifact is not None
    assert str(report.artifact.coverage) == (
        "2 ops, 50% by own rules; 1 not: aten.relu.default (somebody else)"
    )


def test_a_part_of_a_result_has_a_name_in_the_summary():
    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = x.split(2)
            return a * b

    report = fxopt.optimize(Halves().eval(), (torch.randn(4, 2),), target="eager").report
    assert report.before is not None
    assert report.before.ops["getitem"] == 2
    assert not any(name.startswith("_") for name in report.before.ops)


def test_a_metric_that_raises_leaves_the_old_file(block: nn.Module, tmp_path: Path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def fails(run: object) -> float:
        raise ZeroDivisionError("no data")

    with pytest.raises(ZeroDivisionError, match="no data"):
        fxopt.optimize(block, (X,), path=path, metric=fails)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_a_budget_that_is_exceeded_leaves_the_old_file_and_says_so(block: nn.Module, tmp_path: Path):
    path = tmp_path / "m.fxopt"
    path.write_bytes(b"old")
    scores = iter([0.9, 0.8])
    with pytest.raises(fxopt.VerificationError, match=r"from 0\.9 to 0\.8.*no file was written") as caught:
        fxopt.optimize(block, (X,), target="eager", path=path, metric=lambda _: next(scores), max_drop=0.05)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]
    report = caught.value.report
    assert isinstance(report, Report) and report.artifact is None and report.metric is not None
    assert report.ok  # the file was the same function; it is the budget that failed


def test_a_metric_that_is_no_number_is_beyond_any_budget(block: nn.Module):
    scores = iter([0.9, float("nan")])
    with pytest.raises(fxopt.VerificationError, match="to nan"):
        fxopt.optimize(block, (X,), target="eager", metric=lambda _: next(scores), max_drop=10.0)


def test_what_does_nothing_says_why(block: nn.Module):
    notes = fxopt.optimize(block, (X,), {"shared": True}, target="eager").report.notes
    assert any(
        n.startswith("nothing was changed, because of fuse-conv-bn at test_optimizer.py:") for n in notes
    )
    relu = fxopt.optimize(nn.ReLU().eval(), (X,), target="eager", pipeline="fuse-conv-bn").report
    assert relu.notes == ["nothing was changed, because the model has nothing for fuse-conv-bn to do"]
    useless = nn.Sequential(nn.ReLU(), nn.Identity(), nn.Dropout()).eval()
    notes = fxopt.optimize(useless, (X,), target="eager").report.notes
    assert any(n.startswith("nothing was fused, because the model has nothing for fuse-") for n in notes)
    assert fxopt.optimize(block, (X,), target="eager").report.notes == []


def test_a_report_prints_as_a_few_lines(block: nn.Module, tmp_path: Path):
    report = fxopt.optimize(block, (X,), path=tmp_path / "m.onnx").report
    lines = str(report).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("Block by O1: 2 -> 1 ops, ")
    assert lines[1].startswith(f"{tmp_path / 'm.onnx'}: onnx opset 20, ")
    assert lines[2].startswith("equivalent: 1 output agrees")
    assert str(report.verification) == lines[2]


def test_the_report_says_what_a_pruned_model_was_held_to(block: nn.Module):
    wide = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    pruned = fxopt.optimize(wide, (X,), pipeline="clean,prune{ratio=0.5}", target="eager").report
    assert pruned.held_to == "the program after prune"
    assert str(pruned).splitlines()[-1].startswith("equivalent to the program after prune: 1 output agrees")
    trained = fxopt.optimize(block, (X,), target="eager", retrain=lambda teacher, student: student).report
    assert trained.held_to == "the program after training"


def test_a_result_prints_as_its_report(block: nn.Module, tmp_path: Path):
    result = fxopt.optimize(block, (X,), target="eager")
    assert str(result) == str(result.report)
    assert repr(result) == "<OptimizeResult Block: in memory, equivalent>"
    path = tmp_path / "m.fxopt"
    written = fxopt.optimize(block, (X,), target="eager", path=path)
    assert repr(written) == f"<OptimizeResult Block: {path}, equivalent>"


class Sized(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.shape[0] > 4 else x - 1


def test_warnings_point_at_the_line_of_the_call():
    broken = nn.Linear(4, 4).eval()
    with torch.no_grad():
        broken.bias[0] = float("nan")
    calls: list[tuple[str, Callable[[], object]]] = [
        ("training mode", lambda: fxopt.optimize(Block(), (X,), target="eager")),
        (
            "another way",
            lambda: fxopt.optimize(
                Sized().eval(), (torch.ones(3, 2),), target="eager", dynamic_shapes={"x": {0: "n"}}
            ),
        ),
        ("weights hold NaN", lambda: fxopt.optimize(broken, (X,), target="eager")),
        ("calibration", lambda: fxopt.run_pipeline(fxopt.trace(broken, (X,)), "O1", calibration=[X])),
    ]
    for says, call in calls:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        found = next(w for w in caught if says in str(w.message))
        assert found.filename == __file__
        first = call.__code__.co_firstlineno
        assert first <= found.lineno <= first + 3


def test_what_is_assumed_of_values_is_a_note():
    class Finite(nn.Module):
        def forward(self, x):
            torch._assert(x.isfinite().all(), "not finite")
            return x + 1

    notes = fxopt.optimize(Finite().eval(), (X,), target="eager").report.notes
    (assumed,) = (n for n in notes if n.startswith("assumed not to raise: torch._assert(x.isfinite()"))
    assert "(test_optimizer.py:" in assumed


def test_the_limits_of_a_size_are_a_note():
    with pytest.warns(UserWarning, match="another way"):
        report = fxopt.optimize(
            Sized().eval(), (torch.ones(3, 2),), target="eager", dynamic_shapes={"x": {0: "n"}}
        ).report
    assert "in this file n is at most 4: the model refuses other sizes, or takes them in another way" in (
        report.notes
    )


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4))
        self.mean = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total.add_(x.mean(0) if self.mean else x.sum(0))
        return x + self.total


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
def test_a_model_with_state_is_verified_against_its_artifact(target: str):
    model = Counter().eval()
    result = fxopt.optimize(
        model, (torch.randn(3, 4),), target=target, dynamic_shapes={"x": {0: "n"}}, state=True
    )
    assert fxopt.verify(model, result.artifact).verdict == "equivalent"
    assert torch.equal(model.total, torch.zeros(4))
    wrong = Counter().eval()
    wrong.mean = True
    assert fxopt.verify(wrong, result.artifact).verdict == "different"
