"""`partition`: the same results, nothing better by brute force, and one clear line for what can't be."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fxopt.dialect import violations
from fxopt.errors import ArtifactError, InputError, PipelineError
from fxopt.frontend import trace
from fxopt.lowering import lower
from fxopt.passes.partition import (
    Device,
    Link,
    Partition,
    PartitionPlan,
    Profile,
    Rates,
    Stage,
    partition,
    plan_of,
)
from fxopt.passes.partition._devices import Links
from fxopt.passes.partition._pieces import Pieces, pieces_of
from fxopt.passes.partition._times import seconds_of
from fxopt.pipeline import PassManager
from fxopt.program import Program
from fxopt.program.file import load_program
from fxopt.testing import ProgramBuilder, programs
from fxopt.verification import sample_inputs
from tests.traced import inputs, same_bits, traced

NEAR = Link(bandwidth=1e12, latency=0.0)
CPUS = [Device(f"cpu:{i}") for i in range(4)]


def chain(times: int = 4, width: int = 8) -> Program:
    """Linear layers in a row, each with its own weight."""
    net = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(times))).eval()
    return trace(net, (torch.zeros(2, width),), dynamic_shapes=({0: "batch"},))


def by_stages(plan: PartitionPlan, tensors: list[torch.Tensor]) -> list[object]:
    flat: list[object] = list(tensors)
    for stage in plan.programs():
        assert list(violations(stage, values=True)) == []
        flat = stage.run_flat(flat)  # type: ignore[arg-type]
    return flat


def smallest(pieces: Pieces, devices: list[Device], links: Links) -> float:
    """The least bottleneck over every row of devices and every assignment, by trying all of them."""
    count, best = len(pieces), float("inf")
    edges = [(t.maker, u) for t in pieces.tensors for u in t.users if t.maker >= 0 and u < count]
    for length in range(1, len(devices) + 1):
        for row in itertools.permutations(devices, length):
            for stages in itertools.product(range(length), repeat=count):
                if set(stages) != set(range(length)) or any(stages[a] > stages[b] for a, b in edges):
                    continue
                best = min(best, max(load(pieces, row, links, stages, k) for k in range(length)))
    return best


def load(pieces: Pieces, row: tuple[Device, ...], links: Links, stages: tuple[int, ...], stage: int) -> float:
    """Seconds of one stage, term by term as the documentation says."""
    held = {w.node: w.bytes for w in pieces.weights for u in w.users if stages[u] == stage}
    memory = row[stage].memory
    if memory is not None and sum(held.values()) > memory:
        return float("inf")
    seconds = (
        sum(p.seconds for p, s in zip(pieces.pieces, stages, strict=True) if s == stage) / row[stage].speed
    )
    for left in (stage - 1, stage):
        if not 0 <= left < len(row) - 1:
            continue
        link = links.between(row[left].name, row[left + 1].name)
        seconds += link.latency
        for tensor in pieces.tensors:
            made = stages[tensor.maker] if tensor.maker >= 0 else 0
            read = max(stages[u] if u < len(stages) else len(row) - 1 for u in tensor.users)
            seconds += tensor.bytes / link.bandwidth if made <= left < read else 0.0
    return seconds


SPEEDS = st.sampled_from([0.5, 1.0, 2.0])


class TestThePlan:
    @given(programs(), st.lists(SPEEDS, min_size=1, max_size=4), st.data())
    def test_stages_give_what_the_program_gives(
        self, program: Program, speeds: list[float], data: st.DataObject
    ) -> None:
        cost = {n.name: data.draw(st.integers(0, 5)) for n in program.calls()}
        if not cost:
            return
        devices = [Device(f"cpu:{i}", speed) for i, speed in enumerate(speeds)]
        plan = partition(program, devices, cost=cost, links=Link(1e3, 0.1), time_limit=2)
        for sample in sample_inputs(program.signature, seed=0):
            assert same_bits(program.run_flat(list(sample.tensors)), by_stages(plan, list(sample.tensors)))

    @given(programs(max_ops=4), st.lists(SPEEDS, min_size=1, max_size=3), st.data())
    def test_nothing_is_better_and_the_bound_holds(
        self, program: Program, speeds: list[float], data: st.DataObject
    ) -> None:
        cost = {n.name: float(data.draw(st.integers(0, 5))) for n in program.calls()}
        pieces = pieces_of(program, seconds_of(program, cost))
        if not 0 < len(pieces) <= 7:
            return
        link = Link(
            bandwidth=data.draw(st.sampled_from([1e9, 100.0])), latency=data.draw(st.sampled_from([0.0, 0.5]))
        )
        devices = [Device(f"cpu:{i}", speed) for i, speed in enumerate(speeds)]
        plan = partition(program, devices, cost=cost, links=link)
        best = smallest(pieces, devices, Links(link))
        assert plan.bottleneck == pytest.approx(best, rel=1e-3, abs=1e-9)
        assert plan.lower_bound <= best * (1 + 1e-9) + 1e-9

    @pytest.mark.parametrize("name", ["mlp", "lstm", "tied_encoder", "unet", "digits", "bert"])
    @pytest.mark.parametrize("count", [2, 3, 4])
    def test_models_over_unequal_devices(self, name: str, count: int) -> None:
        program = traced(name, True)
        devices = [Device(f"cpu:{i}", speed) for i, speed in enumerate((1.0, 0.5, 1.0, 2.0)[:count])]
        plan = partition(program, devices, links=Link(latency=1e-6), time_limit=5)
        assert same_bits(program.run_flat(inputs(name, True)), by_stages(plan, inputs(name, True)))
        assert plan.lower_bound <= plan.bottleneck
        assert len(plan.stages) > 1

    def test_equal_layers_are_shared_out(self) -> None:
        plan = partition(chain(6), CPUS[:3], links=NEAR)
        assert [s.calls for s in plan.stages] == [
            ("linear", "linear_1"),
            ("linear_2", "linear_3"),
            ("linear_4", "linear_5"),
        ]
        assert 0 <= plan.gap < 1e-3

    def test_a_device_twice_as_fast_gets_twice_as_much(self) -> None:
        plan = partition(chain(6), [Device("cpu:0"), Device("cpu:1", speed=2.0)], links=NEAR)
        assert {s.device: len(s.calls) for s in plan.stages} == {"cpu:0": 2, "cpu:1": 4}

    def test_a_device_that_does_not_help_is_left_out(self) -> None:
        plan = partition(chain(2), CPUS[:2], links=Link(latency=1.0))
        assert len(plan.stages) == 1
        assert plan.proof == "optimal"

    def test_each_stage_pays_for_both_of_its_links(self) -> None:
        program = chain(6)
        cost = {n.name: 1.0 for n in program.calls()}
        plan = partition(program, CPUS[:3], links=Link(bandwidth=1e12, latency=1e-3), cost=cost)
        assert [s.computing for s in plan.stages] == [2.0, 2.0, 2.0]
        assert [s.sending for s in plan.stages] == pytest.approx([1e-3, 2e-3, 1e-3])
        assert plan.bottleneck == pytest.approx(2.002)

    def test_the_slow_link_is_not_between_neighbours(self) -> None:
        links = {("cpu:0", "cpu:1"): Link(latency=1.0), ("cpu:1", "cpu:2"): NEAR, ("cpu:0", "cpu:2"): NEAR}
        plan = partition(chain(6), CPUS[:3], links=links)
        assert [s.device for s in plan.stages] in (["cpu:0", "cpu:2", "cpu:1"], ["cpu:1", "cpu:2", "cpu:0"])

    def test_pinned_modules_run_where_they_are_told_to(self) -> None:
        plan = partition(chain(4), CPUS[:2], links=NEAR, pinned={"3": "cpu:0"})
        assert "linear_3" in next(s for s in plan.stages if s.device == "cpu:0").calls
        assert [s.device for s in plan.stages] == ["cpu:1", "cpu:0"]

    def test_seconds_may_be_given_by_a_function_by_name_or_by_rates(self) -> None:
        program = chain(4)
        heavy = {"linear": 3.0, "linear_1": 1.0, "linear_2": 1.0, "linear_3": 1.0}
        for cost in (heavy, lambda n: heavy[n.name]):
            plan = partition(program, CPUS[:2], links=NEAR, cost=cost)
            assert [len(s.calls) for s in plan.stages] == [1, 3]
        slow = partition(program, CPUS[:1], cost=Rates(flops=1e3, overhead=0.0))
        assert slow.bottleneck == pytest.approx(4 * 2 * 2 * 8 * 8 / 1e3)

    def test_a_size_that_no_tensor_has_is_passed_on(self) -> None:
        b = ProgramBuilder()
        x = b.input((b.batch, 4))
        total = b.call("aten.sum.dim_IntList", x, [0])
        size = b.call("aten.sym_size.int", x, 0)
        wide = b.call("aten.expand", b.call("aten.reshape", total, [1, 4]), [size, 4])
        program = b.finish(b.call("aten.relu", wide))
        names = [c.name for c in program.calls() if not c.name.startswith("sym_size")]
        halves = (Stage("cpu:0", tuple(names[:2]), 0, 0, 0, 0), Stage("cpu:1", tuple(names[2:]), 0, 0, 0, 0))
        plan = PartitionPlan(halves, 0.0, 0.0, "simple").of(program)
        second = plan.programs()[1]
        assert [str(s) for s in second.signature.inputs] == [
            "reshape: f32[1, 4]",
            "size_batch: f32[batch, 0]",
        ]
        given_ = torch.arange(12.0).reshape(3, 4)
        assert same_bits(program.run_flat([given_]), by_stages(plan, [given_]))

    def test_nothing_to_compute_is_one_stage(self) -> None:
        program = trace(nn.Identity().eval(), (torch.zeros(2, 3),))
        plan = partition(program, CPUS[:2])
        assert [(s.device, s.calls, s.load) for s in plan.stages] == [("cpu:0", (), 0.0)]
        assert (plan.bottleneck, plan.lower_bound, plan.gap) == (0.0, 0.0, 0.0)
        x = torch.randn(2, 3)
        assert torch.equal(plan.run(x), x)  # type: ignore[arg-type]

    def test_it_is_run_on_the_models_own_arguments(self) -> None:
        program = chain(4)
        plan = partition(program, CPUS[:2], links=NEAR)
        x = torch.randn(5, 8)
        assert torch.equal(plan.run(x), program(x))  # type: ignore[arg-type]


class TestMemory:
    def test_weights_that_do_not_fit_go_elsewhere(self) -> None:
        weight = 8 * 8 * 4
        devices = [Device("cpu:0", speed=100.0, memory=2 * weight), Device("cpu:1")]
        plan = partition(chain(4), devices, links=NEAR)
        assert {s.device: len(s.calls) for s in plan.stages} == {"cpu:0": 1, "cpu:1": 3}
        assert all(
            s.memory <= (d.memory or s.memory) for s in plan.stages for d in devices if d.name == s.device
        )

    def test_one_weight_of_two_stages_is_held_twice_and_said_to_be(self) -> None:
        layer = nn.Linear(8, 8, bias=False)
        program = trace(nn.Sequential(layer, nn.ReLU(), layer).eval(), (torch.zeros(2, 8),))
        plan = partition(program, CPUS[:2], links=NEAR)
        assert [len(p.weights) for p in plan.programs()] == [1, 1]
        assert plan.notes == ("0.weight is copied: stages 0, 1 read it",)

    def test_each_stage_holds_its_own_weights_alone(self) -> None:
        plan = partition(chain(4), CPUS[:2], links=NEAR)
        assert [sorted(p.weights) for p in plan.programs()] == [
            ["0.weight", "1.weight"],
            ["2.weight", "3.weight"],
        ]

    def test_what_fits_nowhere_is_one_line(self) -> None:
        with pytest.raises(
            InputError, match=r"no split fits: the weights have 1,024 bytes, the devices 300, 300"
        ):
            partition(chain(4), [Device("cpu:0", memory=300), Device("cpu:1", memory=300)])


class TestMistakes:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: partition(chain(), []), "needs a device at least"),
            (lambda: partition(chain(), ["cpu:0", "cpu:0"]), "'cpu:0' is given twice"),
            (lambda: partition(chain(), ["gpu"]), "torch knows no device 'gpu'"),
            (lambda: partition(chain(), [3]), "a device is an fxopt.Device or a name"),  # type: ignore[list-item]
            (lambda: partition(chain(), [Device("cpu:0", speed=0.0)]), "speed and memory must be above zero"),
            (lambda: partition(chain(), [Device("cpu:0", memory=-1)]), "speed and memory must be above zero"),
            (lambda: partition(chain(), CPUS, pinned={"9": "cpu:0"}), "no call comes from a module '9'"),
            (lambda: partition(chain(), CPUS, pinned={"1": "cpu:7"}), "device 'cpu:7', which is none of"),
            (
                lambda: partition(chain(), CPUS, pinned={"*": "cpu:0", "1": "cpu:1"}),
                "to be on cpu:0 and on cpu:1",
            ),
            (lambda: partition(chain(), CPUS, links={("cpu:0", "x"): NEAR}), "links names the device 'x'"),
            (lambda: partition(chain(), CPUS, cost={"linaer": 1.0}), "did you mean 'linear'"),
            (lambda: partition(chain(), CPUS, cost={"linear": -1.0}), "cost gives -1.0 for linear"),
            (lambda: partition(chain(), CPUS, cost=lambda n: float("nan")), "cost gives nan for linear"),
            (lambda: partition(nn.ReLU(), CPUS), "partition takes a Program"),  # type: ignore[arg-type]
        ],
    )
    def test_each_is_one_clear_line(self, make: Callable[[], object], message: str) -> None:
        with pytest.raises(InputError, match=message) as error:
            make()
        assert "\n" not in str(error.value)


class TestPlansAsData:
    def test_json_and_back(self) -> None:
        program = chain()
        plan = partition(program, CPUS[:2], links=NEAR)
        again = PartitionPlan.from_json(plan.to_json())
        assert again == plan
        with pytest.raises(InputError, match=r"say plan\.of\(program\) first"):
            again.programs()
        x = torch.randn(3, 8)
        assert torch.equal(again.of(program).run(x), program(x))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("calls", "message"),
        [
            ((("linear", "linear_1", "relu"), ("linear_2", "linear_3")), "the call 'relu', which"),
            ((("linear", "linear_1"), ("linear_2",)), "'linear_3' is in no stage"),
            (
                (("linear", "linear_1"), ("linear_1", "linear_2", "linear_3")),
                "'linear_1' is in stage 0 and 1",
            ),
            (
                (("linear", "linear_2"), ("linear_1", "linear_3")),
                "linear_2 in stage 0 needs linear_1 of stage 1",
            ),
        ],
    )
    def test_an_edited_plan_is_checked(self, calls: tuple[tuple[str, ...], ...], message: str) -> None:
        stages = tuple(Stage(f"cpu:{i}", names, 0.0, 0.0, 0, 0) for i, names in enumerate(calls))
        with pytest.raises(InputError, match=message):
            PartitionPlan(stages, 0.0, 0.0, "simple").of(chain())

    def test_what_is_no_plan_is_an_artifact_error(self) -> None:
        with pytest.raises(ArtifactError, match="not a PartitionPlan"):
            PartitionPlan.from_json({"stages": 3})


class TestThePass:
    """`partition{devices=FILE}` in pipeline text: the plan travels with the program."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        links = {"bandwidth": 1e12, "latency": 0.0}
        devices = ["cpu:0", {"name": "cpu:1", "speed": 3.0}]
        file = tmp_path / "devices.json"
        file.write_text(json.dumps({"devices": devices, "links": links}))
        return file

    def test_it_is_the_plan_of_the_function(self, file: Path) -> None:
        program = chain(4)
        result = PassManager.parse(f'partition{{devices="{file}"}}').run(program)
        plan = partition(program, [Device("cpu:0"), Device("cpu:1", speed=3.0)], links=Link(1e12, 0.0))
        assert [len(s.calls) for s in plan.stages] == [1, 3]
        assert result.attachments == (plan,)
        assert plan_of(result.program) == plan
        assert "partitioned" in result.program.properties
        assert program.attached == {}
        assert not result.passes[0].changed

    def test_each_option_counts(self, file: Path, tmp_path: Path) -> None:
        program = chain(4)
        times = tmp_path / "times.json"
        times.write_text(Profile({"linear": 9.0, "linear_1": 1.0, "linear_2": 1.0, "linear_3": 1.0}).dumps())
        by_times = Partition(devices=file, cost=times)
        assert [len(s.calls) for s in plan_of(PassManager.of([by_times]).run(program).program).stages] == [
            1,
            3,
        ]
        by_weight = Partition(devices=file, objective="memory")
        assert plan_of(PassManager.of([by_weight]).run(program).program).objective == "memory"
        pinned = Partition(devices=("cpu:0", Device("cpu:1")), pinned=("0=cpu:1", "3=cpu:0"), cost=times)
        plan = plan_of(PassManager.of([pinned]).run(program).program)
        assert [s.device for s in plan.stages] == ["cpu:1", "cpu:0"]

    def test_stages_after_quantization_and_pruning(self, file: Path) -> None:
        x = [(torch.randn(4, 8),)]
        text = f'clean,prune{{ratio=0.5}},eliminate-dead-weights,int8,partition{{devices="{file}"}}'
        program = PassManager.parse(text).run(chain(4), calibration=x).program
        assert program.properties >= {"partitioned", "quantized"}
        assert same_bits(program.run_flat([x[0][0]]), by_stages(plan_of(program), [x[0][0]]))
        assert all("partitioned" not in stage.properties for stage in plan_of(program).programs())
        assert all("quantized" in stage.properties for stage in plan_of(program).programs())

    def test_the_file_keeps_it(self, file: Path, tmp_path: Path) -> None:
        program = PassManager.parse(f'partition{{devices="{file}"}}').run(chain(4)).program
        path = tmp_path / "chain.fxopt"
        program.save(str(path))
        again = load_program(path)
        assert plan_of(again) == plan_of(program)
        assert plan_of(again.copy()) == plan_of(program)
        staged = lower(again, "stages", path=tmp_path / "parts")
        assert [Path(f).name for f in (staged.path or "",)] == ["parts"]
        x = torch.randn(3, 8)
        assert torch.equal(staged(x), program(x))  # type: ignore[arg-type]

    def test_a_pass_that_changes_the_graph_loses_it(self, file: Path) -> None:
        net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8)).eval()
        program = trace(net, (torch.zeros(4, 8),))
        kept = PassManager.parse(f'O1,partition{{devices="{file}"}},O1').run(program).program
        assert plan_of(kept).stages
        lost = PassManager.parse(f'partition{{devices="{file}"}},O1').run(program).program
        assert lost.attached == {}
        assert "partitioned" not in lost.properties
        for use in (plan_of, lambda p: lower(p, "stages")):
            with pytest.raises(
                InputError, match=r"is not partitioned: run the pass partition\{devices=FILE\}"
            ):
                use(lost)

    def test_planned_again_it_is_the_later_plan(self, file: Path) -> None:
        text = f'partition{{devices=["cpu:0"]}},partition{{devices="{file}"}}'
        assert len(plan_of(PassManager.parse(text).run(chain(4)).program).stages) == 2

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("time_limit=0", "time_limit is 0; expected seconds above 0"),
            ("pinned=[encoder]", "pinned has 'encoder'; expected MODULE=DEVICE"),
            ('pinned=["=cpu:0"]', "pinned has '=cpu:0'"),
        ],
    )
    def test_options_that_are_none(self, options: str, message: str) -> None:
        with pytest.raises(PipelineError, match=message):
            PassManager.parse(f"partition{{{options}}}")

    def test_a_file_that_is_not_there(self) -> None:
        with pytest.raises(InputError, match=r"pass 'partition'.*devices none\.json can't be read"):
            PassManager.parse("partition{devices=none.json}").run(chain())
