"""fuse-matmul-add: products with a weight, and the sums that are no bias."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.fuse.fuse_matmul_add import FuseMatmulAdd
from fxopt.pipeline import PassManager
from fxopt.program import origins_of
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

FUSE = FuseMatmulAdd()
CLEAN = PassManager.parse("eliminate-dead-code")

Fn = Callable[..., torch.Tensor]

X, W, B = rand(3, 4), rand(4, 6, seed=1), rand(6, seed=2)
ROWS = rand(6, 4, seed=3)

PRODUCTS: dict[str, tuple[Fn, torch.Tensor]] = {
    "matmul": (lambda x, w, b: x @ w + b, W),
    "bias first": (lambda x, w, b: b + x @ w, W),
    "mm": (lambda x, w, b: torch.mm(x, w) + b, W),
    "addmm": (lambda x, w, b: torch.addmm(b, x, w), W),
    "matmul with the transpose": (lambda x, w, b: x @ w.t() + b, ROWS),
    "matmul with the permuted": (lambda x, w, b: torch.matmul(x, w.permute(1, 0)) + b, ROWS),
    "mm with the transpose": (lambda x, w, b: torch.mm(x, w.mT) + b, ROWS),
    "addmm with the transpose": (lambda x, w, b: torch.addmm(b, x, w.transpose(0, 1)), ROWS),
    "linear without bias": (lambda x, w, b: F.linear(x, w) + b, ROWS),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_products(name: str, dynamic: bool):
    function, w = PRODUCTS[name]
    before = program(function, X, dynamic=dynamic, w=w, b=B)
    after = applied(FUSE, before).program
    expected = program(lambda x, w, b: F.linear(x, w, b), X, dynamic=dynamic, w=ROWS, b=B)
    assert structure(after) == structure(expected)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 1, 3, 4)])
def test_ranks_of_the_input(shape: tuple[int, ...]):
    before = program(lambda x, w, b: x @ w + b, rand(*shape), w=W, b=B)
    assert calls(applied(FUSE, before).program) == ["linear"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    before = program(lambda x, w, b: x @ w + b, X.to(dtype), w=W.to(dtype), b=B.to(dtype))
    assert calls(applied(FUSE, before).program) == ["linear"]


def test_a_transposed_weight_needs_no_bias():
    for function in (lambda x, w: x @ w.t(), lambda x, w: torch.mm(x, w.t())):
        after = applied(FUSE, program(function, X, dynamic=True, w=ROWS)).program
        assert structure(after) == structure(program(lambda x, w: F.linear(x, w), X, dynamic=True, w=ROWS))
    assert unchanged(FUSE, program(lambda x, w: x @ w, X, w=W))


def test_the_weight_stays_where_it_is():
    """No copy is made: of a plain weight the linear layer takes the transposed view."""
    before = program(lambda x, w, b: x @ w + b, X, w=W, b=B)
    after = applied(FUSE, before).program
    assert {t.data_ptr() for t in after.weights.values()} == {t.data_ptr() for t in before.weights.values()}


def test_a_tied_weight_stays_tied():
    """An embedding and the head that uses its transpose: still one weight."""
    before = program(lambda i, w: F.embedding(i, w) @ w.t(), torch.tensor([1, 0, 2]), w=ROWS)
    after = applied(FUSE, before).program
    assert calls(after) == ["embedding", "linear"]
    assert list(after.weights) == ["w"]


def test_a_layer_has_many_of_them():
    def function(x, **weights):
        for i in range(5):
            x = (x @ weights[f"w{i}"] + weights[f"b{i}"]).relu()
        return x

    weights = {f"w{i}": rand(4, 4, seed=i) for i in range(5)} | {f"b{i}": rand(4, seed=i) for i in range(5)}
    result = applied(FUSE, program(function, X, dynamic=True, **weights))
    assert calls(result.program) == ["linear", "relu"] * 5
    assert result.passes[0].rules == {"fuse-matmul-add": 5}


def test_the_fused_call_has_both_sources():
    before = program(lambda x, w, b: x @ w + b, X, w=W, b=B)
    [linear] = applied(FUSE, before).program.calls()
    assert {o.op for o in origins_of(linear)} >= {o.op for n in before.calls() for o in origins_of(n)}


@pytest.mark.parametrize(
    ("b", "shape"),
    [
        (rand(1), "[1]"),
        (rand(3, 6), "[3, 6]"),
        (rand(3, 1), "[3, 1]"),
        (rand(1, 6), "[1, 6]"),
        (rand(2, 3, 6), "[2, 3, 6]"),
    ],
)
def test_a_summand_that_is_no_bias_stays(b: torch.Tensor, shape: str):
    before = program(lambda x, w, b: x @ w + b, X, w=W, b=b)
    assert unchanged(FUSE, before)[0] == f"b is no bias of 6 outputs: it has the shape {shape}"


def test_a_bias_that_makes_the_sum_wider_stays():
    """One output, four summands: the sum has four columns."""
    before = program(lambda x, w, b: x @ w + b, X, w=rand(4, 1), b=rand(4))
    assert unchanged(FUSE, before)[0] == "b is no bias of 1 outputs: it has the shape [4]"


def test_a_scalar_summand_stays():
    unchanged(FUSE, program(lambda x, w: x @ w + 1.0, X, w=W))
    unchanged(FUSE, program(lambda x, w, b: x @ w + b, X, w=W, b=torch.tensor(1.0)))


def test_a_batched_weight_stays():
    before = program(lambda x, w, b: x @ w + b, rand(2, 3, 4), w=rand(2, 4, 6), b=B)
    assert unchanged(FUSE, before)[0] == "w is no matrix: it has the shape [2, 4, 6]"


def test_a_vector_weight_stays():
    before = program(lambda x, w, b: x @ w + b, X, w=rand(4), b=rand(3))
    assert unchanged(FUSE, before)[0] == "w is no matrix: it has the shape [4]"


def test_integers_stay():
    x, w, b = (torch.ones(*s, dtype=torch.int64) for s in ((3, 4), (4, 6), (6,)))
    before = program(lambda x, w, b: x @ w + b, x, w=w, b=b)
    assert unchanged(FUSE, before)[0] == "a linear layer is of floating point, w is torch.int64"


def test_a_bias_of_another_dtype_stays():
    for dtype in (torch.float64, torch.float16, torch.int64):
        assert (
            unchanged(FUSE, program(lambda x, w, b: x @ w + b, X, w=W, b=B.to(dtype)))[0]
            == f"b is {dtype}, w torch.float32"
        )


@pytest.mark.parametrize("which", ["w", "b"])
def test_an_operand_that_is_an_input_stays(which: str):
    def function(x, given, **weights):
        operands = {**weights, which: given}
        return x @ operands["w"] + operands["b"]

    weights = {"w": W, "b": B}
    given = weights.pop(which)
    assert (
        unchanged(FUSE, program(function, X, given, **weights))[0]
        == f"'{which}' (args_1) is not known at compile time"
    )


def test_the_weight_on_the_left_stays():
    before = program(lambda x, w, b: w @ x + b, rand(4, 6), w=rand(3, 4), b=B)
    unchanged(FUSE, before)


def test_a_sum_with_a_factor_stays():
    unchanged(FUSE, program(lambda x, w, b: torch.add(x @ w, b, alpha=2), X, w=W, b=B))
    unchanged(FUSE, program(lambda x, w, b: torch.addmm(b, x, w, beta=2), X, w=W, b=B))
    unchanged(FUSE, program(lambda x, w, b: torch.addmm(b, x, w, alpha=0.5), X, w=W, b=B))


def test_another_summand_than_a_weight_stays():
    unchanged(FUSE, program(lambda x, w: x @ w + x.sum(), X, w=W))


def test_a_product_with_another_user_stays():
    def function(x, w, b):
        y = x @ w
        return y + b, y

    assert "has another user, output" in unchanged(FUSE, program(function, X, w=W, b=B))[0]


def test_a_linear_layer_that_has_a_bias_stays():
    unchanged(FUSE, program(lambda x, w, b: F.linear(x, w, b) + b, X, w=ROWS, b=B))


def test_an_addmm_onto_a_matrix_stays():
    before = program(lambda x, w, b: torch.addmm(b, x, w), X, w=W, b=rand(3, 6))
    assert unchanged(FUSE, before)[0] == "b is no bias of 6 outputs: it has the shape [3, 6]"


def test_drawn_programs():
    check_pass(FUSE, examples=20, min_fired=0.2, targets=())


def test_a_transposed_mm_keeps_its_weight():
    w = rand(5, 4)
    before = program(lambda x, w, b: torch.mm(x, w.permute(1, 0)) + b, rand(3, 4), w=w, b=rand(5, seed=1))
    assert calls(before) == ["permute", "mm", "add"]
    result = applied(FuseMatmulAdd(), before)
    assert calls(result.program) == ["linear"]
    assert set(result.program.weights) == {"w", "b"}


@pytest.mark.parametrize(
    ("function", "rules"),
    [
        (lambda x, w, b: x @ w.permute(1, 0) + b, ("fuse-transposed-matmul", "fuse-linear-add")),
        (lambda x, w, b: torch.mm(x, w.permute(1, 0)) + b, ("fuse-transposed-mm", "fuse-linear-add")),
        (lambda x, w, b: torch.addmm(b, x, w.permute(1, 0)), ("fuse-transposed-addmm",)),
    ],
)
def test_a_transposed_weight_is_fused_before_its_sum(function, rules: tuple[str, ...]):
    result = applied(FuseMatmulAdd(), program(function, rand(3, 4), w=rand(5, 4), b=rand(5, seed=1)))
    assert calls(result.program) == ["linear"]
    assert result.passes[0].rules == dict.fromkeys(rules, 1)
