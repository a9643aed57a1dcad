"""Modules as sides of a comparison: state, repetition, and the scale of their rounding."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from fxopt.report import Verdict
from fxopt.verification import Subject, module_subject, open_signature, verify_runs

X = torch.linspace(-1, 1, 80)


class Closure(nn.Module):
    """A buffer that is reached by a closure."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        calls = self.calls
        self.count = lambda: calls.add_(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.count()


class Buffer(Closure):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x + self.calls


class Assigned(Closure):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        return x + self.calls


class Listed(Closure):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.calls = [0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls[0] += 1
        return x + self.calls[0]


class Plus(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.number


def side(module: nn.Module, x: torch.Tensor = X) -> Subject:
    return module_subject(module.eval(), open_signature((x,), result=x))


@pytest.mark.parametrize("kind", [Closure, Buffer, Assigned, Listed])
def test_every_run_starts_from_the_same_state(kind: type[nn.Module]):
    model = kind()
    given = [(X,), (2 * X,), (3 * X,)]
    right = verify_runs(side(model), side(Plus(1)), inputs=given)
    assert right.verdict is Verdict.EQUIVALENT
    assert right.notes == (
        "the model changes its own 'calls'; every run starts from what it is now, and what it becomes is not compared",
    )
    for number in (0, 2, 3, 7):
        for pair in ((side(model), side(Plus(number))), (side(Plus(number)), side(model))):
            assert verify_runs(*pair, inputs=given).verdict is Verdict.DIFFERENT
    assert model.calls in (torch.zeros(()), [0])


def test_a_model_that_does_not_repeat_leaves_nothing_to_compare():
    class Outside(nn.Module):
        calls = itertools.count(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + next(self.calls)

    class Random(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand(())

    for module in (Outside(), Random()):
        for pair in ((side(module), side(Plus(2))), (side(Plus(2)), side(module))):
            report = verify_runs(*pair, inputs=[(X,), (2 * X,)])
            assert report.verdict is Verdict.UNDECIDED
            assert "returns something else when it is run again on the same inputs" in report.reason


class Lucky(nn.Module):
    """What nearly cancels, amplified: exact at round numbers, and sensitive to rounding all the same."""

    def __init__(self, gain: float = 1.0, *, rounded: bool = False) -> None:
        super().__init__()
        self.gain = gain
        weight = torch.arange(80) / 64
        # A pass that computes with weights gives them in the next bit.
        self.weight = nn.Parameter(torch.nextafter(weight, torch.tensor(9.0)) if rounded else weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * x * torch.exp(8 * ((x * self.weight).sum(-1, keepdim=True) - 49.375))


def test_an_original_that_is_lucky_is_judged_by_its_moved_runs():
    """The efficient nets' case: other kernels move nothing, rounding in other places does."""
    x = torch.ones(80).index_fill(0, torch.tensor(0), 2)  # constant inputs are judged more mildly
    reference = side(Lucky(), x)
    first, *_ = reference.run([x])
    moved = [float((run[0].double() - first.double()).norm()) for run in reference.variations([x])]
    assert moved[:3] == [0.0] * 3  # again, without oneDNN, with other threads
    assert len(moved) == 11
    assert min(moved[3:]) > 0
    wrong = verify_runs(reference, side(Lucky(gain=1 + 1e-3), x), inputs=[(x,)])
    assert wrong.verdict is Verdict.DIFFERENT
    right = side(Lucky(rounded=True), x)
    assert verify_runs(reference, right, inputs=[(x,)]).verdict is Verdict.EQUIVALENT
    unmoved = dataclasses.replace(reference, perturbed=None)
    assert verify_runs(unmoved, right, inputs=[(x,)]).verdict is Verdict.DIFFERENT


def test_weights_and_module_stay_as_they_are():
    module = nn.Sequential(nn.Linear(80, 80), nn.BatchNorm1d(80), nn.Dropout())
    before = {name: (id(t), t.clone()) for name, t in module.state_dict(keep_vars=True).items()}
    x = torch.randn(3, 80)
    subject = module_subject(module, open_signature((x,), result=x))
    subject.variations([x])
    subject.double([x])
    for name, tensor in module.state_dict(keep_vars=True).items():
        assert id(tensor) == before[name][0]
        assert torch.equal(tensor, before[name][1])
    assert all(m.training for m in module.modules())
    assert not any(p.grad_fn for p in module.parameters())
