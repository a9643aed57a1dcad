"""fuse-conv-bn: every kind of convolution, and each reason to leave the two as they are."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxopt.passes.fuse.fuse_conv_bn import FuseConvBn
from fxopt.pipeline import PassManager
from fxopt.testing import ProgramBuilder, check_pass
from fxopt.verification import check_programs, double_program
from tests.passes.helpers import applied, calls, program, rand, reasons, structure, unchanged
from tests.zoo import randomise_statistics

FUSE = FuseConvBn()

CONVS: dict[int, tuple[type[nn.Module], type[nn.Module], type[nn.Module]]] = {
    1: (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d),
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d),
}

OPTIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "no bias": {"bias": False},
    "strided": {"stride": 2, "padding": 1},
    "dilated": {"dilation": 2},
    "grouped": {"groups": 2},
    "depthwise": {"groups": 4},
    "grouped without bias": {"groups": 2, "bias": False},
}


def pair(
    rank: int, options: dict[str, object], *, transposed: bool = False, affine: bool = True, out: int = 8
) -> nn.Sequential:
    """A convolution of 4 channels to 8 and a BatchNorm, weights and statistics drawn."""
    conv, transpose, norm = CONVS[rank]
    torch.manual_seed(0)
    layer = (transpose if transposed else conv)(4, out, 3, **options)
    model = nn.Sequential(layer, norm(out, affine=affine, eps=1e-3))
    return drawn(model)


def drawn(model: nn.Module) -> nn.Module:
    """Statistics and affine parameters that a wrong fold can't hide behind."""
    randomise_statistics(model)
    with torch.no_grad():
        for i, module in enumerate(
            m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine
        ):
            module.weight.copy_(rand(module.num_features, seed=i) + 2)
            module.bias.copy_(rand(module.num_features, seed=i + 1))
    return model.eval()


def image(rank: int, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return rand(2, 4, *([7] * rank), dtype=dtype)


def test_before_and_after():
    """What it is for: two calls become one, the weights are folded, nothing else is left."""
    model = pair(2, {})
    after = applied(FUSE, program(model, image(2), dynamic=True)).program
    assert structure(after) == structure(program(model[0], image(2), dynamic=True))
    assert len(after.weights) == 2
    expected = model(image(2))
    torch.testing.assert_close(after(image(2)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
@pytest.mark.parametrize("options", OPTIONS)
def test_kinds_of_convolution(rank: int, transposed: bool, options: str):
    before = program(pair(rank, OPTIONS[options], transposed=transposed), image(rank), dynamic=rank == 2)
    name = f"conv_transpose{rank}d" if transposed else f"conv{rank}d"
    assert calls(applied(FUSE, before).program) == [name]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_output_padding(rank: int):
    model = pair(rank, {"stride": 2, "output_padding": 1, "groups": 2}, transposed=True)
    assert calls(applied(FUSE, program(model, image(rank))).program) == [f"conv_transpose{rank}d"]


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_without_affine_parameters(transposed: bool):
    before = program(pair(2, {}, transposed=transposed, affine=False), image(2))
    assert len(calls(applied(FUSE, before).program)) == 1


@pytest.mark.parametrize(("gamma", "beta"), [(True, False), (False, True)])
def test_with_one_affine_parameter(gamma: bool, beta: bool):
    def function(x, w, mean, var, **affine):
        return F.batch_norm(F.conv2d(x, w), mean, var, affine.get("gamma"), affine.get("beta"))

    weights = {"w": rand(8, 4, 3, 3), "mean": rand(8), "var": rand(8).abs() + 0.5}
    weights |= {"gamma": rand(8, seed=1)} if gamma else {}
    weights |= {"beta": rand(8, seed=2)} if beta else {}
    assert calls(applied(FUSE, program(function, image(2), **weights)).program) == ["conv2d"]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [3, 2])
def test_padding_by_name(padding: str, kernel: int):
    """`same` with an even kernel pads first: the convolution itself fuses all the same."""
    model = drawn(nn.Sequential(nn.Conv2d(4, 8, kernel, padding=padding), nn.BatchNorm2d(8)))
    after = applied(FUSE, program(model, image(2))).program
    assert calls(after) == (["constant_pad_nd"] if (padding, kernel) == ("same", 2) else []) + ["conv2d"]


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_padding_modes(mode: str):
    model = drawn(nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, padding_mode=mode), nn.BatchNorm2d(8)))
    assert "batch_norm" not in calls(applied(FUSE, program(model, image(2))).program)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    """The fold is computed in float64 and rounded once to the weight's own dtype."""
    before = program(pair(2, {}).to(dtype), image(2, dtype=dtype))
    after = applied(FUSE, before).program
    assert calls(after) == ["conv2d"]
    assert {w.dtype for w in after.weights.values()} == {dtype}


def test_a_norm_in_float32_over_a_convolution_in_half_precision():
    """Mixed precision as it is used: the folded weights have the convolution's dtype."""
    model = pair(2, {}).half()
    model[1].float()
    before = program(model, image(2, dtype=torch.float16))
    after = applied(FUSE, before).program
    assert calls(after) == ["conv2d"]
    assert {w.dtype for w in after.weights.values()} == {torch.float16}


def test_the_fold_is_rounded_once():
    model = pair(2, {})
    after = applied(FUSE, program(model, image(2))).program
    conv, norm = model.double()
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    weight = (conv.weight * scale.reshape(-1, 1, 1, 1)).float()
    bias = ((conv.bias - norm.running_mean) * scale + norm.bias).float()
    folded = sorted(after.weights.values(), key=torch.Tensor.dim)
    assert torch.equal(folded[0], bias)
    assert torch.equal(folded[1], weight)


def test_two_norms_over_one_shared_weight():
    """Each convolution gets its own copy; the weight itself is gone."""
    conv, first, second = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    after = applied(
        FUSE, program(drawn(nn.Sequential(conv, first, nn.ReLU(), conv, second)), image(2), dynamic=True)
    ).program
    assert calls(after) == ["conv2d", "relu", "conv2d"]
    assert len(after.weights) == 4


def test_a_weight_that_another_call_uses_is_kept_for_it():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x)) + self.conv(x.relu())

    after = applied(FUSE, program(drawn(Shared()), image(2))).program
    assert "batch_norm" not in calls(after)
    assert len(after.weights) == 4


def test_back_to_back():
    layers = [
        layer for _ in range(4) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    ]
    result = applied(FUSE, program(drawn(nn.Sequential(*layers)), image(2), dynamic=True))
    assert calls(result.program) == ["conv2d", "relu"] * 4
    assert result.passes[0].rules == {"fuse-conv2d-bn": 4}


def test_two_norms_in_a_row_both_fold():
    model = drawn(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8)))
    result = applied(FUSE, program(model, image(2)))
    assert calls(result.program) == ["conv2d"]
    assert result.passes[0].rewrites == 2


def test_the_fused_call_comes_from_both_layers():
    after = applied(FUSE, program(pair(2, {}), image(2))).program
    [conv] = after.calls()
    assert [o.module for o in conv.meta["origins"]] == ["1", "0"] or {
        o.module for o in conv.meta["origins"]
    } == {"0", "1"}


def test_one_channel_and_batches_of_one():
    before = program(pair(2, {}, out=1), image(2)[:1], dynamic=True)
    assert calls(applied(FUSE, before).program) == ["conv2d"]


def test_float64_programs_fuse_by_the_same_rules():
    before = program(pair(2, {"groups": 2}), image(2))
    wide = double_program(before)
    narrow, double = (PassManager.of([FUSE]).run(p) for p in (before, wide))
    assert narrow.passes[0].rules == double.passes[0].rules == {"fuse-conv2d-bn": 1}
    assert check_programs(wide, double.program, "equivalent").ok


# What must not fire, each with the reason that is given.


def norm(y: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, **more: object) -> torch.Tensor:
    return F.batch_norm(y, mean, var, **more)  # type: ignore[arg-type]


WEIGHTS = {"w": rand(8, 4, 3, 3), "mean": rand(8), "var": rand(8).abs() + 0.5}


def test_a_convolution_with_another_user_stays():
    def function(x, w, mean, var):
        y = F.conv2d(x, w)
        return norm(y, mean, var) + y.relu()

    [why] = unchanged(FUSE, program(function, image(2), **WEIGHTS))[:1]
    assert "conv2d" in why
    assert "has another user, relu" in why


def test_a_convolution_that_is_returned_stays():
    def function(x, w, mean, var):
        y = F.conv2d(x, w)
        return norm(y, mean, var), y

    assert "has another user, output" in unchanged(FUSE, program(function, image(2), **WEIGHTS))[0]


@pytest.mark.parametrize("name", ["w", "mean", "var"])
def test_a_weight_that_is_an_input_stays(name: str):
    def function(x, given, **weights):
        weights[name] = given
        return norm(F.conv2d(x, weights["w"]), weights["mean"], weights["var"])

    weights = {k: v for k, v in WEIGHTS.items() if k != name}
    found = unchanged(FUSE, program(function, image(2), WEIGHTS[name], **weights))
    assert found[0] == f"'{name}' (args_1) is not known at compile time"


def test_a_weight_that_is_computed_at_run_time_stays():
    def function(x, w, mean, var):
        return norm(F.conv2d(x, w * x.mean()), mean, var)

    assert "is not known at compile time" in unchanged(FUSE, program(function, image(2), **WEIGHTS))[0]


def test_a_weight_that_is_computed_from_weights_fuses_once_it_is_folded():
    def function(x, w, mean, var):
        return norm(F.conv2d(x, w.flip(3)), mean, var)

    before = program(function, image(2), **WEIGHTS)
    assert "is not known at compile time" in unchanged(FUSE, before)[0]
    after = PassManager.parse("fold-constants,fuse-conv-bn").run(before).program
    assert calls(after) == ["conv2d"]


def test_something_between_the_two_stays():
    model = drawn(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)))
    found = unchanged(FUSE, program(model, image(2)))
    assert any("found aten.relu.default" in why for why in found)


def test_a_norm_before_the_convolution_stays():
    model = drawn(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3)))
    assert unchanged(FUSE, program(model, image(2)))


def test_other_norms_stay():
    for other in (nn.InstanceNorm2d(8, affine=True), nn.GroupNorm(2, 8)):
        before = program(nn.Sequential(nn.Conv2d(4, 8, 3), other), image(2))
        unchanged(FUSE, before)


def test_a_linear_layer_is_no_convolution():
    model = drawn(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)))
    unchanged(FUSE, program(model, rand(2, 4)))


def test_batch_statistics_stay():
    """Tracing refuses them; a program that is made otherwise keeps them."""
    b = ProgramBuilder()
    y = b.call("aten.conv2d", b.input((2, 4, 7, 7)), b.weight((8, 4, 3, 3)), None)
    mean, var = b.weight((8,)), b.weight((8,), kind="positive")
    before = b.finish(b.call("aten.batch_norm", y, None, None, mean, var, True, 0.1, 1e-5, True))
    assert calls(PassManager.of([FUSE]).run(before).program) == ["conv2d", "batch_norm"]


def test_an_unbatched_convolution_stays():
    """[C, H, W] into BatchNorm, which takes axis 1, the height of 8, for the channels."""
    b = ProgramBuilder()
    y = b.call("aten.conv2d", b.input((4, 10, 10)), b.weight((8, 4, 3, 3)), None)
    mean, var = b.weight((8,)), b.weight((8,), kind="positive")
    before = b.finish(b.call("aten.batch_norm", y, None, None, mean, var, False, 0.1, 1e-5, True))
    assert "has no batch axis" in unchanged(FUSE, before)[0]


def test_refusals_are_in_the_report_with_node_and_line():
    def function(x, w, mean, var):
        y = F.conv2d(x, w)
        return norm(y, mean, var), y

    [first, *_] = PassManager.of([FUSE]).run(program(function, image(2), **WEIGHTS)).passes[0].refusals
    assert (first.rule, first.node) == ("fuse-conv2d-bn", "batch_norm")
    assert first.where


def test_drawn_programs():
    patterns = {rule.title: rule.pattern for rule in FUSE.all_rules()}
    motifs = [patterns["fuse-conv2d-bn"], patterns["fuse-conv-transpose1d-bn"]]
    check_pass(FUSE, examples=15, motifs=motifs, min_fired=0.3, targets=())


def test_reasons_are_not_given_where_all_went_well():
    result = applied(FUSE, program(pair(2, {}), image(2)))
    assert not [r for r in reasons(result) if "conv2d" in r and "nearest" in r]
