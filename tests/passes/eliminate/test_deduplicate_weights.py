"""deduplicate-weights: equal bits are stored once."""

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.eliminate.deduplicate_weights import DeduplicateWeights
from fxopt.rewriting import Rewriter
from fxopt.testing import ProgramBuilder, check_pass
from tests.passes.helpers import applied, calls, program, rand, unchanged

DEDUPLICATE = DeduplicateWeights(min_bytes=0)


def both(x: torch.Tensor, v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.linear(F.linear(x, w), v)


def test_a_copy_is_stored_once():
    before = program(both, rand(2, 4), v=rand(4, 4), w=rand(4, 4), dynamic=True)
    assert len(before.weights) == 2
    after = applied(DEDUPLICATE, before).program
    assert calls(after) == ["linear", "linear"]
    assert len(after.weights) == 1


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype):
    w = rand(3, 4).to(dtype)
    before = program(lambda x, v, w: (x * v, x * w), rand(3, 4), v=w, w=w.clone())
    assert len(applied(DEDUPLICATE, before).program.weights) == 1


def test_three_of_which_two_are_equal():
    before = program(lambda x, u, v, w: x + u + v + w, rand(4), u=rand(4), v=rand(4, seed=1), w=rand(4))
    assert len(applied(DEDUPLICATE, before).program.weights) == 2


def test_other_strides_are_no_other_weight():
    before = program(both, rand(2, 4), v=rand(4, 4).t().contiguous().t(), w=rand(4, 4))
    assert len(applied(DEDUPLICATE, before).program.weights) == 1


def test_numbers():
    before = program(lambda x, v, w: x * v + w, rand(4), v=torch.tensor(2.0), w=torch.tensor(2.0))
    assert len(applied(DEDUPLICATE, before).program.weights) == 1


A = rand(20)
LAST = torch.cat([A[:19], A[:1]])
UNEQUAL = {
    "another element": (A, LAST),
    "another shape": (rand(4, 1), rand(1, 4)),
    "another dtype": (torch.zeros(20), torch.zeros(20, dtype=torch.int32)),
    "another sign of zero": (torch.zeros(20), -torch.zeros(20)),
}


@pytest.mark.parametrize("name", UNEQUAL)
def test_what_is_not_equal(name: str):
    v, w = UNEQUAL[name]
    assert (
        unchanged(
            DEDUPLICATE, program(lambda x, v, w: (x + v, x + w), rand(4, 20)[:, : v.shape[-1]], v=v, w=w)
        )
        == []
    )


@pytest.mark.parametrize(("elements", "left"), [(255, 2), (256, 1)])
def test_small_weights_are_left_alone(elements: int, left: int):
    """By default those of less than a kilobyte."""
    w = rand(elements)
    before = program(lambda x, v, w: (x * v, x * w), rand(elements), v=w, w=w.clone())
    assert len(applied(DeduplicateWeights(), before).program.weights) == left


def test_weights_without_values():
    b = ProgramBuilder()
    x, v, w = b.input((4,)), b.weight((4,)), b.weight((4,))
    before = b.finish(b.call("aten.add", b.call("aten.add", x, v), w))
    for name in before.weights:
        before.weights[name] = torch.empty(4, device="meta")
    rewriter = Rewriter(before)
    DEDUPLICATE.run(rewriter)
    assert not rewriter.journal.changed


def test_drawn_programs():
    check_pass(DEDUPLICATE, examples=100, targets=(), min_fired=0.02)
