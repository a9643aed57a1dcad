"""The least ratio that meets a budget, for each budget."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.prune import Prune, plan_pruning, prune_in_steps
from fxopt.passes.prune._choice import Limits, by_budget
from fxopt.passes.prune._plan import PlannedLayer
from fxopt.pipeline import PassManager
from tests.passes.helpers import program, rand
from tests.passes.prune.test_prune import hidden


@pytest.mark.parametrize("levels", [1, 2, 7, 8])
def test_the_least_ratio_within_the_budget(levels: int) -> None:
    def choose(ratio: float) -> list[np.ndarray]:
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


def test_one_step_and_tiles_of_one_row() -> None:
    stepped = prune_in_steps(hidden(), lambda step: step, steps=1, ratio=0.5)
    assert stepped.weights["w"].shape[0] == 4
    before = program(lambda x, w: F.linear(x, w), rand(2, 4), w=rand(4, 4))
    (layer,) = plan_pruning(before, granularity="block", tile=(1, 2), ratio=0.5).layers
    assert (layer.groups, layer.zeros) == (8, 4)
