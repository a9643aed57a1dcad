"""What trains stays what trains, through rewrites that compute new weights."""

import torch
from torch import nn
from torch.nn.utils import prune

import fxopt
from fxopt.program import trained_as


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    ).eval()
    prune.ln_structured(model[0], "weight", 0.5, 2, 0)
    with torch.no_grad():
        model[1].bias[:] = 0.1
    return model


def kinds(program: fxopt.Program) -> dict[str, bool]:
    return {name: isinstance(w, nn.Parameter) and w.requires_grad for name, w in program.weights.items()}


def test_folded_and_cut_weights_train() -> None:
    program = fxopt.trace(net(), (torch.randn(2, 1, 8, 8),))
    small = fxopt.run_pipeline(program, "clean,eliminate-dead-weights")
    assert small.weights["0.folded"].shape == (4, 1, 3, 3)
    assert kinds(small) == {
        "0.folded": True,
        "1.weight": True,
        "1.bias": True,
        "1.running_mean": False,
        "1.running_var": False,
        "4.weight": True,
        "4.bias": True,
    }


def test_pruned_weights_train() -> None:
    program = fxopt.trace(net(), (torch.randn(2, 1, 8, 8),))
    pruned = fxopt.run_pipeline(program, "clean,prune{ratio=0.5},eliminate-dead-weights")
    assert {name for name, trains in kinds(pruned).items() if not trains} == {
        "1.running_mean",
        "1.running_var",
    }


def test_what_a_rule_computes_trains_if_a_parameter_went_in() -> None:
    program = fxopt.trace(net(), (torch.randn(2, 1, 8, 8),))
    assert all(kinds(fxopt.run_pipeline(program, "O1")).values())


def test_what_was_frozen_stays_frozen() -> None:
    model = net()
    for parameter in model.parameters():
        parameter.requires_grad = False
    program = fxopt.run_pipeline(fxopt.trace(model, (torch.randn(2, 1, 8, 8),)), "O1")
    assert not any(kinds(program).values())
    assert all(isinstance(w, nn.Parameter) for w in program.weights.values())


def test_buffers_give_buffers_and_whole_numbers_none() -> None:
    weight = nn.Parameter(torch.ones(2))
    assert not isinstance(trained_as(torch.ones(2), [torch.ones(2), None]), nn.Parameter)
    assert not isinstance(trained_as(torch.ones(2, dtype=torch.int64), [weight]), nn.Parameter)
    assert trained_as(weight * 2, [torch.ones(2), weight]).is_leaf
