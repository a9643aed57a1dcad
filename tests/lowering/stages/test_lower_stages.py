"""Stages as files: one folder, the same results, nothing left where something fails."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import fxopt
from fxopt.errors import ArtifactError, FxoptError, InputError, LoweringError, VerificationError
from fxopt.passes.partition import Link, PartitionPlan, partition
from fxopt.report import Verdict
from tests.traced import inputs, same_bits, traced

NEAR = Link(bandwidth=1e12, latency=0.0)


def plan_of(name: str = "mlp", count: int = 2) -> PartitionPlan:
    return partition(traced(name, True), [f"cpu:{i}" for i in range(count)], links=NEAR)


class TestTheFolder:
    @pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
    def test_one_file_a_stage_and_the_models_results(self, target: str, tmp_path: Path) -> None:
        plan = plan_of("digits", 3)
        staged = fxopt.lower(plan, "stages", path=tmp_path / "parts", stage_target=target)
        assert staged.report.verdict is Verdict.EQUIVALENT  # type: ignore[attr-defined]
        assert len(list((tmp_path / "parts").iterdir())) == 4
        (x,) = inputs("digits", True)
        assert torch.allclose(staged(x), traced("digits", True)(x), atol=1e-5)  # type: ignore[arg-type]
        again = fxopt.load(tmp_path / "parts")
        assert same_bits([again(x)], [staged(x)])

    def test_each_stage_holds_its_own_weights_alone(self, tmp_path: Path) -> None:
        plan = plan_of("digits", 2)
        fxopt.lower(plan, "stages", path=tmp_path / "parts")
        sizes = [(tmp_path / "parts" / f"stage{i}.fxopt").stat().st_size for i in range(2)]
        whole = sum(t.numel() * t.element_size() for t in traced("digits", True).weights.values())
        assert whole < sum(sizes) < 1.5 * whole + 40_000

    def test_containers_go_in_and_out_as_with_the_model(self) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

            def forward(self, x: torch.Tensor, *, scale: dict[str, torch.Tensor]) -> dict[str, object]:
                first = self.a(x) * scale["s"]
                return {"first": first, "second": [self.b(first).relu(), 3]}

        net = Net().eval()
        x, scale = torch.randn(3, 4), {"s": torch.tensor(2.0)}
        program = fxopt.trace(net, (x,), {"scale": scale})
        staged = fxopt.lower(partition(program, ["cpu:0", "cpu:1"], links=NEAR), "stages")
        assert len(staged.stages) == 2
        got, expected = staged(x, scale=scale), net(x, scale=scale)
        assert torch.equal(got["first"], expected["first"])  # type: ignore[index]
        assert torch.equal(got["second"][0], expected["second"][0])  # type: ignore[index]
        assert got["second"][1] == 3  # type: ignore[index]

    @pytest.mark.parametrize("pipeline", ["int8", "clean,prune{ratio=0.5},eliminate-dead-weights"])
    @pytest.mark.parametrize("target", ["eager", "onnx"])
    def test_quantized_and_pruned_programs_are_split_too(self, pipeline: str, target: str) -> None:
        generator = torch.Generator().manual_seed(0)
        data = [(torch.rand(8, 1, 8, 8, generator=generator),) for _ in range(4)]
        program = fxopt.run_pipeline(
            traced("digits", True), pipeline, calibration=data if pipeline == "int8" else None
        )
        plan = partition(program, ["cpu:0", "cpu:1"], links=NEAR)
        (x,) = inputs("digits", True)
        assert torch.equal(plan.run(x), program(x))  # type: ignore[arg-type]
        staged = fxopt.lower(plan, "stages", stage_target=target)
        assert len(staged.stages) == 2
        assert staged.report.verdict is Verdict.EQUIVALENT  # type: ignore[attr-defined]

    def test_it_replaces_a_folder_of_its_kind_and_no_other(self, tmp_path: Path) -> None:
        plan = plan_of()
        for _ in range(2):
            fxopt.lower(plan, "stages", path=tmp_path / "parts", verify=False)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("keep")
        with pytest.raises(ArtifactError, match="folder of something else"):
            fxopt.lower(plan, "stages", path=tmp_path / "mine")
        assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"

    def test_a_plan_from_json_is_lowered_for_its_program(self, tmp_path: Path) -> None:
        plan = plan_of()
        fxopt.lower(plan, "stages", path=tmp_path / "parts", verify=False)
        data = json.loads((tmp_path / "parts" / "stages.json").read_text())["plan"]
        assert PartitionPlan.from_json(data).of(traced("mlp", True)) == plan


class TestFailures:
    def test_stages_that_differ_leave_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = plan_of()
        wrong = plan.programs()
        name = next(iter(wrong[-1].weights))
        wrong[-1].weights[name] = wrong[-1].weights[name] + 1
        monkeypatch.setattr(PartitionPlan, "shards", lambda self: [[stage] for stage in wrong])
        with pytest.raises(VerificationError, match="the stages are not equivalent to"):
            fxopt.lower(plan, "stages", path=tmp_path / "parts")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda p: (p / "stages.json").write_text("{"), "stages.json in it is damaged"),
            (lambda p: (p / "stage1.fxopt").unlink(), "stage1.fxopt is missing"),
            (lambda p: shutil.copy(p / "stage0.fxopt", p / "stage1.fxopt"), "not the file that was written"),
            (
                lambda p: (p / "stages.json").write_text(
                    (p / "stages.json").read_text().replace("stage1.fxopt", "../stage1.fxopt")
                ),
                "one outside",
            ),
            (
                lambda p: (p / "stages.json").write_text(
                    (p / "stages.json").read_text().replace('"format": 1', '"format": 2')
                ),
                "format 2",
            ),
        ],
    )
    def test_a_damaged_folder_is_one_line(
        self, damage: Callable[[Path], object], message: str, tmp_path: Path
    ) -> None:
        fxopt.lower(plan_of(), "stages", path=tmp_path / "parts", verify=False)
        damage(tmp_path / "parts")
        with pytest.raises(ArtifactError, match=message):
            fxopt.load(tmp_path / "parts")

    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (
                lambda: fxopt.lower(traced("mlp", True), "stages"),
                InputError,
                "Mlp is not partitioned: run the pass",
            ),
            (lambda: fxopt.lower(7, "stages"), InputError, "stages are made of a plan, got a int"),  # type: ignore[arg-type]
            (
                lambda: fxopt.lower(partition(traced("mlp", True), ["meta"]), "stages"),
                LoweringError,
                "for plans: it has no values",
            ),
            (lambda: fxopt.lower(plan_of(), "onnx"), InputError, "lower takes a Program"),
            (
                lambda: fxopt.lower(PartitionPlan.from_json(plan_of().to_json()), "stages"),
                InputError,
                r"say plan\.of\(program\) first",
            ),
            (
                lambda: fxopt.lower(partition(traced("mlp", True), ["cuda:0"]), "stages"),
                LoweringError,
                "to run on 'cuda:0'",
            ),
        ],
    )
    def test_mistakes(self, make: Callable[[], object], error: type[FxoptError], message: str) -> None:
        with pytest.raises(error, match=message):
            make()
