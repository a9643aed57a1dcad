"""What is left when groups go, against the same program with narrower layers."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fxopt.analysis import Cost
from fxopt.analysis.channels import Coupling, layers_of
from fxopt.passes.prune import PrunePlan, plan_pruning
from fxopt.passes.prune._footprint import Footprint, Footprints
from tests.passes.helpers import program, rand


class First(nn.Module):
    def forward(self, given: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return given[0].sum(-1)


KINDS: dict[str, tuple[Callable[[int], nn.Module], torch.Tensor]] = {
    "linear": (lambda n: nn.Sequential(nn.Linear(3, n), nn.GELU(), nn.Linear(n, 5)), rand(7, 3)),
    "convolution": (
        lambda n: nn.Sequential(nn.Conv2d(3, n, 3), nn.BatchNorm2d(n), nn.Conv2d(n, 5, 2)),
        rand(2, 3, 6, 6),
    ),
    "depthwise": (
        lambda n: nn.Sequential(nn.Conv1d(3, n, 1), nn.Conv1d(n, n, 3, groups=n), nn.Conv1d(n, 2, 1)),
        rand(2, 3, 6),
    ),
    "recurrent": (lambda n: nn.Sequential(nn.GRU(3, n), First()), rand(5, 2, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_share(kind: str) -> None:
    make, x = KINDS[kind]
    before = program(make(4), x)
    coupling = Coupling.compute(before)
    footprints = Footprints(before, coupling)
    (layer,), _ = layers_of(coupling, before)
    for gone in range(len(layer.labels)):
        narrow = program(make(4 - gone), x)
        expected = Footprints(narrow, Coupling.compute(narrow)).without([])
        assert footprints.without(layer.labels[:gone].tolist()) == expected
        assert expected.flops == Cost.compute(narrow).at().flops


def test_bytes_are_of_every_type_and_parameters_of_floats() -> None:
    class Picks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("places", torch.tensor([2, 0, 1]))
            self.register_buffer("table", rand(3, 2, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.table[self.places]

    p = program(Picks(), rand(3, 2))
    found = Footprints(p, Coupling.compute(p)).without([])
    assert (found.params, found.bytes) == (6, 6 * 8 + 3 * 8)


def test_of_one_parameter_one_is_all() -> None:
    one = Footprint(1, 4, 1)
    assert "parameters 1 -> 1 (100.0%)" in PrunePlan("channel", "l2", (), one, one).summary()
    nothing = Footprint(0, 0, 0)
    assert "parameters 0 -> 0 (0.0%)" in PrunePlan("channel", "l2", (), nothing, nothing).summary()


def test_a_budget_of_elements_is_met_to_a_sixty_fourth() -> None:
    p = program(lambda x, w: torch.nn.functional.linear(x, w), rand(2, 64), w=rand(65, 64))
    (layer,) = plan_pruning(p, granularity="weight", params=0.99).layers
    assert layer.zeros == 65
