"""Several programs as one: what it computes, what it shares, what it refuses."""

import pytest
import torch
from torch import nn

import fxopt


def net(seed: int, width: int, stem: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(seed)
    first = nn.Linear(4, 6) if stem is None else stem
    return nn.Sequential(first, nn.ReLU(), nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3)).eval()


def program(model: nn.Module, name: str = "batch", inputs: int = 4) -> fxopt.Program:
    return fxopt.trace(model, (torch.zeros(2, inputs),), dynamic_shapes=({0: name},))


def three(stem: nn.Module | None = None) -> list[fxopt.Program]:
    return [program(net(i, 5 + i, stem), name) for i, name in enumerate(("batch", "n", "batch"))]


X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("weights", [None, [1, 2, 0.5], [0, 1, 0]])
@pytest.mark.parametrize("reduce", ["mean", "mean-probabilities", "vote"])
def test_what_it_computes(reduce: str, weights: list[float] | None) -> None:
    members = three()
    outputs = torch.stack([m(X) for m in members])  # type: ignore[misc]  # tensors
    factors = torch.tensor(weights or [1.0, 1.0, 1.0])
    factors = (factors / factors.sum()).reshape(3, 1, 1)
    if reduce == "mean-probabilities":
        outputs = outputs.softmax(-1)
    elif reduce == "vote":
        outputs = nn.functional.one_hot(outputs.argmax(-1), 3).float()
    made = fxopt.ensemble(members, weights=weights, reduce=reduce)  # type: ignore[arg-type]  # drawn by name
    torch.testing.assert_close(made(X), (outputs * factors).sum(0))
    assert made(X[:1]).shape == (1, 3)  # type: ignore[attr-defined]  # a tensor


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
@pytest.mark.parametrize("reduce", ["mean", "vote"])
def test_one_file_that_verifies(target: str, reduce: str) -> None:
    made = fxopt.ensemble(three(), reduce=reduce)  # type: ignore[arg-type]  # drawn by name
    artifact = fxopt.lower(fxopt.run_pipeline(made, "O1"), target)
    assert fxopt.verify(made, artifact).ok
    torch.testing.assert_close(artifact(X), made(X), rtol=1e-4, atol=1e-5)


def test_what_members_share_is_there_once() -> None:
    torch.manual_seed(9)
    stem = nn.Linear(4, 6)
    made = fxopt.ensemble(three(stem))
    linears = [n for n in made.calls() if n.target is torch.ops.aten.linear.default]
    assert len(linears) == 1 + 2 * 3
    assert len(made.weights) == 2 + 4 * 3
    twice = fxopt.ensemble([program(net(0, 5))] * 2)
    assert len(twice.weights) == 6
    assert sum(1 for n in twice.calls() if n.target is torch.ops.aten.linear.default) == 3


def test_members_are_told_apart_by_their_paths() -> None:
    modules = {o.module for n in fxopt.ensemble(three()).calls() for o in n.meta["origins"]}
    assert {"0.0", "1.0", "2.4"} <= modules


def test_a_members_ranges_hold_for_all() -> None:
    narrow = fxopt.trace(
        net(1, 5), (torch.zeros(3, 4),), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=5)},)
    )
    made = fxopt.ensemble([program(net(0, 5)), narrow])
    with pytest.raises(fxopt.InputError, match="the dynamic size batch is 7"):
        made(X)
    assert made(X[:5]).shape == (5, 3)  # type: ignore[attr-defined]  # a tensor


class Two(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": x, "b": x * 2}


class Sizes(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x.argmax(1)


@pytest.mark.parametrize(
    ("others", "options", "message"),
    [
        (
            [program(net(1, 5, nn.Linear(3, 6)), inputs=3)],
            {},
            "program 1 (Sequential) takes input: f32[batch, 3]",
        ),
        (
            [fxopt.trace(net(1, 5), (torch.zeros(2, 4),))],
            {},
            "takes input: f32[2, 4], program 0 input: f32[batch, 4]",
        ),
        ([program(Two().eval())], {}, "returns other containers than program 0"),
        ([], {"weights": [1, 2]}, "2 weights for 1 programs"),
        ([], {"weights": [-1]}, "expected numbers from 0"),
        ([], {"weights": [0]}, "expected numbers from 0"),
        ([], {"reduce": "median"}, "unknown reduce 'median'; did you mean 'mean'?"),
        ([nn.ReLU()], {}, "ensemble takes a Program, got a ReLU"),
    ],
)
def test_mistakes(others: list[fxopt.Program], options: dict[str, object], message: str) -> None:
    with pytest.raises(fxopt.InputError) as caught:
        fxopt.ensemble([program(net(0, 5)), *others], **options)  # type: ignore[arg-type]  # drawn by name
    assert message in str(caught.value)


def test_outputs_that_cant_be_averaged() -> None:
    with pytest.raises(fxopt.InputError, match=r"returns .*i64\[batch\]; only tensors of floats"):
        fxopt.ensemble([program(Sizes().eval())] * 2)
    with pytest.raises(fxopt.InputError, match="there are no programs"):
        fxopt.ensemble([])


def test_several_outputs_and_images() -> None:
    made = fxopt.ensemble([program(Two().eval()), program(Two().eval())])
    assert torch.equal(made(X)["b"], X * 2)  # type: ignore[index]  # a dict
    torch.manual_seed(0)
    pictures = torch.randn(2, 3, 5, 5)
    members = [
        fxopt.trace(nn.Conv2d(3, 4, 3).eval(), (pictures,), dynamic_shapes=({0: "batch"},)) for _ in range(2)
    ]
    votes = fxopt.ensemble(members, reduce="vote")(pictures)
    assert torch.equal(votes.sum(1), torch.ones(2, 3, 3))  # type: ignore[attr-defined]  # a tensor
