"""What channels cost where the others make up for them, against solving for each set anew."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fxopt.analysis.channels import Coupling
from fxopt.passes.prune import _compensation
from fxopt.passes.prune._moments import Moments, readers_of
from fxopt.passes.prune._obs import _RIDGE, Surgeon, costs_of, surgeons_of
from fxopt.program import Program
from tests.passes.helpers import program, rand


def surgeons(p: Program, data: list[torch.Tensor]) -> dict[str, Surgeon]:
    products = Coupling.compute(p).demand.constants.products
    return surgeons_of(
        p, products, data, {n for own in products.values() for n in [str(own[0].weight.node.target)]}
    )


def test_moments_of_alike_channels_are_kept_apart_by_a_ridge() -> None:
    before = program(F.linear, rand(8, 3), weight=rand(2, 3))
    x = rand(8, 3)
    x[:, 1] = x[:, 0]
    (one,) = surgeons(before, [x]).values()
    gram = (x.T @ x).double() / 8
    expected = gram + _RIDGE * gram.diagonal().mean() * torch.eye(3, dtype=torch.float64)
    assert torch.allclose(one.inverse @ expected, torch.eye(3, dtype=torch.float64), atol=1e-4)
    assert torch.equal(one.matrix, before.weights["weight"].double())


def test_columns_of_channels() -> None:
    """In a matrix whose rows are output channels each channel has a column for each place of the window."""
    index = np.array([[2], [0]])
    for function, shape, columns in (
        (F.linear, (4, 3), [[2], [0]]),
        (lambda x, weight: x @ weight, (3, 4), [[2], [0]]),
        (F.conv1d, (4, 3, 2), [[4, 5], [0, 1]]),
        (F.conv_transpose1d, (3, 4, 2), [[4, 5], [0, 1]]),
    ):
        x = rand(8, 3, 5) if len(shape) == 3 else rand(8, 3)
        (one,) = surgeons(program(function, x, weight=rand(*shape)), [x]).values()
        assert one.columns(index).tolist() == columns


@pytest.mark.parametrize("count", [5, 40])
def test_costs_are_what_is_lost_with_those_before(count: int) -> None:
    """By the round: those of one round are judged by what is left of the round before."""
    before = program(F.linear, rand(100, count), weight=rand(2, count))
    (one,) = surgeons(before, [rand(100, count)]).values()
    gram, matrix = torch.linalg.inv(one.inverse), one.matrix
    gone: list[int] = []
    expected, least = torch.zeros(count, dtype=torch.float64), 0.0
    step = -(-count // 32)
    while len(gone) < count:
        left = [i for i in range(count) if i not in gone]
        costs = {i: lost(gram, matrix, [*gone, i]) - lost(gram, matrix, gone) for i in left}
        going = sorted(left, key=costs.__getitem__)[:step]
        for i in going:
            expected[i] = max(costs[i], least)
        least = float(expected[going].max())
        gone += going
    assert torch.allclose(costs_of([(one, np.arange(count)[:, None])]), expected, rtol=1e-6)


def lost(gram: torch.Tensor, matrix: torch.Tensor, gone: list[int]) -> float:
    """The mean square of what results move by once some columns are zero and the others made up for them."""
    if not gone:
        return 0.0
    kept = [i for i in range(len(gram)) if i not in gone]
    change = -matrix.clone()
    change[:, kept] = torch.linalg.solve(gram[kept][:, kept], gram[kept][:, gone] @ matrix[:, gone].T).T
    return float(((change @ gram) * change).sum())


class TestRidge:
    MATRIX, KEPT = rand(2, 4).double(), torch.tensor([True, True, False, True])

    def gram(self, count: int, seed: int) -> torch.Tensor:
        sums = Moments()
        sums.add(rand(count, 4, seed=seed).double())
        return sums.gram(centred=False)

    def test_of_one_half_it_is_the_usual_one(self) -> None:
        found = _compensation._ridge([self.gram(9, 1)], self.MATRIX, self.KEPT)
        assert found == _compensation._RIDGES[1]

    def test_each_half_tells_of_the_other(self) -> None:
        alike = [self.gram(50, 1), self.gram(50, 1)]
        assert _compensation._ridge(alike, self.MATRIX, self.KEPT) == min(_compensation._RIDGES)
        unlike = [self.gram(2, 1), self.gram(2, 2)]
        assert _compensation._ridge(unlike, self.MATRIX, self.KEPT) > min(_compensation._RIDGES)

    def test_what_goes_becomes_zero(self) -> None:
        for ridge in (0.01, float("inf")):
            change = _compensation._change(self.gram(50, 1), self.MATRIX, self.KEPT, ridge)
            assert torch.equal(change[:, 2], -self.MATRIX[:, 2])
            assert bool((change[:, self.KEPT] == 0).all()) == (ridge == float("inf"))


def test_readers_are_those_asked_for() -> None:
    p = program(lambda x, w, v: F.linear(F.linear(x, w), v), rand(8, 3), w=rand(4, 3), v=rand(2, 4))
    products = Coupling.compute(p).demand.constants.products
    assert list(surgeons_of(p, products, [rand(8, 3)], {"v"})) == ["v"]
    assert list(readers_of(products)) == ["w", "v"]
