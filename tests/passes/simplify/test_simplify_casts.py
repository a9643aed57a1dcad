"""simplify-casts: what holds every number goes, what rounds stays."""

import pytest
import torch

from fxopt.passes.simplify.simplify_casts import SimplifyCasts, _holds
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, unchanged

SIMPLIFY = SimplifyCasts()
bool_, u8, i8, i16, i32, i64 = torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64
f16, bf16, f32, f64 = torch.float16, torch.bfloat16, torch.float32, torch.float64

GONE = [
    (f16, f32, f16), (bf16, f32, bf16), (f16, f64, f32), (f32, f64, f16), (f32, f64, bf16),
    (i8, i32, i8), (u8, i16, i8), (i32, i64, i16), (i8, i16, f32), (i16, f32, f16), (u8, bf16, f32),
    (i32, f64, f32), (i8, f16, i8), (bool_, i8, f32), (bool_, f32, bool_), (i16, f32, i16), (bool_, i64, i32),
    (i8, i16, bool_), (i32, i64, i32),
]  # fmt: skip
KEPT = [
    (f32, f16, f32), (f64, f32, f64), (f16, bf16, f32), (bf16, f16, f32), (i32, f32, f64), (i64, f64, f32),
    (i32, i8, i32), (i8, u8, i32), (u8, i8, i16), (i16, f32, i8), (i16, f16, f32), (f32, i32, f32),
    (f16, f32, i8), (i16, bf16, i16), (i8, bool_, i8), (f32, f64, i32),
]  # fmt: skip


def numbers(dtype: torch.dtype) -> torch.Tensor:
    return (rand(3, 4) * 3).to(dtype)


@pytest.mark.parametrize(("given", "between", "wanted"), GONE)
def test_what_holds_each_number_goes(given: torch.dtype, between: torch.dtype, wanted: torch.dtype):
    before = program(lambda x: x.to(between).to(wanted).clone(), numbers(given), dynamic=True)
    assert calls(before).count("to") == 2
    assert calls(applied(SIMPLIFY, before).program).count("to") == (given != wanted)


@pytest.mark.parametrize(("given", "between", "wanted"), KEPT)
def test_what_loses_some_stays(given: torch.dtype, between: torch.dtype, wanted: torch.dtype):
    before = program(lambda x: x.to(between).to(wanted).clone(), numbers(given))
    assert unchanged(SIMPLIFY, before) == [f"{given} to {between} to {wanted} is not {given} to {wanted}"]


def test_a_chain():
    before = program(lambda x: x.to(f32).to(f64).to(f32).to(f16).clone(), numbers(f16))
    assert calls(applied(SIMPLIFY, before).program).count("to") == 0


def test_one_that_stays_does_not_keep_the_next_from_going():
    before = program(lambda x: x.to(f16).to(f32) + x.to(f64).to(f32), numbers(f32))
    assert calls(applied(SIMPLIFY, before).program).count("to") == 2


def test_a_dtype_holds_its_own_numbers():
    assert all(_holds(dtype, dtype) for dtype in (i8, u8, i32))


def test_the_cast_between_stays_for_another_user():
    def function(x):
        wide = x.to(f32)
        return wide, wide.to(f16).clone()

    assert calls(applied(SIMPLIFY, program(function, numbers(f16))).program).count("to") == 1


def test_drawn_programs():
    check_pass(SIMPLIFY, examples=25, targets=())
