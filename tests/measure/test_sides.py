"""Which tensor goes to which input."""

import pytest
import torch

from fxopt.errors import InputError
from fxopt.measure.sides import placed
from fxopt.measure.subjects import Slot

X, M = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.long)


def test_by_name_where_all_names_are_there():
    got = placed({"mask": M, "x": X, "more": X}, [Slot("x", "float32"), Slot("mask", "int64")])
    assert got[0] is X
    assert got[1] is M


def test_in_order_otherwise():
    got = placed({"x": X, "mask": M}, [Slot("input0", "float32"), Slot("mask", "int64")])
    assert got[0] is X
    assert got[1] is M


def test_in_the_dtype_of_the_side():
    got = placed({"x": X, "mask": M}, [Slot("x", "float16"), Slot("mask", "int32")])
    assert [t.dtype for t in got] == [torch.float16, torch.int32]


def test_a_side_that_says_nothing_takes_all():
    assert len(placed({"x": X, "mask": M}, None)) == 2


def test_too_few():
    with pytest.raises(InputError, match=r"takes x float32, mask int64; given are x$"):
        placed({"x": X}, [Slot("x", "float32"), Slot("mask", "int64")])
