"""`calibrate` and `profile`: what a machine's kernels do, and how long one model's calls take."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from fxopt.errors import ArtifactError, InputError
from fxopt.frontend import trace
from fxopt.measure import calibrate, calibration, profile, seconds_of
from fxopt.measure.calibration import own_time
from fxopt.measure.clock import Lap
from fxopt.passes.partition import Profile, Rates, partition, read_cost
from fxopt.passes.partition._times import seconds_of as seconds_by_call
from fxopt.pipeline import PassManager
from fxopt.program import Program
from tests.traced import traced


@pytest.fixture(scope="module")
def rates() -> Rates:
    return calibrate()


def ranks(values: list[float]) -> torch.Tensor:
    """From 0 up, equal values sharing the mean of theirs."""
    found = torch.tensor(values, dtype=torch.float64)
    below = (found[None, :] < found[:, None]).sum(1).double()
    return below + ((found[None, :] == found[:, None]).sum(1).double() - 1) / 2


def rank_correlation(first: list[float], second: list[float]) -> float:
    return float(torch.corrcoef(torch.stack([ranks(first), ranks(second)]))[0, 1])


def heavy(program: Program, seconds: dict[str, float]) -> list[str]:
    """The calls that make tensors and take 0.5 % of the time and more."""
    least = 0.005 * sum(seconds.values())
    tensors = [n.name for n in program.calls() if isinstance(n.meta["val"], torch.Tensor)]
    return [n for n in tensors if seconds[n] >= least]


class TestCalibrate:
    def test_each_kind_has_rates(self, rates: Rates) -> None:
        kinds = {"product", "convolution", "pointwise convolution", "grouped convolution", "window", "view"}
        assert kinds | {"elementwise", "other", "aten.gelu", "transposed convolution"} <= rates.kinds.keys()
        ops = {"mul", "neg", "rms_norm", "unsqueeze", "expand"}
        assert {f"aten.{op}" for op in ops} <= rates.kinds.keys()
        assert "aten.conv2d" not in rates.kinds
        assert rates.flops == rates.kinds["product"].flops
        assert rates.bandwidth == rates.kinds["elementwise"].bandwidth

    def test_numbers_are_those_of_a_processor(self, rates: Rates) -> None:
        assert 1e9 < rates.kinds["product"].flops < 1e13
        assert 1e8 < rates.kinds["elementwise"].bandwidth < 1e13
        assert all(0 <= r.overhead < 1e-2 for r in rates.kinds.values())
        assert rates.kinds["convolution"].flops > rates.kinds["aten.max_pool2d"].flops
        assert "threads, torch" in rates.machine

    def test_a_call_costs_the_least_of_its_turns_without_the_clock(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        laps = itertools.cycle(
            [2.0, 9.0, 3.0, 1.0, 7.0, 0.5]
        )  # the clock, a call, one as dear as the clock; twice
        monkeypatch.setattr(calibration, "seconds_of", lambda run, calls: Lap(*[next(laps)] * 2))
        monkeypatch.setattr(calibration, "_PROBES", calibration._PROBES[:2])
        assert calibration._overheads() == [6.0, 0.0]

    def test_the_file_is_a_cost(self, rates: Rates, tmp_path: Path) -> None:
        file = tmp_path / "rates.json"
        file.write_text(rates.dumps())
        assert read_cost(file) == rates
        program = traced("mlp", True)
        by_file = partition(program, ["cpu:0"], cost=file)
        assert by_file == partition(program, ["cpu:0"], cost=rates)
        assert by_file == partition(program, ["cpu:0"], cost=str(file))

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["unet", "bert", "minilm", "mobilenetv2"])
    def test_calls_are_ranked_as_they_are_measured(self, rates: Rates, name: str) -> None:
        program = PassManager.parse("O1").run(traced(name, True)).program
        measured = profile(program).seconds
        expected = {n.name: s for n, s in seconds_by_call(program, rates).items()}
        calls = heavy(program, measured)
        assert rank_correlation([measured[c] for c in calls], [expected[c] for c in calls]) >= 0.8


class TestProfile:
    def test_calls_add_up_to_the_whole(self) -> None:
        program = traced("squeezenet", True)
        tensors = [torch.randn(2, 3, 224, 224)]
        found = profile(program, seconds=0.5)
        assert found.seconds.keys() == {n.name for n in program.calls()}
        with torch.no_grad():
            whole = min(own_time(seconds_of(lambda: program.run_flat(tensors), 1)) for _ in range(7))
        assert sum(found.seconds.values()) == pytest.approx(whole, rel=0.25)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["unet", "bert", "mobilenetv2"])
    def test_another_profile_says_the_same(self, name: str) -> None:
        program = traced(name, True)
        first, second = (profile(program, seconds=3).seconds for _ in range(2))
        calls = heavy(program, first)
        assert rank_correlation([first[c] for c in calls], [second[c] for c in calls]) >= 0.95
        assert sum(second.values()) == pytest.approx(sum(first.values()), rel=0.25)

    def test_calls_that_are_alike_take_as_long(self) -> None:
        net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)).eval()
        found = profile(trace(net, torch.zeros(2, 16)), seconds=0).seconds
        assert found["linear"] == found["linear_1"] != found["linear_2"]

    def test_a_cache_knows_them_the_next_time(self, tmp_path: Path) -> None:
        program, file = traced("mlp", True), tmp_path / "times.json"
        first = profile(program, seconds=0, cache=file)
        assert profile(program, seconds=0, cache=file) == first
        (machine, times), *_ = json.loads(file.read_text()).items()
        assert machine == first.machine
        assert set(times.values()) == set(first.seconds.values())
        wider = trace(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2)).eval(), torch.zeros(4, 64))
        assert profile(wider, seconds=0, cache=file).seconds["linear"] == first.seconds["linear"]
        after = json.loads(file.read_text())[machine]
        assert len(after) == len(times) + 1
        assert times.items() <= after.items()

    def test_sizes_dtypes_and_numbers_tell_calls_apart(self, tmp_path: Path) -> None:
        class Net(nn.Module):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
                return x.softmax(0), x.softmax(1), x[:2].softmax(1), x.double().softmax(1)

        file = tmp_path / "times.json"
        profile(trace(Net().eval(), torch.zeros(4, 4)), seconds=0, cache=file)
        (times,) = json.loads(file.read_text()).values()
        assert len([key for key in times if key.startswith("aten.softmax")]) == 4

    def test_times_of_another_machine_are_left_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "times.json"
        file.write_text(json.dumps({"another": {"x": 1.0}}))
        profile(traced("mlp", True), seconds=0, cache=file)
        assert json.loads(file.read_text())["another"] == {"x": 1.0}

    @pytest.mark.parametrize("content", ["3", "{", '{"a": 3}', '{"a": {"b": "c"}}'])
    def test_what_is_no_cache_is_one_line(self, tmp_path: Path, content: str) -> None:
        file = tmp_path / "times.json"
        file.write_text(content)
        with pytest.raises(ArtifactError, match="it is no cache of times"):
            profile(traced("mlp", True), cache=file)

    def test_weights_elsewhere_are_one_line(self) -> None:
        with torch.device("meta"):
            net = nn.Linear(4, 4)
        program = trace(net.eval(), torch.zeros(2, 4, device="meta"))
        with pytest.raises(InputError, match="has weights on meta"):
            profile(program)

    def test_it_is_what_a_plan_is_made_by(self) -> None:
        program = traced("unet", True)
        found = profile(program, seconds=0)
        plan = partition(program, ["cpu:0"], cost=found)
        pieces = [n.name for n in program.calls() if isinstance(n.meta["val"], torch.Tensor)]
        assert plan.bottleneck == pytest.approx(sum(found.seconds[n] for n in pieces))
        assert Profile.from_json(found.to_json()) == found
