"""Ties settled by index: the same values as the op's own, and accepted by the judge where the op settles them otherwise."""

import pytest
import torch
from torch import nn

from fxopt.frontend import trace
from fxopt.report import Verdict
from fxopt.verification.subjects import Subject, subject_of
from fxopt.verification.ties import IN_ORDER
from fxopt.verification.verify import verify_runs

aten = torch.ops.aten
DISTINCT = torch.randperm(60, generator=torch.Generator().manual_seed(0)).reshape(3, 20).float()
EQUAL = torch.zeros(2, 20)
CALLS = [
    (aten.sort.default, (1, True)),
    (aten.sort.default, (-1, False)),
    (aten.argsort.default, (0, True)),
    (aten.topk.default, (5, 1, True, True)),
    (aten.topk.default, (3, -1, False, True)),
    (aten.kthvalue.default, (4, 1, True)),
    (aten.median.dim, (1, False)),
]


@pytest.mark.parametrize(("op", "args"), CALLS, ids=lambda v: str(v))
def test_without_ties_it_is_the_op(op: torch._ops.OpOverload, args: tuple[object, ...]) -> None:
    torch.testing.assert_close(tuple(IN_ORDER[op](DISTINCT, *args)), tuple(op(DISTINCT, *args)))


def test_a_median_with_nan() -> None:
    holes = torch.where(DISTINCT[1, 7] == DISTINCT, torch.nan, DISTINCT)
    got, expected = IN_ORDER[aten.median.dim](holes, 1), aten.median.dim(holes, 1)
    torch.testing.assert_close(tuple(got), tuple(expected), equal_nan=True)  # type: ignore[call-overload]


def test_ties_come_in_order() -> None:
    for op, args in CALLS[:2]:
        assert IN_ORDER[op](EQUAL, *args)[1][0].tolist() == list(range(20))  # type: ignore[index]


class Sorting(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sort(x, 1)[1]


def _judged(order: torch.Tensor) -> Verdict:
    program = trace(Sorting().eval(), (torch.randn(2, 20),))
    candidate = Subject(program.signature, run=lambda tensors: [order])
    return verify_runs(subject_of(program), candidate, inputs=[(EQUAL,)]).verdict


def test_the_judge_takes_ties_in_order_and_no_other_way() -> None:
    assert _judged(torch.arange(20).expand(2, 20)) is Verdict.EQUIVALENT
    assert _judged(torch.arange(20).roll(3).expand(2, 20)) is Verdict.DIFFERENT
