"""Which slices of which weights are one layer, what keeps others whole, and what is a head."""

import torch
import torch.nn.functional as F
from torch import nn

from fxopt.analysis.channels import Coupling, Layer, layers_of, statistics_of
from fxopt.passes.prune._footprint import Footprints
from fxopt.program import Program
from tests import zoo
from tests.passes.eliminate.test_eliminate_dead_weights import Attention
from tests.passes.helpers import program, rand


def found(p: Program) -> tuple[list[Layer], list[tuple[str, str]]]:
    return layers_of(Coupling.compute(p), p)


def biased_first(x: torch.Tensor, b: torch.Tensor, v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.linear(F.linear(x, w, b).relu(), v)


def test_a_layer_is_named_after_the_matrix_that_makes_its_channels() -> None:
    """Not after its bias or what reads it, whichever of them comes first."""
    p = program(biased_first, rand(2, 4), b=rand(6), v=rand(3, 6), w=rand(6, 4))
    ((layer,), _) = found(p)
    assert (layer.name, layer.width, len(layer.labels), layer.heads) == ("w", 1, 6, False)
    assert {(m.weight, m.dim, m.makes, m.is_vector) for m in layer.members} == {
        ("w", 0, True, False), ("b", 0, True, True), ("v", 1, False, False),
    }  # fmt: skip
    assert [m.weight for m in layer.makers] == ["w"]


def test_a_single_channel_is_no_layer() -> None:
    layers, _ = found(program(biased_first, rand(2, 4), b=rand(1), v=rand(3, 1), w=rand(1, 4)))
    assert layers == []


def test_two_channels_are_one() -> None:
    ((layer,), _) = found(program(biased_first, rand(2, 4), b=rand(2), v=rand(3, 2), w=rand(2, 4)))
    assert len(layer.labels) == 2


def test_what_no_matrix_makes_is_no_layer() -> None:
    p = program(lambda x, b, v: x + F.linear(b.relu() * 2, v), rand(2, 3), b=rand(6), v=rand(3, 6))
    assert found(p)[0] == []
    layers, _ = found(program(lambda x, b, v: F.linear(x * b, v), rand(2, 4), b=rand(4), v=rand(3, 4)))
    assert layers == []


def test_heads_are_where_two_activations_meet() -> None:
    layers, _ = found(program(Attention(), rand(2, 5, 16)))
    assert any(x.heads for x in layers)
    assert {x.width for x in layers if x.heads} == {4}
    layers, _ = found(program(biased_first, rand(2, 4), b=rand(6), v=rand(3, 6), w=rand(6, 4)))
    assert not any(x.heads for x in layers)


class Stream(nn.Module):
    """A residual sum with the input, read by a last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last((x + self.inner(x)).relu())


def test_what_keeps_a_layer_whole_is_named() -> None:
    layers, blocked = found(program(Stream(), rand(2, 4)))
    assert layers == []
    assert dict(blocked) == {"inner.weight": "the model's input", "last.weight": "the model's output"}


def test_means_and_variances_are_statistics() -> None:
    p = program(zoo.model("digits")[0], *zoo.model("digits")[1])
    names = {str(n.target).rpartition(".")[2] for n in statistics_of(p.graph.nodes)}
    assert names == {"running_mean", "running_var"}


def test_nothing_gone_leaves_all() -> None:
    for p in (
        program(biased_first, rand(2, 4), b=rand(6), v=rand(3, 6), w=rand(6, 4)),
        program(lambda w, x: F.linear(x, w), rand(3, 4), rand(2, 4)),
    ):
        whole = Footprints(p, Coupling.compute(p)).without([])
        count = sum(t.numel() for t in p.weights.values())
        assert (whole.params, whole.bytes) == (count, 4 * count)
        products = sum(
            n.meta["val"].numel() * n.args[1].meta["val"].shape[1] for n in p.calls() if "linear" in n.name
        )
        assert whole.flops >= 2 * products
