"""`tensor_parallel` and `replicas`: plans whose stages several devices share, and the choice among all ways."""

from pathlib import Path

import pytest
import torch

from fxopt.analysis.cost import Cost
from fxopt.errors import ArtifactError, InputError, LoweringError
from fxopt.lowering import lower
from fxopt.lowering.stages.lower import open_stages
from fxopt.passes.partition import Device, Link, PartitionPlan, partition
from fxopt.passes.partition._factorisation import BATCHES, Factorisation, doublings, ways_table
from fxopt.passes.partition._times import Profile, seconds_of
from fxopt.passes.partition.shard_linears import shard
from fxopt.program import Program
from fxopt.verification import sample_inputs
from tests.traced import traced

NEAR = Link(bandwidth=1e12, latency=0.0)
CPUS = [Device(f"cpu:{i}") for i in range(4)]


def agree(plan: PartitionPlan, program: Program) -> bool:
    """Whether a plan's stages give what the program gives."""
    (sample, *_) = sample_inputs(program.signature, seed=0)
    (expected,) = program.run_flat(list(sample.tensors))
    found = plan.run(*sample.tensors)
    assert isinstance(expected, torch.Tensor)
    assert isinstance(found, torch.Tensor)
    return torch.allclose(found, expected, atol=1e-5)


class TestSharedStages:
    def test_two_devices_a_stage(self) -> None:
        program = traced("llama", True)
        plan = partition(program, CPUS, tensor_parallel=2, links=NEAR, time_limit=2)
        assert [s.devices for s in plan.stages] == [("cpu:0", "cpu:1"), ("cpu:2", "cpu:3")]
        assert (plan.tensor_parallel, plan.replicas) == (2, 1)
        assert [len(stage) for stage in plan.shards()] == [2, 2]
        assert agree(plan, program)
        assert "cpu:0+cpu:1" in plan.table()

    def test_each_holds_less(self) -> None:
        program = traced("mlp", True)
        plan = partition(program, CPUS[:2], tensor_parallel=2)
        ((first, second),) = plan.shards()
        whole = sum(w.nbytes for w in program.weights.values())
        assert plan.stages[0].weights == sum(w.nbytes for w in first.weights.values()) < 0.6 * whole
        assert sum(w.nbytes for w in second.weights.values()) < 0.6 * whole

    def test_its_programs_are_of_several_devices(self) -> None:
        plan = partition(traced("mlp", True), CPUS[:2], tensor_parallel=2)
        with pytest.raises(InputError, match=r"plan\.shards\(\) has the programs of each"):
            plan.programs()

    def test_as_json(self) -> None:
        program = traced("mlp", True)
        plan = partition(program, CPUS, tensor_parallel=2, replicas="auto")
        read = PartitionPlan.from_json(plan.to_json())
        assert read == plan
        assert agree(read.of(program), program)

    def test_a_sum_goes_round_in_a_ring(self) -> None:
        part = shard(traced("mlp", True), 4, 0)
        (node,) = (n for n in part.calls() if n.target is torch.ops.fxopt.all_reduce.default)
        size = node.meta["val"].shape[0].node.hint * node.meta["val"].shape[1] * 4
        assert seconds_of(part, None, Link(1e3, 0.5))[node] == pytest.approx(6 * (0.5 + size / 4 / 1e3))


class TestFiles:
    def test_a_file_for_each_device(self, tmp_path: Path) -> None:
        plan = partition(traced("mlp", True), CPUS[:2], tensor_parallel=2)
        staged = lower(plan, "stages", path=tmp_path / "parts")
        assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == [
            "stage0-0.fxopt", "stage0-1.fxopt", "stages.json",
        ]  # fmt: skip
        assert staged.report is not None
        assert staged.report.ok
        read = open_stages(tmp_path / "parts")
        assert (read.tensor_parallel, len(read.parts), len(read.stages)) == (2, 2, 1)

    def test_files_of_other_targets_have_no_collectives(self, tmp_path: Path) -> None:
        plan = partition(traced("mlp", True), CPUS[:2], tensor_parallel=2)
        with pytest.raises(LoweringError, match="files of onnx have no collectives"):
            lower(plan, "stages", path=tmp_path / "parts", stage_target="onnx")

    def test_a_process_opens_its_own_file_alone(self, tmp_path: Path) -> None:
        program = traced("mlp", True)
        plan = partition(program, CPUS[:2], tensor_parallel=2)
        whole = lower(plan, "stages", path=tmp_path / "parts", verify=False)
        (tmp_path / "parts" / "stage0-0.fxopt").unlink()
        for process in (1, 3):
            opened = open_stages(tmp_path / "parts", process=process)
            assert opened.signature == whole.signature
            with pytest.raises(InputError, match="was not opened here: another process runs it"):
                opened.parts[0].run_flat([])
            assert opened.parts[1].signature == whole.parts[1].signature
        with pytest.raises(ArtifactError, match=r"stage0-0\.fxopt is missing"):
            open_stages(tmp_path / "parts", process=2)
        with pytest.raises(ArtifactError, match=r"stage0-0\.fxopt is missing"):
            open_stages(tmp_path / "parts")

    def test_a_device_that_is_too_small(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = partition(traced("mlp", True), CPUS[:2], tensor_parallel=2)
        lower(plan, "stages", path=tmp_path / "parts", verify=False)
        needed = plan.stages[0].memory
        for room, process, fits in ((needed, 0, True), (needed - 1, 0, False), (2 * needed - 1, None, False)):
            monkeypatch.setattr("fxopt.lowering.stages.lower.memory_of", lambda device, room=room: room)
            if fits:
                assert open_stages(tmp_path / "parts", process=process)
                continue
            with pytest.raises(
                InputError, match=r"the stages here need .*, cpu has .*: give the devices' memory"
            ):
                open_stages(tmp_path / "parts", process=process)

    def test_a_device_that_is_not_here(self, tmp_path: Path) -> None:
        plan = partition(traced("mlp", True), CPUS[:2], tensor_parallel=2)
        lower(plan, "stages", path=tmp_path / "parts", verify=False)
        manifest = tmp_path / "parts" / "stages.json"
        manifest.write_text(manifest.read_text().replace('"device": "cpu:1"', '"device": "cuda:93"', 1))
        assert open_stages(tmp_path / "parts", process=0)
        with pytest.raises(InputError, match="the device 'cuda:93' is not here"):
            open_stages(tmp_path / "parts", process=1)

    def test_a_number_of_files_that_is_wrong(self, tmp_path: Path) -> None:
        plan = partition(traced("mlp", True), CPUS[:2], tensor_parallel=2)
        lower(plan, "stages", path=tmp_path / "parts", verify=False)
        manifest = tmp_path / "parts" / "stages.json"
        manifest.write_text(manifest.read_text().replace('"tensor_parallel": 2', '"tensor_parallel": 3', 1))
        with pytest.raises(ArtifactError, match="has 2 files for groups of 3"):
            open_stages(tmp_path / "parts")


class TestChoice:
    def test_all_ways_are_tried_and_the_best_is_taken(self) -> None:
        plan = partition(
            traced("llama", True), CPUS, tensor_parallel="auto", replicas="auto", links=NEAR, time_limit=1
        )
        ways = {(f.tensor_parallel, f.stages, f.replicas) for f in plan.tried}
        assert ways == {(1, 1, 4), (1, 2, 2), (1, 4, 1), (2, 1, 2), (2, 2, 1), (4, 1, 1)}
        assert [f.seconds for f in plan.tried] == sorted(f.seconds for f in plan.tried)
        best = plan.tried[0]
        assert (plan.tensor_parallel, len(plan.stages), plan.replicas) == (1, 1, 4)
        assert plan.bottleneck == pytest.approx(best.bottleneck)

    def test_what_does_not_fit_is_shared(self) -> None:
        program = traced("mlp", True)
        whole = sum(w.nbytes for w in program.weights.values())
        devices = [Device(f"cpu:{i}", memory=round(0.75 * whole)) for i in range(2)]
        plan = partition(program, devices, tensor_parallel="auto", replicas="auto", links=Link(1e6, 1.0))
        assert all(f.memory <= devices[0].memory for f in plan.tried if devices[0].memory)
        assert plan.replicas == 1
        with pytest.raises(InputError, match="no way to use the devices fits"):
            partition(program, [Device("cpu:0", memory=100)], tensor_parallel="auto")

    def test_what_is_alive_needs_room_too(self) -> None:
        program = traced("mlp", True)
        cost = Cost.compute(program).at()
        needed = cost.weight_bytes + cost.peak_bytes + cost.input_bytes
        plan = partition(program, [Device("cpu:0", memory=needed)], tensor_parallel="auto")
        assert plan.tried[0].memory == needed
        with pytest.raises(InputError, match="no way to use the devices fits"):
            partition(program, [Device("cpu:0", memory=needed - 1)], tensor_parallel="auto")

    def test_the_least_memory(self) -> None:
        plan = partition(
            traced("mlp", True), CPUS, objective="memory", tensor_parallel="auto", replicas="auto"
        )
        assert plan.tried[0].memory == min(f.memory for f in plan.tried)
        assert plan.tensor_parallel == 4

    def test_latency_counts_links_once(self) -> None:
        plan = partition(traced("llama", True), CPUS, objective="latency", tensor_parallel="auto", replicas=1)
        assert plan.tried[0].latency == min(f.latency for f in plan.tried)
        assert len(plan.stages) == 1

    def test_replicas_that_are_asked_for(self) -> None:
        plan = partition(traced("llama", True), CPUS, replicas=2, links=NEAR)
        assert (plan.tensor_parallel, len(plan.stages), plan.replicas) == (1, 2, 2)

    def test_a_bubble(self) -> None:
        way = Factorisation(2, 5, 3, bottleneck=2.0, latency=9.0, memory=1)
        assert way.bubble == 4 / (BATCHES + 4)
        assert way.seconds == pytest.approx(2.0 * (BATCHES + 4) / BATCHES / 3)
        assert Factorisation(1, 1, 1, 2.0, 2.0, 1).bubble == 0

    def test_the_table_shows_the_best(self) -> None:
        ways = [Factorisation(1, n, 2, 1e-3, n * 1e-3, 2000) for n in range(1, 10)]
        lines = ways_table(ways).splitlines()
        assert lines[2].split() == [
            "1",
            "x",
            "2",
            "x",
            "2",
            "1.000",
            "ms",
            "2.000",
            "ms",
            "3.0%",
            "2.0",
            "KB",
            "1939.4",
        ]
        assert lines[9:] == ["and 1 more"]
        assert len(ways_table(ways[:8]).splitlines()) == 9

    def test_doublings(self) -> None:
        assert [list(doublings(n)) for n in (1, 4, 7)] == [[1], [1, 2, 4], [1, 2, 4]]


class TestMistakes:
    @pytest.mark.parametrize(("tensor_parallel", "replicas"), [(0, 1), (5, 1), (1, 0), (1, 9)])
    def test_numbers(self, tensor_parallel: int, replicas: int) -> None:
        with pytest.raises(InputError, match=r'expected "auto", or 1 to 4, the number of devices'):
            partition(traced("mlp", True), CPUS, tensor_parallel=tensor_parallel, replicas=replicas)

    def test_devices_that_differ(self) -> None:
        with pytest.raises(InputError, match="are for devices and links that are alike"):
            partition(traced("mlp", True), [Device("cpu:0"), Device("cpu:1", speed=2.0)], tensor_parallel=2)

    def test_pins(self) -> None:
        with pytest.raises(InputError, match="without pins"):
            partition(traced("mlp", True), CPUS[:2], tensor_parallel=2, pinned={"0": "cpu:0"})

    @pytest.mark.parametrize("tensor_parallel", [2, "auto"])
    def test_times_by_name(self, tmp_path: Path, tensor_parallel: int) -> None:
        program, file = traced("mlp", True), tmp_path / "times.json"
        times = {n.name: 1.0 for n in program.calls()}
        file.write_text(Profile(times).dumps())
        for cost in (times, Profile(times), file):
            with pytest.raises(InputError, match="by the names of calls, which say nothing of shared layers"):
                partition(program, CPUS, tensor_parallel=tensor_parallel, cost=cost)
        assert partition(program, CPUS, replicas=4, cost=file).bottleneck == len(times)

    def test_layers_that_so_many_can_not_share(self) -> None:
        with pytest.raises(InputError, match="has no layer that 2 processes can share"):
            partition(traced("lstm", True), CPUS[:2], tensor_parallel=2)
