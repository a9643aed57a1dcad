"""recompose-linear: products with weights, and convolutions of one element, are linear layers."""

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.recompose.recompose_linear import RecomposeLinear
from fxopt.pipeline import PassManager
from fxopt.testing import check_pass
from tests.passes.helpers import applied, at_sizes, calls, program, rand, structure, unchanged

LINEAR = RecomposeLinear()
O1 = PassManager.parse("O1")
X, ROWS, B = rand(2, 3, 4), rand(6, 4, seed=1), rand(6, seed=2)
COLUMNS = ROWS.t().contiguous()

FORMS = {
    "matmul": (lambda x, w: x @ w, COLUMNS),
    "a batch of one": (lambda x, w: x @ w, COLUMNS.unsqueeze(0)),
    "matmul of an expanded weight": (lambda x, w: x @ w.expand(x.shape[0], -1, -1), COLUMNS),
    "bmm": (lambda x, w: torch.bmm(x, w.expand(x.shape[0], -1, -1)), COLUMNS.unsqueeze(0)),
    "on the left": (lambda x, w: (w @ x.mT).mT, ROWS),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_forms(name: str, dynamic: bool):
    function, w = FORMS[name]
    before = program(function, X, dynamic=dynamic, w=w)
    after = PassManager.parse("eliminate-dead-code").run(applied(LINEAR, before).program).program
    assert structure(after) == structure(program(lambda x, w: F.linear(x, w), X, dynamic=dynamic, w=ROWS))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 5, 4)])
def test_ranks(shape: tuple[int, ...]):
    for function in (lambda x, w: x @ w, lambda x, w: torch.mm(x, w) if x.dim() == 2 else x @ w):
        assert calls(applied(LINEAR, program(function, rand(*shape), w=COLUMNS)).program) == ["linear"]


def test_on_the_left_of_a_matrix():
    after = applied(LINEAR, program(lambda x, w: torch.mm(w, x.t()).t(), X[0], w=ROWS)).program
    assert structure(after) == structure(program(lambda x, w: F.linear(x, w), X[0], w=ROWS))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    assert calls(applied(LINEAR, program(lambda x, w: x @ w, X.to(dtype), w=COLUMNS.to(dtype))).program) == [
        "linear"
    ]


def test_the_weight_stays_where_it_is():
    before = program(lambda x, w: x @ w, X, w=COLUMNS)
    after = applied(LINEAR, before).program
    assert {t.data_ptr() for t in after.weights.values()} == {t.data_ptr() for t in before.weights.values()}
    assert list(after.weights) == ["w"]


BIASES = {
    "a column": (lambda y, b: y + b, B[:, None]),
    "first": (lambda y, b: b + y, B[:, None]),
    "of a batch of one": (lambda y, b: y + b, B[None, :, None]),
}


@pytest.mark.parametrize("name", BIASES)
def test_a_bias_by_row(name: str):
    added, b = BIASES[name]
    before = program(lambda x, w, b: added(w @ x.mT, b).mT, X, dynamic=True, w=ROWS, b=b)
    after = applied(LINEAR, before).program
    assert structure(after) == structure(
        program(lambda x, w, b: F.linear(x, w, b), X, dynamic=True, w=ROWS, b=B)
    )


OTHER_SUMS = {
    "by column": (lambda y, b: y + b, rand(3)),
    "by element": (lambda y, b: y + b, rand(6, 3)),
    "of one value": (lambda y, b: y + b, rand(1, 1)),
    "of a batch": (lambda y, b: y + b, rand(2, 6, 1)),
    "of more axes": (lambda y, b: y + b, rand(1, 1, 6, 1)),
    "of a narrower dtype": (lambda y, b: y + b, rand(6, 1).half()),
    "of another dtype": (lambda y, b: (y + b).float(), rand(6, 1).double()),
    "with a factor": (lambda y, b: torch.add(y, b, alpha=2), rand(6, 1)),
    "a number": (lambda y, b: y + 1, rand(6, 1)),
    "a difference": (lambda y, b: y - b, rand(6, 1)),
}


@pytest.mark.parametrize("name", OTHER_SUMS)
def test_another_summand_stays(name: str):
    added, b = OTHER_SUMS[name]
    unchanged(LINEAR, program(lambda x, w, b: added(w @ x.mT, b).mT, X, w=ROWS, b=b))


CONVS = {
    "conv1d": (F.conv1d, (2, 4, 5), (0, 2, 1), (0, 2, 1)),
    "conv2d": (F.conv2d, (2, 4, 5, 3), (0, 2, 3, 1), (0, 3, 1, 2)),
    "conv3d": (F.conv3d, (2, 4, 5, 3, 2), (0, 2, 3, 4, 1), (0, 4, 1, 2, 3)),
}


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("bias", [False, True])
def test_convolutions(name: str, bias: bool):
    conv, shape, back, forth = CONVS[name]
    x = rand(*shape).permute(back).contiguous()
    weights = {"w": rand(6, 4, *[1] * (len(shape) - 2))} | ({"b": B} if bias else {})

    def function(x, w, b=None):
        return conv(x.permute(forth), w, b).permute(back)

    before = program(function, x, dynamic=True, **weights)
    after = applied(LINEAR, before).program
    expected = program(
        lambda x, w, b=None: F.linear(x, w, b), x, dynamic=True, **{**weights, "w": weights["w"].flatten(1)}
    )
    assert structure(after) == structure(expected)
    at_sizes(after, expected, (1, 3))


NO_LAYER = {
    "a stride": lambda x, w: F.conv1d(x.mT, w, stride=2).mT,
    "padding": lambda x, w: F.conv1d(x.mT, w, padding=1).mT,
    "groups": lambda x, w: F.conv1d(x.mT, w[:, :2], groups=2).mT,
    "two elements": lambda x, w: F.conv1d(x.mT, torch.cat([w, w], -1)).mT,
    "not permuted before": lambda x, w: F.conv1d(x, w[:, :3]).mT,
    "not permuted back": lambda x, w: F.conv1d(x.mT, w),
    "permuted otherwise before": lambda x, w: F.conv1d(x.permute(2, 0, 1), w[:, :2]).mT,
    "permuted otherwise back": lambda x, w: F.conv1d(x.mT, w).permute(1, 2, 0),
    "without a batch": lambda x, w: F.conv1d(x[0].mT, w).mT,
    "another user": lambda x, w: (y := F.conv1d(x.mT, w)).mT.sum() + y.sum(),
}


@pytest.mark.parametrize("name", NO_LAYER)
def test_other_convolutions_stay(name: str):
    before = PassManager.parse("clean").run(program(NO_LAYER[name], X, w=rand(6, 4, 1))).program
    assert unchanged(LINEAR, before) == []


STAYS = {
    "a batch of matrices": (lambda x, w: x @ w, rand(2, 4, 6)),
    "a vector": (lambda x, w: x @ w, rand(4)),
    "a weight on the left": (lambda x, w: w @ x.mT, ROWS),
    "of a value that is not transposed": (lambda x, w: (w @ x).mT, rand(6, 3)),
    "that is transposed otherwise": (lambda x, w: (w @ x.mT).permute(1, 0, 2), ROWS),
    "of what is transposed otherwise": (lambda x, w: (w @ x.permute(1, 2, 0)).mT, ROWS),
    "a batch on the left": (lambda x, w: (w @ x.mT).mT, rand(2, 6, 4)),
    "more batches than the input's": (lambda x, w: x[:1] @ w.expand(2, -1, -1), COLUMNS),
    "more axes than the input's": (lambda x, w: x[0] @ w.expand(2, -1, -1), COLUMNS),
    "with another user": (lambda x, w: (y := w @ x.mT).mT.sum() + y.sum(), ROWS),
    "a sum with another user": (lambda x, w: (y := w @ x.mT + w[:, :1]).mT.sum() + y.sum(), ROWS),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_is_no_layer_stays(name: str):
    function, w = STAYS[name]
    assert unchanged(LINEAR, program(function, X, w=w)) == []


def test_a_weight_that_is_an_input_stays():
    assert unchanged(LINEAR, program(lambda x, w: x @ w, X, COLUMNS)) == []


def test_a_weight_with_another_user_stays():
    before = program(lambda x, w: x @ w + w.sum(), X, w=COLUMNS)
    assert unchanged(LINEAR, before) == ["w has another user, for which it stays"]


def test_integers_stay():
    before = program(lambda x, w: x @ w, X.long(), w=COLUMNS.long())
    assert unchanged(LINEAR, before) == ["a linear layer is of floating point, the weight is torch.int64"]


def test_reshapes_around_a_product_go():
    def function(x, w):
        return torch.mm(x.view(-1, 4), w).view(x.shape[0], 3, 6)

    after = O1.run(program(function, X, dynamic=True, w=COLUMNS)).program
    assert structure(after) == structure(program(lambda x, w: F.linear(x, w), X, dynamic=True, w=ROWS))


def test_a_bias_after_it_is_the_layers():
    after = O1.run(program(lambda x, w, b: (w @ x.mT).mT + b, X, w=ROWS, b=B)).program
    assert calls(after) == ["linear"]


def test_drawn_programs():
    check_pass(LINEAR, examples=15, min_fired=0.2, targets=())
