"""Rounding to integers and back."""

import torch

from fxopt.ops.info import OpInfo, SampleArgs, register_op
from fxopt.ops.table.entry import Draw, call
from fxopt.ops.table.maps import reduced


def _fake_quantize() -> list[SampleArgs]:
    d = Draw()
    return [
        call(d(2, 3), torch.tensor(0.1, dtype=torch.float64), torch.tensor(3), 0, 255),
        call(d(2, 3), d.positive(2, 1) / 10, torch.zeros(2, 1, dtype=torch.int64), -128, 127),
    ]


def _dequantize() -> list[SampleArgs]:
    d = Draw()
    q = d.integers(100, 2, 3).to(torch.int8)
    return [
        call(q, d.positive(), torch.tensor(3)),
        call(q, d.positive(2, 1), torch.zeros(2, 1, dtype=torch.int64)),
    ]


def _choose_qparams() -> list[SampleArgs]:
    d = Draw()
    return [call(d(2, 3), 0, 255), call(d.positive(4), -128, 127), call(d(), 0, 255)]


def _round_blocks() -> list[SampleArgs]:
    d = Draw()
    return [
        call(d(2, 4), d.positive(2, 2), 127),
        call(d(6), d.positive(2), 7),
        call(d(3, 1, 4), d.positive(3, 1, 1), 127),
    ]


register_op(OpInfo(op="fxopt.round_blocks", steps=True, samples=_round_blocks))
register_op(OpInfo(op="fxopt.choose_qparams", index_map=reduced(outputs=2), samples=_choose_qparams))
register_op(
    OpInfo(op="fxopt.fake_quantize", elementwise=True, monotone=True, steps=True, samples=_fake_quantize)
)
register_op(
    OpInfo(op="fxopt.to_integers", elementwise=True, monotone=True, steps=True, samples=_fake_quantize)
)
register_op(OpInfo(op="fxopt.dequantize", elementwise=True, samples=_dequantize))
