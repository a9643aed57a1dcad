"""`insert-fake-quant`: which values are rounded, by which numbers, and what stays in float."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.errors import InputError, PassError, PipelineError
from fxopt.lowering import get_target
from fxopt.ops import bind, fake_quantize
from fxopt.passes.quantize._edges import contraction_of
from fxopt.passes.quantize._placement import Placement, placement_names, placement_of, register_placement
from fxopt.passes.quantize.insert_fake_quant import InsertFakeQuant
from fxopt.pipeline import PassManager
from fxopt.program import Program
from fxopt.testing import check_pass
from fxopt.verification import check_programs
from tests.passes.helpers import calls, program, rand, reasons

DATA = [rand(8, 6, seed=s) for s in range(3)]


def quantized(before: Program, data: object = DATA, **options: object) -> Program:
    return PassManager.of([InsertFakeQuant(**options)]).run(before, calibration=data).program


def numbers(after: Program) -> list[tuple[tuple[int, ...], int, int, int]]:
    """The shape, range and zero point of each rounding in order."""
    found = []
    for node in after.calls():
        if node.target is fake_quantize:
            bound = bind(node)
            zero = after.weights[str(bound["zero_point"].target)]
            found.append((tuple(node.meta["val"].shape), bound["quant_min"], bound["quant_max"], int(zero)))
    return found


def layers(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.linear(F.linear(x, w, b).relu(), v)


def two_layers() -> Program:
    return program(layers, rand(8, 6), w=rand(5, 6, seed=1), b=rand(5, seed=2), v=rand(4, 5, seed=3))


def test_weights_biases_and_what_products_read_are_rounded() -> None:
    """The relu is part of the first product; the result stays in float."""
    before = two_layers()
    after = quantized(before)
    assert calls(before) == ["linear", "relu", "linear"]
    assert calls(after) == [
        "fake_quantize", "fake_quantize", "fake_quantize", "linear", "relu",
        "fake_quantize", "fake_quantize", "linear",
    ]  # fmt: skip
    x, w, b, hidden, v = numbers(after)
    assert x[:3] == ((8, 6), 0, 255)
    assert 0 < x[3] < 255, "the input has both signs"
    assert w == ((5, 6), -128, 127, 0)
    assert b == ((5,), -(2**31), 2**31 - 1, 0)
    assert hidden == ((8, 5), 0, 255, 0)
    assert v == ((4, 5), -128, 127, 0)


def test_the_numbers_are_near_the_float_ones() -> None:
    before = two_layers()
    x = DATA[0]
    expected, got = before(x), quantized(before)(x)
    assert 30 < 10 * math.log10(float(expected.square().sum() / (expected - got).square().sum())) < 60


def test_a_weight_has_a_scale_a_channel_which_its_largest_value_sets() -> None:
    after = quantized(two_layers())
    weight = after.weights["w"]
    scale = after.weights["w_scale"]
    assert scale.shape == (5, 1)
    assert torch.allclose(scale[:, 0] * 127, weight.abs().amax(1))
    assert torch.allclose(after.weights["b_scale"], scale[:, 0] * after.weights["args_0_scale"])


@pytest.mark.parametrize(
    ("make", "x", "shape"),
    [
        (lambda: nn.Conv2d(4, 6, 3), rand(2, 4, 5, 5), (6, 1, 1, 1)),
        (lambda: nn.Conv2d(4, 8, 3, groups=2), rand(2, 4, 5, 5), (8, 1, 1, 1)),
        (lambda: nn.Conv2d(4, 4, 3, groups=4), rand(2, 4, 5, 5), (4, 1, 1, 1)),
        (lambda: nn.Conv1d(4, 6, 3), rand(2, 4, 5), (6, 1, 1)),
        (lambda: nn.Linear(4, 3), rand(2, 5, 4), (3, 1)),
    ],
)  # fmt: skip
def test_channels_of_layers(make, x: torch.Tensor, shape: tuple[int, ...]) -> None:
    after = quantized(program(make(), x), [x])
    weight = next(n for n in after.weights if n.endswith("weight_scale"))
    assert after.weights[weight].shape == shape


def test_channels_of_a_matrix_on_the_right() -> None:
    after = quantized(program(lambda x, w: x @ w, rand(8, 6), w=rand(6, 3, seed=1)))
    assert after.weights["w_scale"].shape == (1, 3)


def test_a_sum_is_integer_where_a_product_reads_it() -> None:
    def residual(x, w, v):
        return F.linear((x + F.linear(x, w)).relu(), v)

    before = program(residual, rand(8, 6), w=rand(6, 6, seed=1), v=rand(3, 6, seed=2))
    after = quantized(before)
    assert calls(after) == [
        "fake_quantize", "fake_quantize", "linear", "fake_quantize", "add", "relu",
        "fake_quantize", "fake_quantize", "linear",
    ]  # fmt: skip


def test_a_sum_that_a_norm_reads_stays_in_float() -> None:
    def block(x, w, v):
        return F.linear(F.layer_norm(x + F.linear(x, w), [6]), v)

    after = quantized(program(block, rand(8, 6), w=rand(6, 6, seed=1), v=rand(3, 6, seed=2)))
    assert calls(after) == [
        "fake_quantize", "fake_quantize", "linear", "add", "layer_norm", "fake_quantize", "fake_quantize", "linear",
    ]  # fmt: skip


def test_pooling_and_reshaping_keep_the_scale() -> None:
    def net(x, w, v):
        return F.linear(F.max_pool2d(F.conv2d(x, w), 2).flatten(1), v)

    x = rand(2, 3, 8, 8)
    after = quantized(program(net, x, w=rand(4, 3, 3, 3, seed=1), v=rand(5, 36, seed=2)), [x])
    scales = {
        str(bind(n)["scale"].target) for n in after.calls() if n.target is fake_quantize and bind(n)["x"].op != "get_attr"
    }  # fmt: skip
    assert len(scales) == 2, "one for the input, one for what is convolved, pooled and flattened"
    assert calls(after).count("fake_quantize") == 1 + 1 + 3 + 1


def test_the_result_of_a_last_convolution_is_rounded() -> None:
    """Its integer kernel gives integers."""
    x = rand(2, 3, 5, 5)
    after = quantized(program(lambda x, w: F.conv2d(x, w).relu(), x, w=rand(4, 3, 3, 3, seed=1)), [x])
    assert calls(after) == ["fake_quantize", "fake_quantize", "conv2d", "relu", "fake_quantize"]


def test_a_convolution_that_floats_read_too_is_rounded_for_all() -> None:
    x, w = rand(2, 4, 5, 5), rand(4, 4, 3, 3, seed=1)
    both = program(
        lambda x, w: F.conv2d(F.conv2d(x, w, padding=1).abs() + F.conv2d(x, w, padding=1), w), x, w=w
    )
    after = quantized(both, [x])
    (absolute,) = (n for n in after.calls() if "abs" in str(n.target))
    assert absolute.args[0].target is fake_quantize


@pytest.mark.parametrize(
    ("clip", "inside"),
    [
        (F.relu6, True),
        (lambda y: y.clamp(0, 2), True),
        (lambda y: y.clamp(-1, 1), False),
        (F.hardtanh, False),
    ],
    ids=["relu6", "clamp at zero", "clamp below zero", "hardtanh"],
)
def test_only_clipping_at_zero_is_part_of_the_rounding(clip, inside: bool) -> None:
    x = rand(2, 3, 5, 5)
    after = quantized(
        program(lambda x, w, v: F.conv2d(clip(F.conv2d(x, w)), v), x, w=rand(4, 3, 3, 3), v=rand(4, 4, 1, 1)),
        [x],
    )
    convolution = next(n for n in after.calls() if "conv2d" in str(n.target))
    assert (next(iter(convolution.users)).target is fake_quantize) is not inside


def test_several_readers_share_one_rounding() -> None:
    def two(x, w, v):
        return F.linear(x, w), F.linear(x, v)

    after = quantized(program(two, rand(8, 6), w=rand(3, 6, seed=1), v=rand(2, 6, seed=2)))
    assert calls(after).count("fake_quantize") == 3


def test_a_float_reader_sees_the_float_value() -> None:
    def branch(x, w):
        return F.linear(x, w), x.exp()

    before = program(branch, rand(8, 6), w=rand(3, 6, seed=1))
    after = quantized(before)
    assert torch.equal(after(DATA[0])[1], before(DATA[0])[1])


def test_a_shared_weight_is_rounded_for_each_layer_and_stored_once() -> None:
    def shared(x, w):
        return F.linear(F.linear(x, w), w)

    after = quantized(program(shared, rand(8, 6), w=rand(6, 6, seed=1)))
    assert sum(1 for n in after.weights if n == "w") == 1
    assert calls(after).count("fake_quantize") == 4


# What it leaves alone


@pytest.mark.parametrize(
    ("function", "weights", "why"),
    [
        (lambda x, w: F.linear(x.double(), w.double()), {"w": rand(3, 6)}, "does not compute in float32"),
        (lambda x: x @ x.t(), {}, "products of two activations stay in float"),
        (lambda x, w: torch.addmm(x[:, :3] * 1.5, x, w), {"w": rand(6, 3)}, "no weight by channel"),
        (lambda x, w, b: torch.addmm(b, x, w, beta=2), {"w": rand(6, 3), "b": rand(3)}, "terms are scaled"),
        (lambda w, v: w @ v, None, "no product of an activation"),
        (lambda x, w: F.conv_transpose1d(x[None], w), {"w": rand(8, 2, 3)}, "has no integer kernel"),
    ],
)
def test_products_that_stay_in_float(function, weights, why) -> None:
    if weights is None:
        before = program(lambda x, w, v: x + w @ v, rand(8, 6), w=rand(8, 5), v=rand(5, 6))
    else:
        before = program(function, rand(8, 6), **weights)
    result = PassManager.of([InsertFakeQuant()]).run(before, calibration=DATA)
    assert not result.passes[0].changed
    assert [r for r in reasons(result) if why in r], reasons(result)


def test_sums_that_an_accumulator_does_not_hold_stay_in_float() -> None:
    length = (2**31 - 1) // (255 * 128) + 1
    x = rand(1, length)
    before = program(F.linear, x, weight=rand(1, length, seed=1))
    result = PassManager.of([InsertFakeQuant()]).run(before, calibration=[x])
    assert "may overflow" in reasons(result)[0]
    shorter = program(F.linear, x[:, 1:], weight=rand(1, length - 1, seed=1))
    assert calls(quantized(shorter, [x[:, 1:]]))[0] == "fake_quantize"


def test_a_layer_left_out_by_name_or_op() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    before = program(model, rand(8, 6))
    after = quantized(before, ignore=("2",))
    assert calls(after) == ["fake_quantize", "fake_quantize", "fake_quantize", "linear", "relu", "linear"]
    assert calls(quantized(before, ignore=("linear",))) == calls(before)


def test_a_layer_that_calibration_never_ran() -> None:
    before = program(
        layers, DATA[0], dynamic=True, w=rand(5, 6, seed=1), b=rand(5, seed=2), v=rand(4, 5, seed=3)
    )
    result = PassManager.of([InsertFakeQuant()]).run(before, calibration=[DATA[0][:0]])
    assert reasons(result) == ["it stays in float: calibration never ran it"] * 2
    assert calls(result.program) == calls(before)


def test_a_quantized_program_is_not_quantized_again() -> None:
    after = quantized(two_layers())
    assert "quantized" in after.properties
    with pytest.raises(PipelineError, match="quantized"):
        quantized(after)


# Calibration


def test_calibration_is_needed() -> None:
    with pytest.raises(PipelineError, match="needs calibration data"):
        PassManager.of([InsertFakeQuant()]).run(two_layers())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the calibration data is empty"),
        ([DATA[0], DATA[0] * math.nan], "batch 1 of the calibration data: the input args_0: 48 of 48 values are NaN"),
        ([rand(8, 7)], "batch 0 of the calibration data"),
    ],
)  # fmt: skip
def test_data_that_does_not_do(data: list[torch.Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        quantized(two_layers(), data)


def test_a_layer_whose_values_are_infinite_is_named() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    with torch.no_grad():
        model[0].weight[0, 0] = 3e38
    with pytest.raises(InputError, match=r"the result of 0: .* NaN or infinite"):
        quantized(program(model, rand(8, 6)), [rand(8, 6) * 100])


def test_targets_in_the_data_are_passed_by() -> None:
    labelled = [(x, torch.zeros(8)) for x in DATA]
    before = two_layers()
    assert torch.equal(quantized(before, labelled)(DATA[0]), quantized(before)(DATA[0]))


def test_the_same_data_gives_the_same_numbers() -> None:
    first, second = quantized(two_layers()), quantized(two_layers(), iter(DATA))
    assert str(first) == str(second)
    assert all(torch.equal(t, second.weights[n]) for n, t in first.weights.items())


@pytest.mark.parametrize("observer", ["minmax", "moving-average", "percentile", "entropy", "mse"])
def test_observers(observer: str) -> None:
    before = two_layers()
    got = quantized(before, observer=observer)(DATA[0])
    assert float((got - before(DATA[0])).abs().max()) < 1


@pytest.mark.parametrize(
    "x",
    [torch.zeros(8, 6), torch.full((8, 6), 3.0), torch.full((8, 6), 1e-40), rand(8, 6) + 1e4 * (rand(8, 6) > 2)],
    ids=["zeros", "constant", "denormal", "outlier"],
)  # fmt: skip
def test_inputs_at_the_edge(x: torch.Tensor) -> None:
    after = quantized(two_layers(), [x])
    assert bool(after(x).isfinite().all())
    assert float((after(x) - two_layers()(x)).abs().max()) <= 0.05 * float(x.abs().max()) + 0.1


def test_dead_channels_and_biases_that_outweigh() -> None:
    """A bias of a channel without weights would be out of 32 bits: the channel's scale grows."""
    w = rand(5, 6, seed=1)
    w[2] = 0
    w[3] *= 1e-20
    b = torch.full((5,), 7.0)
    before = program(F.linear, rand(8, 6), weight=w, bias=b)
    got = quantized(before)(DATA[0])
    assert torch.allclose(got[:, 2:4], torch.full((8, 2), 7.0), rtol=1e-4)


def test_an_empty_batch() -> None:
    before = program(layers, rand(8, 6), dynamic=True, w=rand(5, 6), b=rand(5), v=rand(4, 5))
    after = quantized(before, [*DATA, torch.zeros(0, 6)])
    assert after(torch.zeros(0, 6)).shape == (0, 4)


# Placements


def test_a_target_chooses_its_placement() -> None:
    manager = PassManager.parse("int8").placed(get_target("onnx").placement)
    assert manager.expand().endswith("insert-fake-quant{placement=onnx:onnxruntime},correct-bias")
    assert str(manager) == "int8"
    asked = PassManager.parse("insert-fake-quant{placement=generic}").placed("onnx:onnxruntime")
    assert asked.expand() == "insert-fake-quant{placement=generic}"


def test_an_unknown_placement_is_told_with_the_nearest() -> None:
    with pytest.raises(PipelineError, match="no placement 'onnx:onnxrt'; did you mean 'onnx:onnxruntime'"):
        PassManager.parse("insert-fake-quant{placement=onnx:onnxrt}")
    assert placement_names() == sorted(placement_names())


def test_a_placement_of_ones_own(monkeypatch) -> None:
    from fxopt.passes.quantize import _placement

    monkeypatch.setattr(_placement, "_PLACEMENTS", dict(_placement._PLACEMENTS))
    register_placement(Placement(name="mine", per_channel=False, bias=False, product_of_activations=True))
    assert placement_of("mine").name == "mine"
    after = quantized(two_layers(), placement="mine")
    assert after.weights["w_scale"].shape == ()
    assert calls(after).count("fake_quantize") == 4
    both = quantized(program(lambda x: x @ x.t(), rand(8, 6)), placement="mine")
    assert calls(both) == ["permute", "fake_quantize", "fake_quantize", "matmul"]


def test_contractions_are_read_off_the_op_table() -> None:
    before = program(lambda x, w: x.relu() @ w, rand(8, 6), w=rand(6, 3))
    relu, product = before.calls()
    assert contraction_of(relu) == "it is no product"
    found = contraction_of(product)
    assert not isinstance(found, str)
    assert (found.activations, found.weight, found.bias, found.channel) == (("self",), "other", "", 1)


# The contract


def test_drawn_programs() -> None:
    check_pass(InsertFakeQuant(), examples=25)


def test_o1_leaves_the_integers_alone() -> None:
    after = quantized(two_layers())
    again = fxopt.run_pipeline(after, "O1")
    assert calls(again) == calls(after)


def test_the_program_trains() -> None:
    """Gradients reach the weights through the rounding."""
    after = quantized(two_layers())
    module = after.graph_module
    x = DATA[0]
    with torch.enable_grad():
        weights = {
            n: t.detach().clone().requires_grad_(t.is_floating_point()) for n, t in after.weights.items()
        }
        outputs = torch.func.functional_call(module, weights, (x,))
        torch.utils._pytree.tree_leaves(outputs)[0].square().sum().backward()
    assert float(weights["w"].grad.abs().sum()) > 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.weights["args_0_scale"].mul_(1.05),
        lambda p: p.weights["w_scale"].copy_(p.weights["w_scale"].roll(1, 0)),
        lambda p: next(t for n, t in p.weights.items() if n.startswith("zero_point") and int(t)).add_(1),
    ],
    ids=["scale", "axis", "zero point"],
)
def test_wrong_numbers_are_seen(spoil) -> None:
    right = quantized(two_layers())
    wrong = quantized(two_layers())
    with torch.no_grad():
        spoil(wrong)
    assert check_programs(right, right).ok
    assert not check_programs(right, wrong).ok


def test_an_exception_in_the_middle_changes_nothing() -> None:
    before = two_layers()
    text = str(before)
    with pytest.raises((InputError, PassError)):
        quantized(before, [DATA[0], "no tensor"])
    assert str(before) == text


def test_the_budget_of_its_error_is_what_was_asked_for() -> None:
    assert [InsertFakeQuant(max_error=e).budget() for e in (0.0, 0.5, None)] == [0.0, 0.5, None]
    with pytest.raises(PipelineError, match="max_error is -1; expected a share"):
        InsertFakeQuant(max_error=-1.0)
