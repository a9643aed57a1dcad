"""simplify-einsum: contractions of two operands become matrix products."""

import pytest
import torch

from fxopt.frontend import trace
from fxopt.passes.simplify.simplify_einsum import SimplifyEinsum
from fxopt.pipeline import PassManager
from fxopt.testing import check_pass
from tests.passes.helpers import Function, applied, at_sizes, calls, program, rand, structure, unchanged

EINSUM = SimplifyEinsum()
Q, K = rand(2, 3, 4, 5), rand(2, 6, 4, 5, seed=1)


def of(equation: str):
    return lambda *operands: torch.einsum(equation, *operands)


PRODUCTS = {
    "rows and columns": ("ij,jk->ik", (3, 4), (4, 5), ["matmul"]),
    "transposed": ("ij,kj->ik", (3, 4), (5, 4), ["permute", "matmul"]),
    "the right first": ("jk,ij->ik", (4, 5), (3, 4), ["matmul"]),
    "implicitly": ("ij,jk", (3, 4), (4, 5), ["matmul"]),
    "implicitly transposed": ("kj,ji", (5, 4), (4, 3), ["permute", "permute", "matmul"]),
    "a batch": ("bij,bjk->bik", (2, 3, 4), (2, 4, 5), ["matmul"]),
    "a batch in the middle": ("ibj,bjk->ibk", (3, 2, 4), (2, 4, 5), ["permute", "matmul", "permute"]),
    "scores": ("bhid,bhjd->bhij", (2, 3, 4, 5), (2, 3, 6, 5), ["permute", "matmul"]),
    "heads inside": ("b i h d, b j h d -> b h i j", (2, 3, 4, 5), (2, 6, 4, 5), ["permute", "permute", "matmul"]),
    "values": ("bhij,bjhd->bihd", (2, 4, 3, 6), (2, 6, 4, 5), ["permute", "matmul", "permute"]),
    "a projection": ("btd,dk->btk", (2, 3, 4), (4, 5), ["matmul"]),
    "to heads": ("btd,dhk->bhtk", (2, 3, 4), (4, 2, 6), ["flatten", "matmul", "unflatten", "permute"]),
    "from heads": ("bhtk,hkd->btd", (2, 4, 3, 5), (4, 5, 6), ["permute", "flatten", "flatten", "matmul"]),
    "rows of a batch": ("bxyd,bkd->bxyk", (2, 3, 4, 5), (2, 6, 5), ["permute", "flatten", "matmul", "unflatten"]),
    "any axes": ("...ij,...jk->...ik", (2, 3, 4, 5), (2, 3, 5, 6), ["matmul"]),
    "any axes of one": ("...j,jk->...k", (2, 3, 4), (4, 5), ["matmul"]),
    "columns that come first": ("bij,jk->kbi", (2, 3, 4), (4, 5), ["permute", "flatten", "permute", "matmul", "unflatten"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str):
    equation, left, right, expected = PRODUCTS[name]
    after = applied(EINSUM, program(of(equation), rand(*left), rand(*right, seed=1))).program
    assert sorted(calls(after)) == sorted(expected)


BY_BATCH = [
    n for n, (e, left, right, _) in PRODUCTS.items() if e.replace(" ", "")[0] == "b" and left[0] == right[0]
]


@pytest.mark.parametrize("name", BY_BATCH)
def test_of_a_dynamic_batch(name: str):
    equation, left, right, expected = PRODUCTS[name]
    before = program(of(equation), rand(*left), rand(*right, seed=1), dynamic=True)
    assert sorted(calls(applied(EINSUM, before).program)) == sorted(expected)


def test_before_and_after():
    after = applied(EINSUM, program(of("bihd,bjhd->bhij"), Q, K, dynamic=True)).program
    expected = program(lambda q, k: q.permute(0, 2, 1, 3) @ k.permute(0, 2, 3, 1), Q, K, dynamic=True)
    assert sorted(structure(after)[2:]) == sorted(structure(expected)[2:])


def test_tensordot():
    before = program(lambda x, y: torch.tensordot(x, y, dims=([1, 3], [1, 0])), Q, rand(5, 3, 6))
    after = applied(EINSUM, before).program
    assert calls(after) == ["permute", "flatten", "permute", "flatten", "matmul"]


def test_of_one_value():
    assert calls(
        applied(EINSUM, program(lambda x: torch.einsum("bij,bkj->bik", x, x), rand(2, 3, 4))).program
    ) == [
        "permute",
        "matmul",
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_precisions(dtype: torch.dtype):
    x, y = (rand(3, 4) * 3).to(dtype), (rand(4, 5) * 3).to(dtype)
    assert calls(applied(EINSUM, program(of("ij,jk->ik"), x, y)).program) == ["matmul"]


def test_operands_of_two_dtypes_stay():
    """Which einsum takes where the contracted axis is of size 1."""
    before = program(of("ij,kj->ik"), rand(1, 1), torch.ones(1, 1, dtype=torch.int32))
    assert unchanged(EINSUM, before) == ["its operands are of two dtypes"]


NONE = {
    "one operand": ("ij->ji", [(3, 4)], "it is no product of two operands"),
    "three operands": ("ij,jk,kl->il", [(3, 4), (4, 5), (5, 6)], "it is no product of two operands"),
    "a diagonal": ("ii,ij->ij", [(3, 3), (3, 4)], "it is no product of two operands"),
    "an outer product": ("i,j->ij", [(3,), (4,)], "it contracts no axis"),
    "an elementwise product": ("ij,ij->ij", [(3, 4), (3, 4)], "it contracts no axis"),
    "a dot product": ("ij,ij->i", [(3, 4), (3, 4)], "an operand has no axis of its own"),
    "a vector": ("ij,j->i", [(3, 4), (4,)], "an operand has no axis of its own"),
    "a sum of the left": ("ij,k->ik", [(3, 4), (5,)], "it sums over an axis of one operand"),
    "a sum of the right": ("ij,jkl->ik", [(3, 4), (4, 5, 6)], "it sums over an axis of one operand"),
    "sizes that broadcast": ("ij,jk->ik", [(3, 1), (4, 5)], "its operands broadcast: 1 and 4 are one axis"),
    "a batch that broadcasts": (
        "...ij,...jk->...ik", [(1, 3, 4), (2, 4, 5)], "its operands broadcast: 1 and 2 are one axis",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_product_stays(name: str):
    equation, shapes, why = NONE[name]
    assert unchanged(EINSUM, program(of(equation), *(rand(*s, seed=i) for i, s in enumerate(shapes)))) == [
        why
    ]


WEIGHTS = {
    "left": lambda x, w: torch.einsum("jk,btj->kbt", w, x),
    "right": lambda x, w: torch.einsum("btj,jk->kbt", x, w),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_a_weight_is_on_the_right(name: str, dynamic: bool):
    before = program(WEIGHTS[name], rand(2, 3, 4), w=rand(4, 5), dynamic=dynamic)
    assert calls(applied(EINSUM, before).program) == ["matmul", "permute"]


def test_the_other_order_where_axes_of_a_dynamic_size_would_be_split():
    function = of("jk,btj->kbt")
    before = program(function, rand(4, 5), rand(2, 3, 4), dynamic=False)
    assert calls(applied(EINSUM, before).program)[-1] == "unflatten"
    before = trace(Function(function, {}), (rand(4, 5), rand(2, 3, 4)), dynamic_shapes=[None, {0: "batch"}])
    assert calls(applied(EINSUM, before).program) == ["matmul", "permute"]


def test_dynamic_rows_of_a_batch_are_not_split():
    before = program(
        lambda x, w: torch.einsum("bhd,hkd->bhk", x, w), rand(2, 3, 4), w=rand(3, 5, 4), dynamic=True
    )
    assert calls(applied(EINSUM, before).program) == ["permute", "permute", "matmul", "permute"]
    before = program(lambda x, w: torch.einsum("bthd,hkd->bthk", x, w), Q, w=rand(4, 5, 5), dynamic=True)
    assert unchanged(EINSUM, before) == ["an axis of a dynamic size would be split again"]


def test_at_other_sizes():
    before = program(of("bhij,bjhd->bihd"), rand(2, 4, 3, 6), K[..., :], dynamic=True)
    after = applied(EINSUM, before).program
    at_sizes(before, after, (1, 2, 5))


def test_weights_become_linear_layers():
    def function(x, w, v, b):
        heads = torch.einsum("btd,dhk->bhtk", x, w)
        return torch.einsum("bhtk,hkd->btd", heads.relu(), v) + b

    weights = {"w": rand(4, 2, 6), "v": rand(2, 6, 5, seed=1), "b": rand(5)}
    after = PassManager.parse("O1").run(program(function, rand(2, 3, 4), dynamic=True, **weights)).program
    assert calls(after) == ["linear", "unflatten", "relu", "flatten", "linear"]


def test_drawn_programs():
    check_pass(EINSUM, examples=15, min_fired=0.2, targets=())
