"""What is stored of a rounded weight: the smallest integers that hold it, once."""

import pytest
import torch
import torch.nn.functional as F

from fxopt.ops import fake_quantize
from fxopt.passes.quantize._integer_weights import StoreIntegerWeights, _type_for
from fxopt.pipeline import PassManager, PipelineResult
from fxopt.program import Program
from tests.passes.helpers import calls, program, rand, reasons

ZERO = torch.tensor(0)


def stored(before: Program) -> PipelineResult:
    return PassManager.of([StoreIntegerWeights()]).run(before)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (-128, 127, torch.int8), (0, 127, torch.int8), (0, 128, torch.uint8), (0, 255, torch.uint8),
        (-1, 128, torch.int16), (-129, 0, torch.int16), (0, 32767, torch.int16), (0, 65535, torch.int32),
        (-(2**31), 2**31 - 1, torch.int32), (0, 2**31, None), (-(2**31) - 1, 0, None),
    ],
)  # fmt: skip
def test_the_smallest_type(low: int, high: int, dtype: torch.dtype | None) -> None:
    assert _type_for(low, high) is dtype


def test_the_same_integers_are_stored_once() -> None:
    def net(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor, t: torch.Tensor, z: torch.Tensor):
        same = (fake_quantize(w, s, z, -128, 127), fake_quantize(w, s, z, -128, 127))
        return (
            F.linear(x, same[0]),
            F.linear(x.relu(), same[1]),
            F.linear(x, fake_quantize(w, t, z, -128, 127)),
        )

    before = program(net, rand(2, 6), w=rand(5, 6), s=torch.tensor(0.02), t=torch.tensor(0.03), z=ZERO)
    after = stored(before).program
    assert calls(after).count("dequantize") == 3
    assert sum(w.dtype is torch.int8 for w in after.weights.values()) == 2
    assert torch.equal(after(rand(2, 6))[2], before(rand(2, 6))[2])


def test_a_range_that_no_type_holds_stays() -> None:
    before = program(
        lambda x, w, s, z: F.linear(x, fake_quantize(w, s, z, 0, 2**40)),
        rand(2, 6),
        w=rand(5, 6),
        s=torch.tensor(0.02),
        z=ZERO,
    )
    result = stored(before)
    assert not result.passes[0].changed
    assert reasons(result) == [f"no integer type holds 0 to {2**40}"]


def test_what_is_no_weight_stays() -> None:
    before = program(lambda x, s, z: fake_quantize(x, s, z, 0, 255), rand(2, 6), s=torch.tensor(0.02), z=ZERO)
    assert not stored(before).passes[0].changed
