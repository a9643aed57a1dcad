"""Products with known weights: which constants a bias can hold, and what stays where none can."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.eliminate.eliminate_dead_weights import EliminateDeadWeights
from fxopt.passes.prune import Prune
from fxopt.pipeline import PassManager
from fxopt.program import Program
from tests.passes.helpers import applied, program, rand


def dead(weight: torch.Tensor, *rows: int, dim: int = 0) -> torch.Tensor:
    return weight.index_fill(dim, torch.tensor(rows), 0)


def small(before: Program) -> dict[str, tuple[int, ...]]:
    """Shapes after the pass, which is held to its contract."""
    after = applied(EliminateDeadWeights(), before).program
    return {name: tuple(t.shape) for name, t in after.weights.items()}


def units(x: torch.Tensor, u: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Six channels, the first three constant and not zero."""
    return F.gelu(F.linear(x, u, c))


UNITS = {"u": dead(rand(6, 4), 0, 1, 2), "c": rand(6)}


@pytest.mark.parametrize(
    ("bias", "width"),
    [
        (rand(5), 3),
        (rand(1, 5), 3),
        (rand(1), 4),  # one number for all rows can't hold what constants give to each: one stays for three
        (torch.tensor(0.3), 4),
        (rand(3, 5), 6),  # nor one that varies along the batch
        (rand(3, 1), 6),
    ],
    ids=lambda v: str(tuple(v.shape)) if isinstance(v, torch.Tensor) else "",
)
@pytest.mark.parametrize("op", ["linear", "addmm"])
def test_a_bias_holds_constants_if_it_runs_along_the_rows(op: str, bias: torch.Tensor, width: int) -> None:
    def function(
        x: torch.Tensor, u: torch.Tensor, c: torch.Tensor, w: torch.Tensor, b: torch.Tensor
    ) -> torch.Tensor:
        return F.linear(units(x, u, c), w, b) if op == "linear" else torch.addmm(b, units(x, u, c), w)

    w = rand(5, 6) if op == "linear" else rand(6, 5)
    before = program(function, rand(3, 4), **UNITS, w=w, b=bias)
    assert small(before)["u"] == (width, 4)


def product(x: torch.Tensor, u: torch.Tensor, c: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return units(x, u, c) @ w


def summed(x: torch.Tensor, u: torch.Tensor, c: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bi,io->bo", units(x, u, c), w)


def normed(x: torch.Tensor, u: torch.Tensor, c: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(units(x, u, c) @ w, [5])


@pytest.mark.parametrize("function", [product, summed, normed])
@pytest.mark.parametrize("apart", [False, True])
def test_without_a_bias_one_constant_stays_for_all(
    function: Callable[..., torch.Tensor], apart: bool
) -> None:
    w = rand(6, 5)
    w[3:, 0] = 0  # the first row reads constants alone, and nothing can hold what it gives
    if apart:
        w[:3, 1:] = 0  # which no other reads
    assert small(program(function, rand(3, 4), **UNITS, w=w))["u"] == (4, 4)


def test_a_third_factor_is_no_bias() -> None:
    def function(
        x: torch.Tensor, u: torch.Tensor, c: torch.Tensor, w: torch.Tensor, s: torch.Tensor
    ) -> torch.Tensor:
        return torch.einsum("bi,oi,o->bo", units(x, u, c), w, s)

    assert small(program(function, rand(3, 4), **UNITS, w=rand(5, 6), s=rand(5)))["u"] == (6, 4)


@pytest.mark.parametrize("rows", [3, 5])
def test_a_weight_that_is_computed_takes_no_bias_by_its_rows(rows: int) -> None:
    """What `linear` calls its input is known, its weight has the constant channels: its bias is not by those rows."""

    def function(x: torch.Tensor, u: torch.Tensor, c: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return F.linear(a, units(x, u, c))

    assert small(program(function, rand(3, 4), **UNITS, a=rand(rows, 6)))["u"] == (4, 4)


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("biased", [False, True])
def test_two_known_factors_do_not_both_absorb(rows: int, biased: bool) -> None:
    def function(
        x: torch.Tensor, a: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None
    ) -> torch.Tensor:
        return x + F.linear(a, w, b)

    a, w = rand(8, 16), rand(rows, 16, seed=2)
    a[:, 3:], w[:, 5:] = 2, 3
    small(program(function, rand(8, rows), a=a, w=w, **({"b": rand(rows)} if biased else {})))


def test_known_factors_without_a_bias() -> None:
    a, w = rand(8, 16), rand(16, 8, seed=2)
    a[:, 3:], w[5:] = 2, 3
    small(program(lambda x, a, w: x + a @ w, rand(8, 8), a=a, w=w))


def test_constants_that_nobody_sees_are_not_absorbed() -> None:
    def function(x: torch.Tensor, a: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor):
        return x + F.linear(F.linear(a, w, b).relu(), v)

    before = program(
        function,
        rand(8, 4),
        a=torch.ones(1, 16).expand(8, 16).clone(),
        w=rand(1, 16),
        b=rand(1),
        v=torch.zeros(4, 1),
    )
    assert small(before)["w"] == (1, 1)


def test_einsum_is_pruned_by_data() -> None:
    def function(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bi,oi->bo", torch.einsum("bi,oi->bo", x, w).relu(), v)

    before = program(function, rand(8, 4), w=rand(6, 4), v=rand(3, 6, seed=1))
    data = [rand(8, 4, seed=s) for s in range(4)]
    item = Prune(ratio=0.5, criterion="obs", compensate=True)
    masked = PassManager.of([item]).run(before, calibration=data).program
    after = applied(EliminateDeadWeights(), masked).program
    assert {n: tuple(t.shape) for n, t in after.weights.items()} == {"w": (3, 4), "v": (3, 3)}
    plain = PassManager.of([Prune(ratio=0.5, criterion="obs")]).run(before, calibration=data).program
    assert not torch.equal(plain.weights["v"], masked.weights["v"])
