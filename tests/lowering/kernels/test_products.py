"""Which products a kernel takes: each reason why not beside the call that it does take."""

import operator

import pytest
import torch
import torch.nn.functional as F

from fxopt.lowering.kernels.products import Numbers, Product, numbers_of, product_of, range_of
from fxopt.ops import choose_qparams, dequantize, fake_quantize
from fxopt.program import Program
from tests.passes.helpers import program, rand


def numbers(step: float = 0.05, zero: int = 3) -> dict[str, torch.Tensor]:
    return {"xs": torch.tensor(step), "xz": torch.tensor(zero)}


def stored(*shape: int, scale: tuple[int, ...] = (), zero: int = 0, dtype: torch.dtype = torch.int8):
    generator = torch.Generator().manual_seed(0)
    integers = torch.randint(0, 99, shape, generator=generator).to(dtype)
    return {"q": integers, "s": torch.full(scale, 0.1), "z": torch.tensor(zero)}


def linear(x, q, s, z, xs, xz, b=None):
    return F.linear(fake_quantize(x, xs, xz, 0, 255), dequantize(q, s, z), b)


def conv(x, q, s, z, xs, xz):
    return F.conv2d(fake_quantize(x, xs, xz, 0, 255), dequantize(q, s, z))


def found(
    function, *args: torch.Tensor, most_groups: int | None = None, **weights: torch.Tensor
) -> Product | str:
    made = program(function, *args, **weights)
    return product_of(last(made), made.weights, most_groups)


def last(made: Program):
    """The call that gives the output."""
    return made.output_nodes()[0]


X, W = rand(4, 8), stored(6, 8, scale=(6, 1))


def test_a_product_that_a_kernel_takes() -> None:
    got = found(linear, X, **W, **numbers(), b=rand(6))
    assert isinstance(got, Product)
    assert (got.packed.kind, got.packed.weight, got.packed.scale) == ("linear", "q", "s")
    assert (got.packed.bias, got.packed.bias_scale) == ("b", "")
    assert got.rounded.target is fake_quantize
    assert got.weight.target == "q"


def test_a_bias_of_integers() -> None:
    def layer(x, q, s, z, xs, xz, b, bs, bz):
        return F.linear(fake_quantize(x, xs, xz, 0, 255), dequantize(q, s, z), dequantize(b, bs, bz))

    bias = {"b": torch.arange(6, dtype=torch.int32), "bs": torch.ones(6), "bz": torch.tensor(0)}
    got = found(layer, X, **W, **numbers(), **bias)
    assert isinstance(got, Product)
    assert (got.packed.bias, got.packed.bias_scale) == ("b", "bs")


def test_no_bias() -> None:
    got = found(linear, X, **W, **numbers())
    assert isinstance(got, Product)
    assert (got.packed.bias, got.packed.bias_scale) == ("", "")


NOT_ROUNDED = "what it reads is not rounded to 0 to 255"
CASES = {
    "not rounded": (lambda x, q, s, z: F.linear(x, dequantize(q, s, z)), X, W, NOT_ROUNDED),
    "signed": (
        lambda x, q, s, z, xs, xz: F.linear(fake_quantize(x, xs, xz, -128, 127), dequantize(q, s, z)),
        X, {**W, **numbers()}, NOT_ROUNDED,
    ),
    "rounded by row": (linear, X, {**W, "xs": torch.full((4, 1), 0.1), "xz": torch.tensor(3)}, NOT_ROUNDED),
    "a tiny scale": (linear, X, {**W, **numbers(1e-39)}, NOT_ROUNDED),
    "zero points": (linear, X, {**stored(6, 8, scale=(6, 1), zero=1), **numbers()}, "its weight is not int8 around zero"),
    "int16": (
        linear, X, {**stored(6, 8, scale=(6, 1), dtype=torch.int16), **numbers()}, "its weight is not int8 around zero",
    ),
    "scales by input": (
        linear, X, {**stored(6, 8, scale=(1, 8)), **numbers()}, "its scales are not one an output channel",
    ),
    "scales by both": (
        linear, X, {**stored(6, 8, scale=(6, 8)), **numbers()}, "its scales are not one an output channel",
    ),
    "a computed weight": (
        lambda x, q, s, z, xs, xz: F.linear(fake_quantize(x, xs, xz, 0, 255), dequantize(q.neg(), s, z)),
        X, {**W, **numbers()}, "its weight is computed",
    ),
    "floats times": (
        lambda x, q, s, z, xs, xz: F.linear(fake_quantize(x, xs, xz, 0, 255), dequantize(q, s, z) * 2),
        X, {**W, **numbers()}, "",
    ),
    "a vector": (linear, rand(8), {**W, **numbers()}, "what it reads is a vector"),
    "a stack": (
        lambda x, q, s, z, xs, xz: fake_quantize(x, xs, xz, 0, 255) @ dequantize(q, s, z),
        rand(2, 4, 8), {**stored(2, 8, 6, scale=(1, 1, 6)), **numbers()}, "its weight is no matrix",
    ),
    "scaled": (
        lambda x, q, s, z, xs, xz, b: torch.addmm(b, fake_quantize(x, xs, xz, 0, 255), dequantize(q, s, z), alpha=2),
        X, {**stored(8, 6, scale=(1, 6)), **numbers(), "b": rand(6)}, "its terms are scaled",
    ),
    "a bias of a matrix": (
        lambda x, q, s, z, xs, xz, b: torch.addmm(b, fake_quantize(x, xs, xz, 0, 255), dequantize(q, s, z)),
        X, {**stored(8, 6, scale=(1, 6)), **numbers(), "b": rand(4, 6)}, "its bias is no weight by channel",
    ),
    "a computed bias": (
        lambda x, q, s, z, xs, xz, b: F.linear(fake_quantize(x, xs, xz, 0, 255), dequantize(q, s, z), b.neg()),
        X, {**W, **numbers(), "b": rand(6)}, "its bias is no weight by channel",
    ),
    "no batch": (conv, rand(8, 5, 5), {**stored(6, 8, 3, 3, scale=(6, 1, 1, 1)), **numbers()}, "what it reads has no batch"),
    "another op": (
        lambda x, q, s, z, xs, xz: F.conv_transpose2d(fake_quantize(x, xs, xz, 0, 255), dequantize(q, s, z)),
        rand(2, 6, 5, 5), {**stored(6, 8, 3, 3), **numbers()}, "torch has no integer kernel for it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_why_a_kernel_does_not_take_a_call(name: str) -> None:
    function, x, weights, why = CASES[name]
    assert found(function, x, **weights) == why


@pytest.mark.parametrize(
    ("x", "weights"),
    [
        (rand(2, 8, 5, 5), stored(6, 8, 3, 3, scale=(6, 1, 1, 1))),
        (rand(2, 8, 5, 5), stored(6, 8, 3, 3)),
        (rand(2, 8, 5, 5), stored(1, 8, 3, 3, scale=(1, 1, 1, 1))),
    ],
)
def test_convolutions_that_kernels_take(x: torch.Tensor, weights: dict[str, torch.Tensor]) -> None:
    assert isinstance(found(conv, x, **weights, **numbers()), Product)


def test_a_call_whose_sizes_are_not_known() -> None:
    made = program(linear, X, **W, **numbers())
    del last(made).args[0].meta["val"]
    assert product_of(last(made), made.weights, None) == "the sizes of what it reads are not known"


def test_padding_by_a_size() -> None:
    def padded(x, q, s, z, xs, xz):
        return F.conv2d(fake_quantize(x, xs, xz, 0, 255), dequantize(q, s, z), padding=x.shape[0])

    weights = {**stored(6, 8, 3, 3, scale=(6, 1, 1, 1)), **numbers()}
    made = program(padded, rand(2, 8, 5, 5), dynamic=True, **weights)
    assert product_of(last(made), made.weights, None) == "its padding is no number"


def test_numbers_of_a_rounding() -> None:
    made = program(linear, X, **W, **numbers(0.25, 7))
    rounded = last(made).args[0]
    assert numbers_of(rounded, made.weights) == Numbers(0.25, 7)
    made.weights["xs"] = made.weights["xs"].double()
    assert numbers_of(rounded, made.weights) is None, "kernels take float32"
    assert numbers_of(last(made), made.weights) is None
    assert numbers_of(3, made.weights) is None


def test_the_smallest_scale_has_a_reciprocal() -> None:
    least = torch.finfo(torch.float32).tiny
    made = program(linear, X, **W, **numbers(least))
    assert numbers_of(last(made).args[0], made.weights) == Numbers(least, 3)


def by_range(x, y, q, s, z, low: int = 0, high: int = 255, swapped: bool = False, other: bool = False):
    scale, zero = choose_qparams(y if other else x, 0, 255)
    if swapped:
        scale, zero = zero.float(), scale.int()
    return F.linear(fake_quantize(x, scale, zero, low, high), dequantize(q, s, z))


def test_a_rounding_by_the_range_at_each_call() -> None:
    made = program(by_range, X, X + 1, **W)
    rounded = last(made).args[0]
    x, scale, zero = range_of(rounded)
    assert x.op == "placeholder"
    assert (scale.target, scale.args[1], zero.args[1]) == (operator.getitem, 0, 1)
    got = product_of(last(made), made.weights, None)
    assert isinstance(got, Product)
    assert range_of(last(made)) is None
    assert range_of(None) is None


@pytest.mark.parametrize("options", [{"other": True}, {"swapped": True}, {"low": -128, "high": 127}])
def test_a_rounding_by_another_range(options: dict[str, object]) -> None:
    made = program(lambda x, y, q, s, z: by_range(x, y, q, s, z, **options), X, X + 1, **W)
    assert range_of(last(made).args[0]) is None
    assert product_of(last(made), made.weights, None) == NOT_ROUNDED
