"""O1 over operands that no pass may stumble on: numbers, sizes, single numbers, booleans, nothing, dtypes that promote.

Each function is traced with fixed sizes and with a size that varies, where `x.size(0)` is a symbolic number, goes
through O1, and has to give what it gave, in the same dtype.
"""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.pipeline import PassManager
from fxopt.verification import evaluate
from tests.passes.helpers import program, rand

Fn = Callable[..., torch.Tensor]
X, Y = rand(4, 6), rand(4, 6, seed=1)
W, B = rand(6, 6, seed=2), rand(6, seed=3)
TWO, DOUBLE, NO = torch.tensor(2.0), torch.tensor(2.0, dtype=torch.float64), torch.tensor(False)
where, attention = torch.where, F.scaled_dot_product_attention


def _scores(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.matmul(x[None, None], y[None, None].mT)


def _attend(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.softmax(scores, -1) @ y[None, None]


SIZES: dict[str, Fn] = {
    "permuted": lambda x, y: x.permute(1, 0) * x.shape[0],
    "permuted twice": lambda x, y: x.permute(1, 0).add(1).mul(x.size(0)).permute(1, 0),
    "permuted and reduced": lambda x, y: (x.size(0) - x.permute(1, 0)).sum(0),
    "two permuted": lambda x, y: torch.add(x.permute(1, 0), y.permute(1, 0), alpha=x.size(0)).permute(1, 0),
    "permuted, compared": lambda x, y: (x.permute(1, 0) > x.size(0)).permute(1, 0),
    "permuted, filled": lambda x, y: x.permute(1, 0).masked_fill(y.permute(1, 0) > 0, x.size(0)).permute(1, 0),
    "expanded": lambda x, y: x[:1].expand(x.size(0), -1) * x.size(0),
    "expanded, added": lambda x, y: torch.add(x[:1].expand(x.size(0), -1), x, alpha=x.size(0)),
    "expanded, chosen": lambda x, y: where(x > 0, x[:1].expand(x.size(0), -1), x.size(0)),
    "expanded, clamped": lambda x, y: x[:1].expand(x.size(0), -1).clamp(max=x.size(0)),
    "expanded, an exponent": lambda x, y: torch.pow(x.size(0), x[:1].expand(x.size(0), -1)),
    "an expanded number": lambda x, y: x.sum().expand(x.size(0), 6) * x.size(0),
    "chosen": lambda x, y: where(x > 0, x.size(0), x),
    "chosen, negated": lambda x, y: where((x > 0).logical_not(), x.size(0), x),
    "filled": lambda x, y: x.masked_fill(x > 0, x.size(0)).masked_fill(x > 0, 1.0),
    "products": lambda x, y: x * x.size(0) * 2 * x.size(0),
    "sums": lambda x, y: x + x.size(0) + 1 - x.size(0),
    "signs": lambda x, y: x.size(0) + (-x) - (x.size(0) - (-y)),
    "quotients": lambda x, y: x.size(0) / x * 3 / x.size(0),
    "floors": lambda x, y: x // x.size(0) * 1,
    "powers": lambda x, y: x ** x.size(0) * x.size(0) ** 0.5,
    "clamps": lambda x, y: x.clamp(0, 1).clamp(max=x.size(0)).relu(),
    "linear": lambda x, y, w, b: F.linear(x * x.size(0), w, b) * x.size(0) + x.size(0),
    "matmul": lambda x, y, w: torch.matmul(x, w) + x.size(0),
    "addmm": lambda x, y, w, b: torch.addmm(b, x, w, beta=x.size(0)),
    "embedding": lambda x, y, w, b: F.linear(F.embedding(x.argmax(1), w) * x.size(0) + b, w),
    "batch norm": lambda x, y, w, b: F.batch_norm(F.linear(x, w), b, b.abs() + 1) * x.size(0),
    "a rounded epsilon": lambda x, y: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + x.size(0)),
    "a norm's bound": lambda x, y: x / x.pow(2).sum().sqrt().clamp(min=x.size(0)),
    "a slope": lambda x, y: x * torch.sigmoid(x * x.size(0)) + x * torch.tanh(F.softplus(x, x.size(0))),
    "erf": lambda x, y: 0.5 * x * (1 + torch.erf(x / x.size(0))),
    "exp": lambda x, y: torch.exp(x - x.size(0)) / torch.exp(x - x.size(0)).sum(-1, keepdim=True),
    "scores": lambda x, y: _attend(_scores(x, y) / x.size(0), y),
    "filled scores": lambda x, y: _attend(_scores(x, y).masked_fill((x.sum(1) > 0)[:, None], -1e9 * x.size(0)), y),
    "chosen scores": lambda x, y: _attend(where((x.sum(1) > 0)[:, None], x.size(0), _scores(x, y)), y),
    "added to scores": lambda x, y: _attend(_scores(x, y) + x.size(0), y),
    "added to scores by a mask": lambda x, y: _attend(_scores(x, y) + (x.sum(1) + x.size(0))[:, None], y),
    "a scaled query": lambda x, y: attention(x[None, None] * x.size(0), y[None, None], y[None, None], scale=1.0),
    "full of it": lambda x, y: x * torch.full((x.size(0), 1), x.size(0)) + torch.full_like(x, x.size(0)),
    "one number": lambda x, y: x * torch.scalar_tensor(x.size(0)),
    "counted": lambda x, y: x * torch.arange(x.size(0) - 1, -1, -1).unsqueeze(1),
    "its arithmetic": lambda x, y: x * (x.size(0) % 2) + (x.size(0) * 4) // 4 - x.size(0) * 1 + torch.sym_max(x.size(0), 3),
    "a join of all and a cut": lambda x, y: torch.cat([x, x[: x.size(0) - 1]], 0)[: x.size(0)],
    "padded": lambda x, y: F.pad(x, (0, x.size(0))) * F.pad(x, (0, x.size(0)), value=1.0),
    "einsum": lambda x, y: torch.einsum("ij,kj->ik", x, y) * x.size(0),
}  # fmt: skip
NUMBERS: dict[str, Fn] = {
    "a negation, left": lambda x, y: where((x > 0).logical_not(), x, 1.0),
    "a negation, right": lambda x, y: where((x > 0).logical_not(), 1.0, x),
    "a negation, both": lambda x, y: where((x > 0).logical_not(), 1, 2.5) * x,
    "integers": lambda x, y: where((x > 0).logical_not(), 1, 2),
    "booleans": lambda x, y: where((x > 0).logical_not(), True, False),
    "no boolean": lambda x, y: where(x.logical_not(), x, y),
    "asked twice": lambda x, y: where(x > 0, where(x > 0, 1.0, x), 2.0),
    "in another dtype": lambda x, y: where(x > 0, where(x > 0, x.half(), 1.0), 2),
    "promoted": lambda x, y: where((x > 0).logical_not(), x.long(), 1.5),
    "known": lambda x, y, no: where(no, 1.0, x) + x.masked_fill(no, 1.0),
    "scores": lambda x, y: _attend(where((_scores(x, y) > 0).logical_not(), -1e9, _scores(x, y)), y),
    "true": lambda x, y: x * True + False,
    "true of booleans": lambda x, y: (x > 0) * True + (x > 0) * 1 + (x > 0) * 1.0,
    "and": lambda x, y: torch.bitwise_and(-1, x.long()) + torch.bitwise_or(x > 0, False),
    "clamped booleans": lambda x, y: (x > 0).clamp(0, 1) * F.relu6(x).clamp(False, True),
    "clamped integers": lambda x, y: x.long().relu().clamp(0.5, 1.5).clamp(0, 1),
    "powers": lambda x, y: 2**x * x.pow(True) * x.pow(2).pow(0.5),
    "unsigned": lambda x, y: -(x.abs().to(torch.uint8)) * -1,
    "reversed": lambda x, y: torch.rsub(x, 1, alpha=2) - torch.sub(1, x, alpha=2),
    "large": lambda x, y: x * 1e300 * 2 + x.long() * (2**40) * (2**40),
    "of integers": lambda x, y: x.long() / 2 / 3 + (x.long() + 2.5) - 1 + x.long().exp().log(),
    "sigmoid of integers": lambda x, y: x.long() * torch.sigmoid(x.long()) + x.long() * torch.sigmoid(x),
    "erf of integers": lambda x, y: 0.5 * x.long() * (1 + torch.erf(x.long() / math.sqrt(2))),
    "norm of integers": lambda x, y: x.long().pow(2).sum(-1, True).sqrt() * x.long().pow(2).sum().sqrt(),
    "complex": lambda x, y: torch.complex(x, y).abs() * torch.complex(x, y).neg().neg().real * ((x + 0j) * 2 * 3).real,
}  # fmt: skip
SINGLE: dict[str, Fn] = {
    "reduced": lambda x, y: x.sum().sum(0) + x.prod().mean(0) + x.mean().amax(-1) + x.std().sum(0, True),
    "largest": lambda x, y: x.sum().max(0)[0] + x.mean().min(0)[0],
    "softmax": lambda x, y: x.sum().softmax(0) + x.sum().logsumexp(0) + x.sum().cumsum(0),
    "exp": lambda x, y: torch.exp(x.sum() - x.sum().amax(0, True)) / torch.exp(x.sum() - x.sum().amax(0, True)).sum(0, True),
    "norms": lambda x, y: F.normalize(x.sum(), dim=0) + x.mean() * torch.rsqrt(x.mean().pow(2).mean(0, True) + 1),
    "activations": lambda x, y: x.sum() * torch.sigmoid(x.sum()) + 0.5 * x.mean() * (1 + torch.erf(x.mean() / math.sqrt(2))),
    "moved": lambda x, y: x.sum().permute(()).squeeze().unsqueeze(0).squeeze(0).flatten().reshape(()) + x.sum().repeat(2).sum(),
    "a row": lambda x, y: torch.stack([x.sum(), y.sum()]).unbind(0)[1] + torch.stack([x.mean(), y.mean()])[0],
    "a condition": lambda x, y: where((x.sum() > 0).logical_not(), x, y) + x.masked_fill((x > 0).any(), 0.0),
    "of another dtype": lambda x, y, wide: x * wide + x.long() * wide + x.half() * wide,
    "expanded": lambda x, y, two, wide: x * two.expand(x.size(0), 6) + x.sum().expand(x.size(0), 6) * wide,
    "a bias": lambda x, y, w, two: torch.addmm(two, x, w) + F.linear(x, w, two.expand(6)) * two,
    "of a vector": lambda x, y, w, b, two: F.linear(x[0], w, b) * b + torch.matmul(x, b)[:1] + F.linear(x, b)[0] * two,
    "a bound": lambda x, y, two: torch.clamp(x, min=two, max=two + 1).relu().clamp(0, 1),
    "permuted": lambda x, y, two: (x.permute(1, 0) * two).permute(1, 0) + (x.permute(1, 0) * x.sum()).permute(1, 0),
    "a mask": lambda x, y, two: _attend(_scores(x, y) * two + two, y),
    "einsum": lambda x, y, two: torch.einsum("ij,->ij", x, two) + torch.einsum("ij->", x),
    "filled in": lambda x, y, two: x.masked_fill(x > 0, two).masked_fill(x > 0, 1.0),
}  # fmt: skip
EMPTY: dict[str, Fn] = {
    "reduced": lambda x, y: x[:0].sum(0) + x[:0].mean(0) * 2,
    "joined": lambda x, y: torch.cat([x[:0], y, x.new_zeros(0, 6)], 0) + torch.cat([x.new_zeros(0), x], 0),
    "linear": lambda x, y, w, b: F.linear(x[:0], w, b) * 2,
    "of nothing": lambda x, y, w, b: torch.matmul(x[:, :0], w[:0]) + b,
    "moved": lambda x, y: x[:0].reshape(0, 3, 2).permute(0, 2, 1).reshape(0, 6),
    "expanded": lambda x, y: x[:, :0].repeat(1, 2).expand(3, -1, -1).softmax(1),
    "cut beyond": lambda x, y: x[:, 3:1].sum(1) + x[:, 9:].sum() + x[:, :-100].sum(1),
}  # fmt: skip
VECTORS: dict[str, Fn] = {
    "beside others": lambda x, y, w, b, m, c, v: F.linear(x, w, b).sum(1) * F.linear(x, v) * F.linear(x, m, c).sum(1),
    "four": lambda x, y, v, u, b, k: F.linear(x, v) * F.linear(x, u) + F.linear(x, b).relu() * F.linear(x, k),
    "after a layer": lambda x, y, w, v: F.linear(F.linear(x, w), v),
    "after a layer, then folded": lambda x, y, w, v: F.linear(F.linear(x, w) * 2, v) * 3 + 1,
    "before a layer": lambda x, y, v, w, u: F.linear(F.linear(x.repeat(1, 6).reshape(-1, 6, 6), v), w),
    "flattened": lambda x, y, v: F.linear(x.reshape(-1, 2, 3).reshape(-1, 6), v).reshape(1, -1),
    "flattened twice": lambda x, y, v: F.linear(torch.stack([x, y]).reshape(-1, 6), v).reshape(2, -1),
    "of an embedding": lambda x, y, w, v: F.linear(F.embedding(x.argmax(1), w), v),
    "normalised": lambda x, y, v, b: F.batch_norm(F.linear(x.repeat(1, 6).reshape(-1, 6, 6), v), b, b.abs() + 1),
    "affine by column": lambda x, y, v, b: F.linear(x.repeat(1, 6).reshape(-1, 6, 6), v) * b + b,
    "affine before": lambda x, y, v, b: F.linear(x * b + b, v),
    "added": lambda x, y, v, two: F.linear(x, v) + two,
    "permuted": lambda x, y, v: F.linear(x.repeat(1, 6).reshape(-1, 6, 6).permute(0, 2, 1), v),
    "cut": lambda x, y, w, v: F.linear(F.linear(x, w)[:, :3], v[:3]) + F.linear(torch.cat([x, y], 1), v.repeat(2)),
    "matmul": lambda x, y, w, v: torch.matmul(torch.matmul(x, w), v) * 2 + torch.matmul(v, x.mT),
    "softmax": lambda x, y, v: F.linear(x, v).softmax(0) * F.linear(x, v).sum(),
    "repeated": lambda x, y, v: F.linear(x, v)[:, None] * x + F.linear(x, v).unsqueeze(-1).expand(-1, 6),
    "normalised rows": lambda x, y, b, v: F.linear(F.layer_norm(x, (6,), b, b), v),
}  # fmt: skip
FUNCTIONS = {
    f"{kind}: {name}": function
    for kind, functions in (
        ("size", SIZES),
        ("number", NUMBERS),
        ("single", SINGLE),
        ("empty", EMPTY),
        ("vector", VECTORS),
    )
    for name, function in functions.items()
}
WEIGHTS = {
    "w": W,
    "b": B,
    "v": rand(6, seed=4),
    "u": rand(6, seed=5),
    "k": rand(6, seed=6),
    "m": rand(4, 6, seed=7),
    "c": rand(4, seed=8),
    "two": TWO,
    "wide": DOUBLE,
    "no": NO,
}


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "varies"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_o1_takes_any_operand(name: str, dynamic: bool):
    function = FUNCTIONS[name]
    names = function.__code__.co_varnames[2 : function.__code__.co_argcount]
    before = program(function, X, Y, dynamic=dynamic, **{n: WEIGHTS[n] for n in names})
    after = PassManager.parse("O1").run(before).program
    for rows in (4, 3) if dynamic else (4,):
        tensors = [X[:rows], Y[:rows]]
        for expected, got in zip(evaluate(before, tensors), evaluate(after, tensors), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
