"""Experts of a mixture go, and units of theirs; what a router gives is selected from where it can't be cut."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fxopt.frontend import trace
from fxopt.lowering import lower
from fxopt.passes.eliminate.eliminate_dead_weights import EliminateDeadWeights
from fxopt.pipeline import PassManager
from fxopt.program import Program
from fxopt.report import Verdict
from fxopt.verification import double_program
from tests.passes.helpers import applied, calls, program, rand, unchanged

EXPERTS, WIDTH, HIDDEN = 4, 6, 10


def by_einsum(m: "Mixture", x: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    h = torch.einsum("bd,edh->ebh", x, m.up).relu()
    return torch.einsum("ebd,be->bd", torch.einsum("ebh,ehd->ebd", h, m.down), shares)


def by_products(m: "Mixture", x: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    h = torch.bmm(x.expand(EXPERTS, *x.shape), m.up).relu()
    return (torch.bmm(h, m.down) * shares.t()[:, :, None]).sum(0)


def by_best_two(m: "Mixture", x: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    best, which = shares.topk(2, -1)
    chosen = torch.zeros_like(shares).scatter(1, which, best)
    return (torch.matmul(torch.matmul(x, m.up).relu(), m.down) * chosen.t()[:, :, None]).sum(0)


FORMS = [by_einsum, by_products, by_best_two]


class Mixture(nn.Module):
    """Experts as two weights [experts, in, out], weighed by a softmax."""

    def __init__(self, form: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.router, self.form = nn.Linear(WIDTH, EXPERTS), form
        self.up = nn.Parameter(rand(EXPERTS, WIDTH, HIDDEN))
        self.down = nn.Parameter(rand(EXPERTS, HIDDEN, WIDTH, seed=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.form(self, x, self.router(x).softmax(-1))


def mixture(form: Callable[..., torch.Tensor]) -> Mixture:
    torch.manual_seed(0)
    return Mixture(form).eval()


def wide(module: nn.Module) -> Program:
    return double_program(program(module, rand(5, WIDTH), dynamic=True))


def shape(of: Program, name: str) -> tuple[int, ...]:
    return tuple(of.weights[name].shape)


def same(before: Program, after: Program) -> bool:
    x = rand(7, WIDTH).double()
    return torch.allclose(before(x), after(x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("part", ["up", "down"])
@pytest.mark.parametrize("form", FORMS)
def test_dead_experts_go(form: Callable[..., torch.Tensor], part: str) -> None:
    module = mixture(form)
    getattr(module, part).data[[0, 2]] = 0
    before = wide(module)
    after = applied(EliminateDeadWeights(), before).program
    assert shape(after, "up") == (2, WIDTH, HIDDEN)
    assert shape(after, "down") == (2, HIDDEN, WIDTH)
    assert shape(after, "router.weight") == (EXPERTS, WIDTH)  # the softmax counts them all
    assert calls(after).count("index_select") == 1
    assert same(before, after)


@pytest.mark.parametrize("part", ["up", "down"])
@pytest.mark.parametrize("form", FORMS)
def test_units_that_are_dead_in_all_experts_go(form: Callable[..., torch.Tensor], part: str) -> None:
    module = mixture(form)
    weight = getattr(module, part).data
    (weight.transpose(1, 2) if part == "up" else weight)[:, [1, 3]] = 0
    before = wide(module)
    after = applied(EliminateDeadWeights(), before).program
    assert shape(after, "up") == (EXPERTS, WIDTH, HIDDEN - 2)
    assert shape(after, "down") == (EXPERTS, HIDDEN - 2, WIDTH)
    assert "index_select" not in calls(after)
    assert same(before, after)


@pytest.mark.parametrize("form", FORMS)
def test_units_of_experts_are_pruned_as_groups(form: Callable[..., torch.Tensor]) -> None:
    before = program(mixture(form), rand(5, WIDTH), dynamic=True)
    result = PassManager.parse("prune{ratio=0.3},eliminate-dead-weights").run(before)
    assert shape(result.program, "up") == (EXPERTS, WIDTH, HIDDEN - 3)
    assert shape(result.program, "down") == (EXPERTS, HIDDEN - 3, WIDTH)


class Listed(nn.Module):
    """Experts as modules."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.up = nn.ModuleList(nn.Linear(WIDTH, HIDDEN) for _ in range(EXPERTS))
        self.down = nn.ModuleList(nn.Linear(HIDDEN, WIDTH) for _ in range(EXPERTS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares = self.router(x).softmax(-1)
        parts = [d(u(x).relu()) for u, d in zip(self.up, self.down, strict=True)]
        return sum(shares[..., e : e + 1] * part for e, part in enumerate(parts))


def test_experts_in_a_list_go_and_lose_units() -> None:
    torch.manual_seed(0)
    module = Listed().eval()
    with torch.no_grad():
        module.down[2].weight.zero_(), module.down[2].bias.zero_()
        module.up[1].weight[[1, 2, 3]], module.up[1].bias[[1, 2, 3]] = 0, 0
    before = wide(module)
    after = applied(EliminateDeadWeights(), before).program
    assert not any(name.startswith(("up.2", "down.2")) for name in after.weights)
    assert shape(after, "up.1.weight") == (HIDDEN - 3, WIDTH)
    assert same(before, after)


def test_what_is_counted_is_selected_from_only_where_weights_go_by_it() -> None:
    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x.softmax(-1) * (x * w).relu()

    unchanged(EliminateDeadWeights(), program(function, rand(3, 6), w=torch.tensor([1.0, 0, 2, 0, 1, 1])))


def test_where_nothing_that_meets_can_be_cut_nothing_is_selected() -> None:
    """Selecting from both would save nothing, and leave nobody to say what stays."""
    zeros = torch.zeros(4, 2)
    unchanged(EliminateDeadWeights(), program(lambda x, w: (x * torch.ones_like(x)) @ w, rand(3, 4), w=zeros))
    unchanged(EliminateDeadWeights(), program(lambda x, y, w: (x * y) @ w, rand(3, 4), rand(3, 4), w=zeros))


def test_gates_of_a_normed_stream_go() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.gate, self.out = nn.LayerNorm(6), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.out(self.norm(x) * self.gate(y).relu())

    torch.manual_seed(0)
    module = Gated().eval()
    with torch.no_grad():
        module.gate.weight[[1, 4]], module.gate.bias[[1, 4]] = 0, 0
    before = double_program(trace(module, (rand(2, 6), rand(2, 4))))
    after = applied(EliminateDeadWeights(), before).program
    assert [shape(after, n) for n in ("gate.weight", "out.weight", "norm.weight")] == [(4, 4), (3, 4), (6,)]
    x, y = rand(2, 6, seed=1).double(), rand(2, 4, seed=1).double()
    assert torch.allclose(before(x, y), after(x, y), rtol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_random_slices(form: Callable[..., torch.Tensor]) -> None:
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        module = mixture(form)
        for weight in (module.up, module.down):
            for dim in range(3):
                kept = torch.rand(weight.shape[dim], generator=generator) > 0.3
                weight.data *= kept.reshape([-1 if d == dim else 1 for d in range(3)])
        before = wide(module)
        assert same(before, PassManager.of([EliminateDeadWeights()]).run(before).program), seed


@pytest.mark.parametrize("target", ["torchscript", "onnx"])
def test_files(target: str) -> None:
    module = mixture(by_products)
    module.down.data[1] = 0
    before = program(module, rand(5, WIDTH), dynamic=True)
    after = PassManager.of([EliminateDeadWeights()]).run(before).program
    small = lower(after, target)
    assert small.report is not None
    assert small.report.verdict is Verdict.EQUIVALENT
