"""Stages side by side: which are chosen, what they give, and that they overlap."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import fxopt
from fxopt.errors import InputError
from fxopt.frontend import trace
from fxopt.passes.partition import Device, Link, PartitionPlan, Wires, partition, run_wired
from tests.traced import inputs, same_bits, traced

LINK = Link(1e12, 0.25)
NEAR = Link(1e12, 0.0)


class Fork(nn.Module):
    """A stem, branches of three layers, and what adds them up."""

    def __init__(self, branches: int = 2) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 8)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(branches)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        outputs = [branch(x) for branch in self.branches]
        return self.head(torch.cat(outputs).sum(0, keepdim=True))


PROGRAM = trace(Fork().eval(), (torch.zeros(4, 8),), dynamic_shapes=({0: "batch"},))
DEVICES = [Device("cpu:0"), Device("cpu:1")]


def planned(devices: list[Device] = DEVICES, link: Link = LINK, **options: object) -> PartitionPlan:
    """Each call takes a second."""
    cost = {n.name: 1.0 for n in PROGRAM.calls()}
    return partition(PROGRAM, devices, objective="latency", cost=cost, links=link, **options)  # type: ignore[arg-type]


class TestPlans:
    def test_a_branch_runs_on_the_other_device(self) -> None:
        plan = planned()
        assert plan.side_by_side
        assert [(s.device, len(s.calls), s.start) for s in plan.stages] == [
            ("cpu:0", 1, 0.0),
            ("cpu:0", 3, 1.0),
            ("cpu:1", 3, pytest.approx(1.25)),
            ("cpu:1", 3, pytest.approx(4.25)),
        ]
        assert plan.latency == plan.value == pytest.approx(7.25)
        assert plan.lower_bound <= plan.value
        assert "begins" in plan.table() and "latency 7250.000 ms" in plan.table()
        assert plan.bottleneck == pytest.approx(6 + 2 * 0.25)
        assert [s.sending for s in plan.stages] == pytest.approx([0.25, 0.25, 0.25, 0.25])
        assert [s.sends for s in plan.stages] == [4 * 8 * 4, 4 * 8 * 4, 0, 0]

    def test_it_gives_what_the_program_gives(self, tmp_path: Path) -> None:
        plan, x = planned(), torch.randn(3, 8)
        assert torch.equal(plan.run(x), PROGRAM(x))  # type: ignore[arg-type]
        again = PartitionPlan.from_json(plan.to_json())
        assert again == plan
        assert torch.equal(again.of(PROGRAM).run(x), PROGRAM(x))  # type: ignore[arg-type]
        fxopt.lower(plan, "stages", path=tmp_path / "parts")
        staged = fxopt.load(tmp_path / "parts")
        assert torch.equal(staged(x), PROGRAM(x))  # type: ignore[operator]
        assert (staged.wires, staged.devices) == (plan.wires(), ("cpu:0", "cpu:0", "cpu:1", "cpu:1"))  # type: ignore[union-attr]

    def test_where_sending_takes_longer_than_it_saves_all_is_on_one(self) -> None:
        plan = planned(link=Link(1e12, 4.0))
        assert [s.device for s in plan.stages] == ["cpu:0"] or [s.device for s in plan.stages] == ["cpu:1"]
        assert not plan.side_by_side and plan.wires() is None
        assert (plan.value, plan.proof) == (10.0, "optimal")

    @pytest.mark.parametrize("room", [960, 1060, 1560, 2560])
    def test_weights_and_activations_have_room(self, room: int) -> None:
        """Stages of a device count together; the bound is that without the activations, so one for any plan."""
        devices = [Device("cpu:0", memory=3600), Device("cpu:1", memory=room)]
        plan = planned(devices)
        for device in devices:
            held = [s.memory for s in plan.stages if s.device == device.name]
            assert device.memory is not None
            assert sum(held) <= device.memory
        assert plan.lower_bound == pytest.approx(7.25)
        assert plan.value >= plan.lower_bound
        assert plan.side_by_side == (plan.value < 10.0)

    def test_processes_refuse_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from fxopt.distributed import __main__ as command

        fxopt.lower(planned(), "stages", path=tmp_path / "parts")
        monkeypatch.setenv("RANK", "0")
        arguments = [str(tmp_path / "parts"), "--data", "x.npz", "--output", str(tmp_path / "y.npz")]
        assert command.main(arguments) == 2
        assert "run side by side, in one process: fxopt.load(...) runs them" in capsys.readouterr().err


class TestModels:
    @pytest.mark.parametrize(
        ("name", "link", "gap"), [("unet", NEAR, 0.01), ("bert", NEAR, 0.025), ("bert", Link(), 0.04)]
    )
    def test_they_beat_a_row_and_the_gap_is_known(self, name: str, link: Link, gap: float) -> None:
        """The bound does not see that three like products do not share out evenly over speeds of 1, 1 and 0.5."""
        program = traced(name, True)
        devices = [Device("cpu:0"), Device("cpu:1", speed=0.5), Device("cpu:2")]
        plan = partition(program, devices, objective="latency", links=link, time_limit=5)
        assert plan.lower_bound <= plan.value * (1 + 1e-9)
        assert plan.gap < gap
        assert plan.side_by_side == (name == "bert")
        found = plan.run(*inputs(name, True))
        assert same_bits(program.run_flat(inputs(name, True)), program.signature.flatten_outputs(found))


class Stage:
    """Adds one, after it has met others."""

    def __init__(self, does: Callable[[], object] = lambda: None) -> None:
        self.does, self.runs = does, 0

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        self.runs += 1
        self.does()
        return [sum(tensors) + 1]


FORK = Wires((((-1, 0),), ((0, 0),), ((0, 0),), ((1, 0), (2, 0))), ((3, 0), (-1, 0)))


class TestRunning:
    def test_stages_that_do_not_need_one_another_overlap(self) -> None:
        """Each branch waits until the other runs too."""
        met = threading.Barrier(2, timeout=30)
        stages = [Stage(), Stage(met.wait), Stage(met.wait), Stage()]
        found = run_wired(stages, ["a", "a", "b", "a"], FORK, [torch.zeros(1)])
        assert found == [torch.tensor([5.0]), torch.tensor([0.0])]

    def test_of_one_device_one_after_the_other(self) -> None:
        seen: list[str] = []
        stages = [Stage(lambda: seen.append(threading.current_thread().name)) for _ in range(4)]
        run_wired(stages, ["a"] * 4, FORK, [torch.zeros(1)])
        assert seen == [threading.current_thread().name] * 4

    @pytest.mark.parametrize("devices", [["a"] * 4, ["a", "a", "b", "a"]])
    def test_what_a_stage_raises_is_raised_and_what_needs_it_is_not_run(self, devices: list[str]) -> None:
        def fails() -> None:
            raise InputError("the second does not")

        stages = [Stage(), Stage(), Stage(fails), Stage()]
        with pytest.raises(InputError, match="the second does not"):
            run_wired(stages, devices, FORK, [torch.zeros(1)])
        assert [s.runs for s in stages] == [1, 1, 1, 0]
