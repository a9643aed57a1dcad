"""Attention as public code writes it, written anew; of each a twin that is none.

A function takes the model's weights by name (`weights_of`), `x` is f32[batch, 6, 8], two heads of 4.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from tests.passes.helpers import rand

__all__ = ["LENGTH", "TWINS", "VARIANTS", "WIDTH", "weights_of"]

Tensor = torch.Tensor
Fn = Callable[..., Tensor]

LENGTH, WIDTH, HEADS, HEAD = 6, 8, 2, 4


def weights_of() -> dict[str, Tensor]:
    """Of all variants: each takes what it needs."""
    square = {n: rand(WIDTH, WIDTH, seed=i) / 3 for i, n in enumerate("qkvo")}
    return {
        **square,
        "qkv": rand(3 * WIDTH, WIDTH, seed=5) / 3,
        "narrow_k": rand(HEAD, WIDTH, seed=6) / 3,
        "narrow_v": rand(HEAD, WIDTH, seed=7) / 3,
        "latents": rand(3, WIDTH, seed=8),
        "causal": torch.tril(torch.ones(16, 16)).view(1, 1, 16, 16),
        "bias": rand(HEADS, LENGTH, LENGTH, seed=9),
        "windows": torch.where(rand(2, LENGTH, LENGTH, seed=10) > 1, -100.0, 0.0),
        "seen": torch.eye(LENGTH, dtype=torch.bool) | (rand(LENGTH, LENGTH, seed=11) > 0),
        "padding": torch.tensor([0.0, 0, 0, 0, -10000, -10000]),
    }


def _heads(x: Tensor) -> Tensor:
    return x.view(x.shape[0], -1, HEADS, HEAD).transpose(1, 2)


def _joined(y: Tensor) -> Tensor:
    return y.transpose(1, 2).contiguous().view(y.shape[0], -1, WIDTH)


def _qkv(x: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (_heads(F.linear(x, w[n])) for n in "qkv")
    return q, k, v


def nano_gpt(x: Tensor, **w: Tensor) -> Tensor:
    q, k, v = (_heads(t) for t in F.linear(x, w["qkv"]).split(WIDTH, dim=2))
    length = x.size(1)
    scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
    scores = scores.masked_fill(w["causal"][:, :, :length, :length] == 0, float("-inf"))
    return _joined(F.dropout(F.softmax(scores, dim=-1), 0.1, False) @ v)


def softmax_over_queries(x: Tensor, **w: Tensor) -> Tensor:
    q, k, v = _qkv(x, w)
    return _joined(F.softmax((q @ k.transpose(-2, -1)) / math.sqrt(HEAD), dim=-2) @ v)


def bert(x: Tensor, **w: Tensor) -> Tensor:
    q, k, v = _qkv(x, w)
    scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(HEAD) + w["padding"]
    return _joined(torch.matmul(F.dropout(F.softmax(scores, dim=-1), 0.1, False), v))


def mask_after_softmax(x: Tensor, **w: Tensor) -> Tensor:
    q, k, v = _qkv(x, w)
    weights = F.softmax(torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(HEAD), dim=-1) + w["padding"]
    return _joined(torch.matmul(weights, v))


def t5(x: Tensor, **w: Tensor) -> Tensor:
    q, k, v = _qkv(x, w)
    scores = torch.matmul(q, k.transpose(3, 2))
    scores = scores + w["bias"].unsqueeze(0)
    return _joined(torch.matmul(F.softmax(scores.float(), dim=-1).type_as(scores), v))


def scaled_mask(x: Tensor, **w: Tensor) -> Tensor:
    q, k, v = _qkv(x, w)
    return _joined(F.softmax((q @ k.mT + w["bias"]) * 0.5, dim=-1) @ v)


def vit(x: Tensor, **w: Tensor) -> Tensor:
    batch, length, width = x.shape
    qkv = F.linear(x, w["qkv"]).reshape(batch, length, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    weights = ((q * HEAD**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).reshape(batch, length, width)


def scores_with_another_user(x: Tensor, **w: Tensor) -> tuple[Tensor, Tensor]:
    q, k, v = _qkv(x, w)
    scores = (q * HEAD**-0.5) @ k.transpose(-2, -1)
    return _joined(scores.softmax(dim=-1) @ v), scores


def _repeated(kv: Tensor, times: int) -> Tensor:
    batch, heads, length, width = kv.shape
    kv = kv[:, :, None, :, :].expand(batch, heads, times, length, width)
    return kv.reshape(batch, heads * times, length, width)


def llama(x: Tensor, **w: Tensor) -> Tensor:
    q = _heads(F.linear(x, w["q"]))
    k, v = (F.linear(x, w[n]).view(x.shape[0], -1, 1, HEAD).transpose(1, 2) for n in ("narrow_k", "narrow_v"))
    scores = torch.matmul(q, _repeated(k, HEADS).transpose(2, 3)) / math.sqrt(HEAD)
    scores = scores + torch.where(w["seen"], 0.0, -math.inf)
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    return _joined(torch.matmul(weights, _repeated(v, HEADS)))


def heads_that_broadcast(x: Tensor, **w: Tensor) -> Tensor:
    q = _heads(F.linear(x, w["q"]))
    k, v = (F.linear(x, w[n]).view(x.shape[0], -1, 1, HEAD).transpose(1, 2) for n in ("narrow_k", "narrow_v"))
    return _joined(F.softmax(q @ _repeated(k, HEADS).mT / math.sqrt(HEAD), dim=-1) @ v)


def clip(x: Tensor, **w: Tensor) -> Tensor:
    """Heads are in the batch axis, for `bmm`; the scale is on the query before it is split."""
    batch, length, width = x.shape
    q = _heads(F.linear(x, w["q"]) * HEAD**-0.5)
    k, v = _heads(F.linear(x, w["k"])), _heads(F.linear(x, w["v"]))
    q, k, v = (t.reshape(batch * HEADS, length, HEAD) for t in (q, k, v))
    scores = torch.bmm(q, k.transpose(1, 2))
    mask = torch.where(w["seen"], 0.0, -math.inf)[None, None]
    scores = (scores.view(batch, HEADS, length, length) + mask).view(batch * HEADS, length, length)
    out = torch.bmm(F.softmax(scores, dim=-1), v)
    return out.view(batch, HEADS, length, HEAD).transpose(1, 2).reshape(batch, length, width)


def a_scale_that_is_data(x: Tensor, **w: Tensor) -> Tensor:
    q, k, v = _qkv(x, w)
    return _joined(F.softmax(q @ k.mT * x.mean(), dim=-1) @ v)


def swin(x: Tensor, **w: Tensor) -> Tensor:
    """A learned bias by head, and for shifted windows a mask by window."""
    windows, length, width = x.shape
    q, k, v = _qkv(x, w)
    scores = (q * HEAD**-0.5) @ k.transpose(-2, -1) + w["bias"].unsqueeze(0)
    scores = scores.view(windows // 2, 2, HEADS, length, length) + w["windows"].unsqueeze(1).unsqueeze(0)
    scores = scores.view(-1, HEADS, length, length)
    return (F.softmax(scores, dim=-1) @ v).transpose(1, 2).reshape(windows, length, width)


def weights_reshaped_to_other_rows(x: Tensor, **w: Tensor) -> Tensor:
    q, k, v = _qkv(x, w)
    weights = F.softmax(q @ k.mT, dim=-1).reshape(x.shape[0], HEADS, -1, LENGTH // 2)
    return (weights @ v[:, :, : LENGTH // 2]).sum(2)


def detr(x: Tensor, **w: Tensor) -> Tensor:
    """Sequence first, as `nn.MultiheadAttention` computes with weights wanted: `baddbmm` adds the mask."""
    x = x.transpose(0, 1)
    length, batch, width = x.shape
    q, k, v = (F.linear(x, w[n]).view(length, batch * HEADS, HEAD).transpose(0, 1) for n in "qkv")
    mask = torch.where(w["seen"], 0.0, -math.inf)
    scores = torch.baddbmm(mask, q * math.sqrt(1.0 / HEAD), k.transpose(-2, -1))
    out = torch.bmm(F.softmax(scores, dim=-1), v)
    return out.transpose(0, 1).contiguous().view(length, batch, width).transpose(0, 1)


def a_mask_with_a_factor(x: Tensor, **w: Tensor) -> Tensor:
    q, k, v = (F.linear(x, w[n]) for n in "qkv")
    scores = torch.baddbmm(w["bias"][:1], q, k.transpose(-2, -1), beta=0.5, alpha=0.5)
    return torch.bmm(F.softmax(scores, dim=-1), v)


def perceiver(x: Tensor, **w: Tensor) -> Tensor:
    """Latents ask, the inputs answer: other lengths, and the scale split in two."""
    latents = w["latents"].unsqueeze(0).expand(x.shape[0], -1, -1)
    q, k, v = (_heads(F.linear(t, w[n])) for t, n in ((latents, "q"), (x, "k"), (x, "v")))
    split = HEAD**-0.25
    return _joined(F.softmax((q * split) @ (k.transpose(-2, -1) * split), dim=-1) @ v)


def latents_that_broadcast(x: Tensor, **w: Tensor) -> Tensor:
    q = F.linear(w["latents"].unsqueeze(0), w["q"])
    k, v = (F.linear(x, w[n]) for n in "kv")
    return F.softmax(q @ k.transpose(-2, -1) / math.sqrt(WIDTH), dim=-1) @ v


def annotated(x: Tensor, **w: Tensor) -> Tensor:
    """The Annotated Transformer: `where` keeps what is seen."""
    q, k, v = _qkv(x, w)
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(HEAD)
    scores = torch.where(w["seen"], scores, torch.tensor(-math.inf))
    return _joined(torch.matmul(scores.softmax(dim=-1), v))


def padded(x: Tensor, **w: Tensor) -> Tensor:
    """A mask that is computed from the inputs, a large number where keys are padding."""
    q, k, v = _qkv(x, w)
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(HEAD)
    return _joined(scores.masked_fill((x[:, None, None, :, 0] > 1), -1e9).softmax(dim=-1) @ v)


def filled_with_a_finite_number(x: Tensor, **w: Tensor) -> Tensor:
    q, k, v = _qkv(x, w)
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(HEAD)
    return _joined(torch.matmul(scores.masked_fill(x[:, None, :, :1] > 0, -1e3).softmax(dim=-1), v))


def einsum(x: Tensor, **w: Tensor) -> Tensor:
    """Projections to heads, scores and values all written as contractions, heads inside."""
    q, k, v = (torch.einsum("b i m, h d m -> b i h d", x, w[n].view(HEADS, HEAD, WIDTH)) for n in "qkv")
    scores = torch.einsum("b i h d, b j h d -> b h i j", q, k) * HEAD**-0.5
    out = torch.einsum("b h i j, b j h d -> b i h d", scores.softmax(dim=-1), v)
    return torch.einsum("b i h d, h d m -> b i m", out, w["o"].view(HEADS, HEAD, WIDTH))


def einsum_over_queries(x: Tensor, **w: Tensor) -> Tensor:
    q, k, v = _qkv(x, w)
    scores = torch.einsum("bhid,bhjd->bhij", q, k)
    return _joined(torch.einsum("bhij,bhid->bhjd", scores.softmax(dim=-1), v))


LOWEST = torch.finfo(torch.float32).min


def _flat_heads(x: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (t.reshape(-1, x.shape[1], HEAD) for t in _qkv(x, w))
    return q, k, v


def _by_heads(scores: Tensor, x: Tensor) -> Tensor:
    return scores.view(x.shape[0], HEADS, x.shape[1], -1)


def bloom(x: Tensor, **w: Tensor) -> Tensor:
    """Heads are in the batch axis; a bias of each head by the keys' places is added there, the mask by batch and head."""
    batch, length, _ = x.shape
    q, k, v = _flat_heads(x, w)
    places = (x[:, :, 0] < 1).cumsum(-1)
    alibi = (w["bias"][:, 0, :1] * places[:, None]).reshape(batch * HEADS, 1, length)
    scores = _by_heads(alibi.baddbmm(q, k.transpose(1, 2), beta=1.0, alpha=HEAD**-0.5), x)
    scores = scores + torch.where(x[:, None, None, :, 0] > 1, LOWEST, 0.0)
    out = torch.bmm(F.softmax(scores, dim=-1, dtype=torch.float32).view(batch * HEADS, length, -1), v)
    return _joined(out.view(batch, HEADS, length, HEAD))


def a_mask_that_multiplies(x: Tensor, **w: Tensor) -> Tensor:
    q, k, v = _flat_heads(x, w)
    scores = _by_heads(torch.bmm(q, k.transpose(1, 2)), x) * (x[:, None, None, :, 0] < 1)
    out = torch.bmm(F.softmax(scores, dim=-1).view(-1, x.shape[1], x.shape[1]), v)
    return _joined(out.view(x.shape[0], HEADS, -1, HEAD))


def _disentangled(x: Tensor, hidden: Tensor, w: dict[str, Tensor]) -> Tensor:
    q, k, v = _flat_heads(hidden, w)
    bias = F.linear(q, w["narrow_k"][:, :LENGTH].t()) / torch.tensor(HEAD).sqrt()
    scores = torch.bmm(q, k.transpose(-1, -2) / torch.tensor(HEAD).sqrt()) + bias
    scores = _by_heads(scores, x).masked_fill(x[:, None, None, :, 0] > 1, LOWEST)
    out = torch.bmm(F.softmax(scores, dim=-1).view(-1, x.shape[1], x.shape[1]), v)
    return _joined(out.view(x.shape[0], HEADS, -1, HEAD))


def deberta(x: Tensor, **w: Tensor) -> Tensor:
    """Scores of places, computed from the query, are added in the batch axis before the mask is filled in."""
    return _disentangled(x, F.layer_norm(x, [WIDTH]), w)


def a_bias_that_may_be_infinite(x: Tensor, **w: Tensor) -> Tensor:
    """Where a key is -inf by what is added, the keys that are filled with a number are seen."""
    return _disentangled(x, x, w)


def gpt_neo(x: Tensor, **w: Tensor) -> Tensor:
    """The lowest number where a key is later, to which the mask of padding is added."""
    return _filled_and_added(x, w, w["causal"][:, :, : x.shape[1], : x.shape[1]] > 0, LOWEST)


def _filled_and_added(x: Tensor, w: dict[str, Tensor], seen: Tensor, low: float) -> Tensor:
    q, k, v = _qkv(x, w)
    scores = torch.where(seen, q @ k.transpose(-1, -2), torch.tensor(low))
    scores = scores + torch.where(x[:, None, None, :, 0] > 1, low, 0.0)
    return _joined(F.softmax(scores, dim=-1) @ v)


def added_to_a_number_that_is_near(x: Tensor, **w: Tensor) -> Tensor:
    return _filled_and_added(x, w, w["causal"][:, :, : x.shape[1], : x.shape[1]] > 0, -1e9)


def added_where_all_may_be_filled(x: Tensor, **w: Tensor) -> Tensor:
    return _filled_and_added(x, w, x[:, None, :, :1] > 0, LOWEST)


VARIANTS: dict[str, Fn] = {
    f.__name__: f
    for f in (
        nano_gpt,
        bert,
        t5,
        vit,
        llama,
        clip,
        swin,
        detr,
        perceiver,
        annotated,
        einsum,
        padded,
        bloom,
        deberta,
        gpt_neo,
    )
}
TWINS: dict[str, Fn] = {
    f.__name__: f
    for f in (
        softmax_over_queries,
        mask_after_softmax,
        scaled_mask,
        scores_with_another_user,
        heads_that_broadcast,
        a_scale_that_is_data,
        weights_reshaped_to_other_rows,
        a_mask_with_a_factor,
        latents_that_broadcast,
        filled_with_a_finite_number,
        einsum_over_queries,
        a_mask_that_multiplies,
        a_bias_that_may_be_infinite,
        added_to_a_number_that_is_near,
        added_where_all_may_be_filled,
    )
}
