"""The least ratio that meets a budget, for each budget."""

import numpy as np
import pytest

from fxopt.passes.prune._choice import by_budget


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
