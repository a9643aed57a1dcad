"""The least ratio that meets a budget, for each budget."""

import dataclasses
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fxopt.errors import InputError
from fxopt.passes.prune import Prune, PrunePlan, _latency, plan_pruning, prune_in_steps
from fxopt.passes.prune._choice import Limits, by_budget
from fxopt.passes.prune._criteria import in_a_file
from fxopt.passes.prune._importance import lamp
from fxopt.passes.prune._plan import PlannedLayer
from fxopt.pipeline import PassManager
from fxopt.program import Program
from tests.passes.helpers import program, rand
from tests.passes.prune.test_prune import hidden


@pytest.mark.parametrize("levels", [1, 2, 7, 8])
def test_the_least_ratio_within_the_budget(levels: int) -> None:
    def choose(ratio: float) -> list[np.ndarray]:
        assert 0 <= ratio <= 1
        return [np.arange(round(ratio * levels))]

    def cost(choice: list[np.ndarray]) -> float:
        return float(levels - len(choice[0]))

    for budget in range(levels + 1):
        found, best = by_budget(choose, cost, budget, levels)
        assert found is not None and (len(found[0]), best) == (levels - budget, budget)
    assert by_budget(choose, lambda choice: cost(choice) + 1, 0.5, levels) == (None, 1.0)


def test_one_group_stays_where_nothing_else_is_asked_for() -> None:
    assert [Limits().removable(n, 4, 1) for n in (0, 1, 3, 4, 9)] == [0, 1, 3, 3, 3]
    assert Limits(min_width=2).removable(9, 4, 1) == 2 and Limits(min_width=2).removable(9, 4, 2) == 3
    assert Limits(min_share=0.5).removable(9, 4, 1) == 2 and Limits(multiple=3).removable(2, 8, 1) == 2


def test_a_layer_of_which_nothing_goes() -> None:
    assert PlannedLayer("w", 8, 1, ("w",)).gone == 0
    assert PlannedLayer("w", 8, 1, ("w",), removed=(1, 2)).gone == 2


def test_of_equal_elements_the_first_go_and_zeros_before_all() -> None:
    def function(x, w, v):
        return F.linear(x, w), F.linear(x, v)

    before = program(function, rand(2, 40), w=torch.zeros(4, 40), v=rand(4, 40))
    plan = plan_pruning(before, granularity="weight", scope="global", ratio=0.25)
    assert [(x.name, x.zeros) for x in plan.layers] == [("w", 80), ("v", 0)]
    ones = program(lambda x, w: F.linear(x, w), rand(2, 40), w=torch.ones(4, 40))
    after = PassManager.of([Prune(granularity="weight", ratio=0.25)]).run(ones).program
    assert torch.equal(after.weights["w"].flatten() == 0, torch.arange(160) < 40)


def test_five_steps_unless_said_otherwise() -> None:
    seen: list[Program] = []

    def between(step: Program) -> Program:
        seen.append(step)
        return step

    prune_in_steps(hidden(64), between, ratio=0.5)
    assert len(seen) == 5
    with pytest.raises(InputError, match="prune_in_steps takes a Program"):
        prune_in_steps(torch.nn.Linear(2, 2), between)  # type: ignore[arg-type]


def test_lamp_of_nothing_but_zeros() -> None:
    assert lamp(torch.zeros(3)).tolist() == [0.0] * 3
    assert lamp(torch.tensor([0.125, 0.375])).tolist() == [0.25, 1.0]
    assert lamp(torch.tensor([0.0, 3.0, 0.0, 1.0])).tolist() == [0.0, 1.0, 0.0, 0.25]


def test_what_a_plan_needs_data_for() -> None:
    plan = plan_pruning(hidden())
    for criterion, granularity, needs in (
        ("taylor", "weight", True), ("taylor", "block", True), ("taylor", "channel", False), ("l2", "weight", False),
    ):  # fmt: skip
        made = dataclasses.replace(plan, criterion=criterion, granularity=granularity)
        assert Prune(plan=made).ranks_by_data() == needs
    assert [Prune(criterion=c).ranks_by_data() for c in ("taylor", "obs", "l2")] == [True, True, False]


def test_data_alone_refits_nothing() -> None:
    before = hidden()
    data = [(rand(2, 4, seed=s), rand(2, 3, seed=s)) for s in range(2)]
    item = Prune(criterion="taylor", loss="mse", ratio=0.5)
    after = PassManager.of([item]).run(before, calibration=data).program
    kept = after.weights["v"] != 0
    assert torch.equal(after.weights["v"][kept], before.weights["v"][kept])


def test_a_function_in_a_file_has_a_name() -> None:
    assert [in_a_file(t) for t in ("a.py:f", "a.py:", "a.py", ":f", "l2", "a.txt:f")] == [True] + [False] * 5


def test_one_step_and_tiles_of_one_row() -> None:
    stepped = prune_in_steps(hidden(), lambda step: step, steps=1, ratio=0.5)
    assert stepped.weights["w"].shape[0] == 4
    before = program(lambda x, w: F.linear(x, w), rand(2, 4), w=rand(4, 4))
    (layer,) = plan_pruning(before, granularity="block", tile=(1, 2), ratio=0.5).layers
    assert (layer.groups, layer.zeros) == (8, 4)


def test_channels_that_stay_are_a_multiple_where_groups_are_wide() -> None:
    """Three groups of two channels off eight leave five, ten channels: six, twelve channels, are a multiple of four."""
    assert Limits(multiple=4).removable(3, 8, 2) == 2


def test_global_ranking_is_of_shares_where_magnitudes_say_nothing_to_each_other() -> None:
    def three(x, a, b, c):
        return F.linear(F.linear(F.linear(x, a).relu(), b).relu(), c)

    rows = (torch.arange(8)[:, None] + 1.0).expand(8, 4).contiguous()
    wide = 100 * (torch.arange(8)[:, None] + 1.0).expand(8, 8).contiguous()
    before = program(three, rand(2, 4), a=rows, b=wide, c=rand(3, 8))
    found = plan_pruning(before, scope="global", ratio=0.5, criterion="l1").layers
    assert [x.removed for x in found] == [(0, 1, 2, 3), (0, 1, 2, 3)]
    elements = plan_pruning(before, scope="global", ratio=0.5, criterion="l1", granularity="weight").layers
    assert elements[0].zeros > 0


def test_a_plan_without_options_is_that_of_the_pass() -> None:
    plan = plan_pruning(hidden())
    bare = PrunePlan(plan.granularity, plan.criterion, plan.layers, plan.before, plan.after)
    assert all(getattr(bare, n) == getattr(Prune(), n) for n in ("seed", "loss", "pattern", "tile"))


def test_steps_say_what_they_left(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="fxopt"):
        prune_in_steps(hidden(), lambda step: step, steps=2, ratio=0.5, schedule="linear")
    told = [r.getMessage() for r in caplog.records if "step" in r.getMessage()]
    assert [t[:12] for t in told] == ["step 1 of 2:", "step 2 of 2:"]


def test_a_long_call_is_timed_once_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    now, count, before = 0.0, 0, hidden()

    def run(self: Program, tensors: object) -> list[object]:
        nonlocal now, count
        now, count = now + 0.1, count + 1
        return []

    monkeypatch.setattr(_latency, "time", SimpleNamespace(process_time=lambda: now))
    monkeypatch.setattr(Program, "run_flat", run)
    assert _latency.latency_share(before, []) == pytest.approx(1.0)
    assert count == 2 * (2 + 7)


def test_times_are_of_one_call_and_of_about_a_fiftieth_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only calls move: the whole program takes a millisecond, the cut one half of it."""
    now, count, before = 0.0, Counter[str](), hidden()

    def run(self: Program, tensors: object) -> list[object]:
        nonlocal now
        side = "whole" if self.weights["w"].shape[0] == 8 else "cut"
        now += 1e-3 if side == "whole" else 5e-4
        count[side] += 1
        return []

    monkeypatch.setattr(_latency, "time", SimpleNamespace(process_time=lambda: now))
    monkeypatch.setattr(Program, "run_flat", run)
    half = {"w": torch.zeros(8, 4, dtype=torch.bool), "b": torch.zeros(8, dtype=torch.bool)}
    for mask in half.values():
        mask[:4] = True
    assert _latency.latency_share(before, half.items()) == pytest.approx(0.5)
    assert count == {"whole": 2 + 7 * 20, "cut": 2 + 7 * 40}
