"""Scaled dot-product attention against torch, by parts and as one node."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention as sdpa

from tests.lowering.onnx.harness import Case, check, op_types

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR)


Q, K, V = random(2, 4, 5, 8), random(2, 4, 7, 8), random(2, 4, 7, 6)
SQUARE = random(2, 4, 5, 8)
FEW = random(2, 2, 7, 8)
SEEN = torch.rand(2, 1, 5, 7, generator=GENERATOR) > 0.4
SEEN[0, 0, 1] = False
BIAS = random(2, 1, 5, 7)
HOLES = torch.where(SEEN, BIAS, -torch.inf)

CASES = [
    Case("plain", sdpa, (Q, K, V)),
    Case("scale", lambda q, k, v: sdpa(q, k, v, scale=0.2), (Q, K, V)),
    Case("bool-mask", lambda q, k, v, m: sdpa(q, k, v, m), (Q, K, V, SEEN)),
    Case("float-mask", lambda q, k, v, m: sdpa(q, k, v, m), (Q, K, V, BIAS)),
    Case("holes", lambda q, k, v, m: sdpa(q, k, v, m), (Q, K, V, HOLES)),
    Case("mask-of-all-heads", lambda q, k, v, m: sdpa(q, k, v, m[0, 0]), (Q, K, V, SEEN), fixed=True),
    Case("causal", lambda q, k, v: sdpa(q, k, v, is_causal=True), (SQUARE, SQUARE + 1, SQUARE * 2)),
    Case("causal-more-keys", lambda q, k, v: sdpa(q, k, v, is_causal=True), (Q, K, V)),
    Case("grouped", lambda q, k: sdpa(q, k, k, enable_gqa=True), (Q, FEW)),
    Case("rank-3", lambda q, k, v: sdpa(q[:, 0], k[:, 0], v[:, 0]), (Q, K, V)),
    Case("rank-3-mask", lambda q, k, v, m: sdpa(q[:, 0], k[:, 0], v[:, 0], m[:, 0]), (Q, K, V, SEEN)),
    Case("half", sdpa, (Q.half(), K.half(), V.half())),
    Case("half-mask", lambda q, k, v, m: sdpa(q, k, v, m), (Q.half(), K.half(), V.half(), SEEN)),
]


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, opset):
    emitted = check(case, opset=opset)
    assert ("Attention" in op_types(emitted)) == (opset >= 23 and "rank-3" not in case.name)


class Heads(nn.Module):
    """Self-attention by torch's own module."""

    def __init__(self, *, weights: bool) -> None:
        super().__init__()
        self.attention, self.weights = nn.MultiheadAttention(8, 2, batch_first=True), weights

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.attention(x, x, x, need_weights=self.weights)


@pytest.mark.parametrize("weights", [True, False])
def test_multihead_attention(weights):
    check(Case("heads", Heads(weights=weights), (random(3, 5, 8),)))


def test_a_large_causal_mask_is_computed():
    q = random(1, 1, 300, 4)
    emitted = check(Case("causal", lambda q: sdpa(q, q, q, is_causal=True), (q,)))
    assert len(emitted.content) < 5000


def test_causal_mask_of_a_dynamic_length():
    from fxopt.frontend import trace
    from fxopt.lowering.onnx.target import OnnxTarget
    from tests.lowering.onnx.harness import Apply, assert_same, opened

    module = Apply(lambda q: sdpa(q, q, q, is_causal=True))
    program = trace(module.eval(), (SQUARE,), dynamic_shapes={"inputs_0": {0: "batch", 2: "length"}})
    artifact = opened(OnnxTarget().emit(program, optimize=False))
    for shape in ((2, 4, 5, 8), (1, 4, 9, 8), (3, 4, 1, 8)):
        x = random(*shape)
        assert_same(artifact.run_flat([x])[0], program.run_flat([x])[0])


def test_keys_are_transposed_once():
    """Heads are split off by one transpose; the product wants another."""

    def heads(x):
        return x.reshape(x.shape[0], 7, 2, 4).permute(0, 2, 1, 3)

    x = random(2, 7, 8)
    types = op_types(check(Case("heads", lambda x: sdpa(heads(x), heads(x + 1), heads(x * 2)), (x,))))
    assert types.count("Transpose") == 3
