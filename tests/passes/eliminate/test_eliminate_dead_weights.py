"""Dead rows go, with all that is tied to them; constants are absorbed; what has to stay is named."""

import copy
import os
from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fxopt.frontend import trace
from fxopt.lowering import lower
from fxopt.passes.eliminate.eliminate_dead_weights import EliminateDeadWeights
from fxopt.pipeline import PassManager
from fxopt.program import Program, origins_of
from fxopt.report import Verdict
from fxopt.testing import check_pass
from fxopt.verification import double_program
from tests import zoo
from tests.passes.helpers import applied, calls, program, rand, unchanged

QUICK = ("mlp", "unet", "digits", "bert", "gpt2", "llama", "vit", "convnext", "tied_encoder", "lstm")
LARGE = ("squeezenet", "shufflenetv2", "mobilenetv2", "resnet10")
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


def dead(weight: torch.Tensor, *rows: int, dim: int = 0) -> torch.Tensor:
    """A weight with some of its rows zero."""
    return weight.index_fill(dim, torch.tensor(rows), 0)


def shapes(of: Program) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in of.weights.items()}


def masked(name: str, share: float = 0.5) -> nn.Module:
    """A zoo model without the rows of least norm of each layer but the last, and without their biases."""
    module = copy.deepcopy(zoo.model(name)[0])
    layers = [m for m in module.modules() if isinstance(m, LAYERS)]
    with torch.no_grad():
        for layer in layers[:-1]:
            rows = layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
            least = rows.flatten(1).norm(dim=1).argsort()[: int(len(rows) * share)]
            rows[least] = 0
            if layer.bias is not None:
                layer.bias[least] = 0
    return module


def error(before: Program, after: Program, tensors: list[torch.Tensor]) -> float:
    """The largest difference in float64, relative to the largest output."""
    wide = [t.double() if t.is_floating_point() else t for t in tensors]
    pairs = zip(before.run_flat(wide), after.run_flat(wide), strict=True)
    return max(
        ((a - b).abs().max() / a.abs().max().clamp(min=1e-30)).item()
        for a, b in pairs
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    )


def parameters_left(module: nn.Module, before: Program, after: Program) -> float:
    names = {n for n, _ in module.named_parameters()}
    left, all_ = (sum(t.numel() for n, t in p.weights.items() if n in names) for p in (after, before))
    return left / all_


BARS = {
    "digits": 0.262,
    "unet": 0.40,
    "bert": 0.75,
    "mlp": 0.51,
    "vit": 0.66,
    "llama": 0.61,
    "convnext": 0.58,
}
BARS |= {
    "tied_encoder": 0.80,
    "resnet10": 0.34,
    "shufflenetv2": 0.485,
    "mobilenetv2": 0.47,
    "squeezenet": 0.36,
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in BARS]
)
def test_half_of_the_rows_of_each_layer(name: str) -> None:
    module, (_, args) = masked(name), zoo.model(name)
    before = double_program(trace(module, args, dynamic_shapes=zoo.dynamic_batch(args)))
    after = PassManager.of([EliminateDeadWeights()]).run(before).program
    assert parameters_left(module, before, after) <= BARS[name]
    assert error(before, after, [torch.cat([x, x[:1]]) for x in args]) < 1e-12


def test_batch_norm_at_its_start_needs_no_representatives() -> None:
    module, (_, args) = masked("unet"), zoo.model("unet")
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    before = trace(module, args)
    after = PassManager.of([EliminateDeadWeights()]).run(before).program
    assert parameters_left(module, before, after) <= 0.481


def random_masks(before: Program, seed: int) -> None:
    """Random slices along random axes of random weights at zero, and some elements."""
    generator = torch.Generator().manual_seed(seed)

    def below(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    for name, tensor in before.weights.items():
        if not tensor.is_floating_point() or not tensor.dim() or "running" in name or below(3) == 0:
            continue
        dim, changed = below(min(tensor.dim(), 2)), tensor.clone()
        size = tensor.shape[dim]
        rows = torch.randperm(size, generator=generator)[: below(size + 1)]
        changed.index_fill_(dim, rows, 0)
        if below(3) == 0:
            changed *= torch.rand(changed.shape, generator=generator) > 0.5
        before.weights[name] = changed


@cache
def wide(name: str, dynamic: bool) -> tuple[Program, list[torch.Tensor]]:
    """A zoo model's program in float64, and inputs of another batch size where that varies."""
    module, args = zoo.model(name)
    before = double_program(trace(module, args, dynamic_shapes=zoo.dynamic_batch(args) if dynamic else None))
    return before, [torch.cat([x, x[:1]]) if dynamic else x for x in args]


def check_random_masks(name: str, seed: int, *, dynamic: bool) -> None:
    before, tensors = wide(name, dynamic)
    before = before.copy()
    random_masks(before, seed)
    after = PassManager.of([EliminateDeadWeights()]).run(before).program
    assert error(before, after, tensors) < 1e-11, f"{name}, seed {seed}"


@pytest.mark.parametrize("name", QUICK)
def test_random_masks_are_exact(name: str) -> None:
    for seed in range(3):
        check_random_masks(name, seed, dynamic=False)
        check_random_masks(name, seed + 3, dynamic=True)


DRAWS = 100 if os.environ.get("HYPOTHESIS_PROFILE") == "fuzz" else 10


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
@settings(max_examples=DRAWS)
@given(seed=st.integers(0, 2**32 - 1), dynamic=st.booleans())
def test_any_masks_are_exact(name: str, seed: int, dynamic: bool) -> None:
    check_random_masks(name, seed, dynamic=dynamic)


def test_promises() -> None:
    check_pass(EliminateDeadWeights(), examples=60)


def two_layers(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.linear(F.linear(x, w, b).relu(), v)


def test_dead_units_go() -> None:
    before = program(
        two_layers,
        rand(2, 4),
        w=dead(rand(6, 4), 1, 3),
        b=dead(rand(6), 1, 3),
        v=rand(3, 6, seed=1),
        dynamic=True,
    )
    after = applied(EliminateDeadWeights(), before).program
    assert shapes(after) == {"w": (4, 4), "b": (4,), "v": (3, 4)}
    assert calls(after) == ["linear", "relu", "linear"]


def test_columns_that_nothing_reads_go() -> None:
    before = program(two_layers, rand(2, 4), w=rand(6, 4), b=rand(6), v=dead(rand(3, 6), 0, 5, dim=1))
    assert shapes(applied(EliminateDeadWeights(), before).program)["w"] == (4, 4)


def test_a_constant_goes_into_the_next_bias() -> None:
    def function(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.linear(F.gelu(F.linear(x, w, b)), v)

    before = program(function, rand(2, 4), w=dead(rand(6, 4), 2), b=rand(6), v=rand(3, 6, seed=1))
    after = applied(EliminateDeadWeights(), before).program
    assert shapes(after) == {"w": (5, 4), "b": (5,), "v": (3, 5), "bias": (3,)}
    assert torch.allclose(after.weights["bias"], F.gelu(before.weights["b"][2]) * before.weights["v"][:, 2])


def test_in_front_of_padding_one_constant_stays_for_all() -> None:
    def function(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(x, w, b).relu(), v, padding=1)

    bias = torch.tensor([0.5, 2.0, -1.0, 3.0, 1.0, 0.25])
    before = program(
        function, rand(2, 3, 5, 5), w=dead(rand(6, 3, 1, 1), 0, 1, 2, 3), b=bias, v=rand(4, 6, 3, 3)
    )
    after = applied(EliminateDeadWeights(), before).program
    assert shapes(after) == {"w": (3, 3, 1, 1), "b": (3,), "v": (4, 3, 3, 3)}
    assert after.weights["b"].tolist() == [3.0, 1.0, 0.25]  # the largest stands for the others


@pytest.mark.parametrize("groups", [1, 2])
def test_without_padding_convolutions_absorb(groups: int) -> None:
    def function(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(x, w, b), v, groups=groups)

    gone = (0, 1, 2) if groups == 2 else (1, 4)
    w, v = dead(rand(6, 3, 1, 1), *gone), rand(4, 6 // groups, 3, 3)
    before = program(function, rand(2, 3, 5, 5), w=w, b=rand(6), v=v)
    result = applied(EliminateDeadWeights(), before)
    # a group goes as a whole, and its rows of the next weight with it: those are the outputs
    assert shapes(result.program)["w"][0] == (6 if groups == 2 else 4)


def test_depthwise_channels_go_with_their_groups() -> None:
    def function(x: torch.Tensor, w: torch.Tensor, d: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(F.conv2d(x, w), d, padding=1, groups=6).relu(), v)

    before = program(
        function,
        rand(2, 3, 5, 5),
        w=dead(rand(6, 3, 1, 1), 0, 1),
        d=dead(rand(6, 1, 3, 3), 4),
        v=rand(2, 6, 1, 1),
    )
    after = applied(EliminateDeadWeights(), before).program
    assert shapes(after) == {"w": (3, 3, 1, 1), "d": (3, 1, 3, 3), "v": (2, 3, 1, 1)}


def test_batch_norm_gamma_alone_kills_the_channel() -> None:
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1))
    zoo.randomise_statistics(module)
    with torch.no_grad():
        module[1].weight[[0, 4]] = 0
        module[1].bias[0] = 0.7
    after = applied(EliminateDeadWeights(), program(module, rand(2, 3, 5, 5))).program
    assert shapes(after)["0.weight"] == (4, 3, 3, 3)
    assert shapes(after)["3.weight"] == (2, 4, 1, 1)


def test_a_residual_stream_is_cut_as_one() -> None:
    def function(x: torch.Tensor, a: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        stream = F.linear(x, a)
        return F.linear(stream + F.linear(stream.relu(), w), v)

    weights = {"a": dead(rand(6, 4), 0, 1), "w": dead(rand(6, 6), 1, 2), "v": rand(3, 6, seed=1)}
    before = program(function, rand(2, 4), **weights)
    after = applied(EliminateDeadWeights(), before).program
    assert shapes(after) == {"a": (5, 4), "w": (5, 5), "v": (3, 5)}


class Attention(nn.Module):
    def __init__(self, heads: int = 4, width: int = 16) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.o(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("what", ["values", "columns"])
def test_heads_go(what: str) -> None:
    module = Attention()
    with torch.no_grad():
        for head in (slice(0, 4), slice(8, 12)):
            if what == "columns":
                module.o.weight[:, head] = 0
            else:
                module.v.weight[head], module.v.bias[head] = 0, 0
    after = applied(EliminateDeadWeights(), program(module, rand(2, 5, 16), dynamic=True)).program
    sizes = shapes(after)
    assert [sizes[f"{n}.weight"] for n in "qkvo"] == [(8, 16), (8, 16), (8, 16), (16, 8)]


def test_the_width_of_heads_goes_and_the_scale_stays() -> None:
    module = Attention()
    with torch.no_grad():
        for layer in (module.q, module.k):
            rows = torch.arange(16).reshape(4, 4)[:, 1]
            layer.weight[rows], layer.bias[rows] = 0, 0
    after = applied(EliminateDeadWeights(), program(module, rand(2, 5, 16))).program
    assert shapes(after)["q.weight"] == (12, 16)
    assert shapes(after)["v.weight"] == (16, 16)
    (attention,) = [n for n in after.calls() if "attention" in str(n.target)]
    assert attention.kwargs["scale"] == 0.5


def test_gates_joins_and_parts() -> None:
    def function(x: torch.Tensor, g: torch.Tensor, u: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        gate, up = F.linear(x, torch.cat([g, u])).chunk(2, -1)
        joined = torch.cat([F.silu(gate) * up, x], -1)
        return F.linear(joined, d)

    before = program(function, rand(2, 4), g=dead(rand(6, 4), 0), u=dead(rand(6, 4), 3), d=rand(3, 10))
    after = applied(EliminateDeadWeights(), before).program
    assert shapes(after) == {"g": (4, 4), "u": (4, 4), "d": (3, 8)}


def test_embedding_dimensions_go() -> None:
    def function(i: torch.Tensor, e: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.linear(F.embedding(i, e), w)

    before = program(
        function, torch.tensor([[1, 2, 0]]), e=dead(rand(9, 6), 2, dim=1), w=dead(rand(3, 6), 5, dim=1)
    )
    assert shapes(applied(EliminateDeadWeights(), before).program) == {"e": (9, 4), "w": (3, 4)}


def test_tied_weights_stay_tied() -> None:
    module = zoo.TiedEncoder()
    with torch.no_grad():
        for layer in module.encoder.layers:
            layer.linear1.weight[:8], layer.linear1.bias[:8] = 0, 0
    before = program(module.eval(), zoo.tokens(2, 6, 50))
    after = applied(EliminateDeadWeights(), before).program
    assert after.ties == before.ties
    assert after.weights["embed.weight"] is before.weights["embed.weight"]


def test_names_ties_and_origins_are_kept() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False), nn.Linear(6, 3)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = F.pad(x, (0, 2))
            return self.c(self.b(self.a(h).relu()).relu())

    module = Shared()
    with torch.no_grad():
        module.a.weight[2], module.a.weight[:, 2] = 0, 0
    before = program(module, rand(2, 4))
    after = applied(EliminateDeadWeights(), before).program
    assert after.ties == before.ties == {"b.weight": "a.weight"}
    modules = [origins_of(n)[0].module for n in after.calls() if "linear" in n.name or n.name in "abc"]
    assert set(modules) <= {"a", "b", "c", ""}


@pytest.mark.parametrize(
    ("function", "blocker"),
    [
        (lambda x: F.layer_norm(x, [6]), "layer_norm"),
        (lambda x: x.softmax(-1), "softmax"),
        (lambda x: x.mean(-1, keepdim=True), "mean"),
        (lambda x: x.cumsum(-1), "cumsum"),
        (lambda x: x.sort(-1).values, "sort"),
        (lambda x: x, "output"),
        (lambda x: x.pow(2).mean(-1, keepdim=True).rsqrt() * x, "mean"),
    ],
)
def test_what_needs_all_positions_blocks(function: Callable[..., torch.Tensor], blocker: str) -> None:
    before = program(lambda x, w: function(F.linear(x, w)), rand(2, 4), w=dead(rand(6, 4), 1, 2))
    (reason,) = unchanged(EliminateDeadWeights(), before)
    assert reason.startswith("2 of 6 rows of w are dead, blocked by")
    assert blocker in reason


def test_unaligned_rows_of_heads_stay() -> None:
    module = Attention()
    with torch.no_grad():
        module.v.weight[[0, 5, 10]], module.v.bias[[0, 5, 10]] = 0, 0
    assert any("v.weight" in r for r in unchanged(EliminateDeadWeights(), program(module, rand(2, 5, 16))))


def test_a_layer_that_is_all_dead_keeps_a_row() -> None:
    before = program(
        two_layers, rand(2, 4), w=torch.zeros(6, 4), b=torch.zeros(6), v=rand(3, 6), dynamic=True
    )
    after = applied(EliminateDeadWeights(), before).program
    assert shapes(after)["w"][0] <= 1


def test_outputs_and_inputs_keep_their_sizes() -> None:
    before = program(
        lambda x, w: F.linear(x, w), rand(2, 4), w=dead(dead(rand(6, 4), 1), 2, dim=1), dynamic=True
    )
    unchanged(EliminateDeadWeights(), before)


def test_the_callers_weights_are_untouched() -> None:
    module, (_, args) = masked("digits"), zoo.model("digits")
    before = double_program(trace(module, args))
    copies = {n: t.clone() for n, t in before.weights.items()}
    PassManager.of([EliminateDeadWeights()]).run(before)
    assert all(torch.equal(t, copies[n]) for n, t in before.weights.items())


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
def test_files_are_smaller(target: str) -> None:
    module, (_, args) = masked("digits"), zoo.model("digits")
    before = trace(module, args, dynamic_shapes=zoo.dynamic_batch(args))
    after = PassManager.of([EliminateDeadWeights()]).run(before).program
    small, large = lower(after, target), lower(before, target)
    assert small.report is not None
    assert small.report.verdict is Verdict.EQUIVALENT
    assert small.size < 0.5 * large.size


def test_prune_parametrisations_are_folded_first() -> None:
    from torch.nn.utils import prune

    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    prune.ln_structured(module[0], "weight", 0.5, n=2, dim=0)
    prune.l1_unstructured(module[0], "bias", 0)
    with torch.no_grad():
        module[0].bias[module[0].weight.abs().sum(1) == 0] = 0
    after = PassManager.parse("clean,eliminate-dead-weights").run(program(module, rand(2, 4))).program
    assert sorted(t.shape[0] for t in after.weights.values() if t.dim() == 2) == [3, 4]


@pytest.mark.parametrize("seed", [274, 276])
def test_what_weights_alone_compute_is_kept(seed: int) -> None:
    """All of a net from a dead stem on is a known image: what its slices are depends on what it is made of."""
    check_random_masks("unet", seed, dynamic=False)


def test_a_known_image_of_a_norm_keeps_what_the_norm_counts() -> None:
    def function(
        x: torch.Tensor, image: torch.Tensor, w: torch.Tensor, a: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        h = F.group_norm(F.conv2d(image, w, padding=1), 1)
        return F.conv2d(F.conv2d(h, a, padding=1) + x, v)

    image = torch.ones(1, 3, 6, 6)
    w = dead(rand(4, 3, 3, 3), 1)
    weights = {"image": image, "w": w, "a": dead(rand(4, 4, 3, 3), 2), "v": dead(rand(2, 4, 1, 1), 3, dim=1)}
    before = double_program(program(function, rand(2, 4, 6, 6), **weights))
    after = PassManager.of([EliminateDeadWeights()]).run(before).program
    assert error(before, after, [rand(2, 4, 6, 6)]) < 1e-12


def test_an_empty_slice_of_a_weight() -> None:
    def function(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.matmul(x[:, :0], w[:0]) + b

    before = double_program(program(function, rand(2, 4), w=rand(4, 3), b=rand(3)))
    after = PassManager.of([EliminateDeadWeights()]).run(before).program
    assert sorted(t.shape[0] for t in after.weights.values()) == [1, 3]
    assert error(before, after, [rand(2, 4)]) == 0
