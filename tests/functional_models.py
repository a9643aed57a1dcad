"""Small models over `torch.nn.functional` and `torch.*`, as users write them: a family of functions each.

`MODELS[name].build()` gives the module and its arguments. Axis 0 of every argument is a batch, which may vary
unless the entry says that it can't.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MODELS", "Model"]

Arguments = tuple[Tensor, ...]


class Call(nn.Module):
    """A function as a module, with buffers as its last arguments."""

    def __init__(self, function: Callable[..., object], arguments: int, buffers: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.function, self.buffers_given = function, len(buffers)
        self.arguments = arguments
        for i, tensor in enumerate(buffers):
            self.register_buffer(f"weight{i}", tensor)

    def forward(self, *inputs: Tensor) -> object:
        return self.function(*inputs, *(getattr(self, f"weight{i}") for i in range(self.buffers_given)))


@dataclass(frozen=True)
class Model:
    """A function (or a maker of a module), makers of its arguments and weights, and whether its batch varies."""

    function: Callable[..., object]
    inputs: Callable[[], Arguments]
    weights: Callable[[], Arguments] = tuple
    dynamic: bool = True
    module: bool = False

    def build(self) -> tuple[nn.Module, Arguments]:
        """The model in eval mode and example arguments, the same each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            inputs, weights = self.inputs(), self.weights()
            if self.module:
                made = self.function()
                assert isinstance(made, nn.Module)
                return made.eval(), inputs
        return Call(self.function, len(inputs), weights).eval(), inputs


MODELS: dict[str, Model] = {}

# A family of functions a line.
# fmt: off


def _image(channels: int = 4, size: int = 8, batch: int = 3) -> Callable[[], Arguments]:
    return lambda: (torch.randn(batch, channels, size, size),)


def _rows(*shape: int, count: int = 1) -> Callable[[], Arguments]:
    return lambda: tuple(torch.randn(shape) for _ in range(count))


def _model(
    inputs: Callable[[], Arguments],
    weights: Callable[[], Arguments] = tuple,
    *,
    dynamic: bool = True,
    module: bool = False,
) -> Callable[[Callable[..., object]], Callable[..., object]]:
    def add(function: Callable[..., object]) -> Callable[..., object]:
        MODELS[function.__name__] = Model(function, inputs, weights, dynamic, module)
        return function

    return add


@_model(_image(), lambda: (torch.randn(4), torch.rand(4) + 0.5, torch.randn(4), torch.randn(4, 8)))
def norms(x: Tensor, mean: Tensor, var: Tensor, scale: Tensor, rows: Tensor) -> object:
    return (
        F.batch_norm(x, mean, var, scale, mean, False, 0.1, 1e-3),
        F.group_norm(x, 2, scale, mean),
        F.layer_norm(x, (8, 8)),
        F.layer_norm(x, (8,), rows[0], rows[1], 1e-3),
        F.instance_norm(x, weight=scale, bias=mean),
        F.local_response_norm(x, 3),
        F.rms_norm(x, (8,), rows[0], 1e-3),
        F.normalize(x, dim=1),
        F.normalize(x, p=1.0, dim=-1),
        x.norm(dim=1) + torch.linalg.vector_norm(x, ord=3, dim=(1,)),
    )


@_model(_rows(3, 6))
def activations(x: Tensor) -> object:
    return (
        [f(x) for f in (F.relu, F.relu6, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.softsign)],
        [f(x) for f in (F.tanhshrink, F.hardshrink, F.softshrink, F.hardtanh, F.hardswish, F.hardsigmoid)],
        [f(x) for f in (F.logsigmoid, torch.sigmoid, torch.tanh)],
        (F.leaky_relu(x, 0.2), F.threshold(x, 0.1, -1.0), F.glu(x), F.rrelu(x), F.softmin(x, dim=1)),
        (F.softmax(x, 1), F.log_softmax(x, 1), F.softmax(x, 0), F.elu(x, 0.5), F.gelu(x, approximate="tanh")),
    )


@_model(_rows(3, 6), lambda: (torch.rand(6),))
def prelu(x: Tensor, slope: Tensor) -> object:
    return F.prelu(x, slope), F.prelu(x, slope[:1])


@_model(lambda: (torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 4, 2, 1])))
def losses(x: Tensor, y: Tensor, labels: Tensor) -> object:
    p, q = x.sigmoid(), y.sigmoid()
    return (
        F.mse_loss(x, y),
        F.l1_loss(x, y, reduction="none"),
        F.smooth_l1_loss(x, y, reduction="sum"),
        F.huber_loss(x, y, delta=0.5),
        F.cross_entropy(x, labels),
        F.cross_entropy(x, labels, reduction="none", label_smoothing=0.1),
        F.cross_entropy(x, q / q.sum(1, keepdim=True)),
        F.nll_loss(F.log_softmax(x, 1), labels, ignore_index=2),
        F.binary_cross_entropy(p, q),
        F.binary_cross_entropy_with_logits(x, q, pos_weight=q[0]),
        F.kl_div(F.log_softmax(x, 1), F.softmax(y, 1), reduction="batchmean"),
        F.poisson_nll_loss(x, q),
        F.soft_margin_loss(x, y.sign()),
    )


@_model(lambda: (torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 4, 2, 1])))
def metric_losses(x: Tensor, y: Tensor, labels: Tensor) -> object:
    sign = torch.where(labels > 1, 1.0, -1.0)
    return (
        F.cosine_embedding_loss(x, y, sign),
        F.hinge_embedding_loss(x, sign[:, None].expand_as(x)),
        F.margin_ranking_loss(x[:, 0], y[:, 0], sign),
        F.multi_margin_loss(x, labels),
        F.multilabel_soft_margin_loss(x, (y > 0).float()),
        F.triplet_margin_loss(x, y, x + 1),
        F.triplet_margin_with_distance_loss(x, y, x * 2),
        F.cosine_similarity(x, y),
        F.pairwise_distance(x, y),
    )


@_model(_image(2, 6))
def pads(x: Tensor) -> object:
    return (
        F.pad(x, (1, 2)),
        F.pad(x, (1, 2, 0, 1), value=0.5),
        F.pad(x, (-1, 2, 1, -2)),
        F.pad(x, (2, 1, 1, 2), mode="reflect"),
        F.pad(x, (2, 1, 1, 2), mode="replicate"),
        F.pad(x, (2, 1, 1, 2), mode="circular"),
        F.pad(x, (0, 0, 0, 0, 1, 1)),
        F.pad(x[:, :, 0], (2, 2), mode="reflect"),
        F.pad(x[:, :, None], (1, 1, 1, 1, 1, 1), mode="replicate"),
        F.pad(x > 0, (1, 1), value=True),
        F.pad(x.long(), (1, 1), value=3),
    )


@_model(_image(2, 5))
def interpolate(x: Tensor) -> object:
    row, volume = x[:, :, 0], x[:, :, None].expand(-1, -1, 4, -1, -1)
    return (
        F.interpolate(x, scale_factor=2),
        F.interpolate(x, size=(7, 3), mode="nearest-exact"),
        F.interpolate(x, size=(7, 3), mode="bilinear"),
        F.interpolate(x, scale_factor=(1.5, 2.0), mode="bilinear", align_corners=True),
        F.interpolate(x, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True),
        F.interpolate(x, size=(9, 8), mode="bicubic"),
        F.interpolate(x, size=(9, 8), mode="bicubic", align_corners=True),
        F.interpolate(x, size=(3, 3), mode="area"),
        F.interpolate(x, size=(3, 4), mode="bilinear", antialias=True),
        F.interpolate(row, scale_factor=3, mode="linear"),
        F.interpolate(row, size=7, mode="nearest"),
        F.interpolate(volume, scale_factor=2, mode="trilinear"),
        F.interpolate(volume, size=(3, 3, 3), mode="nearest"),
        F.upsample(x, scale_factor=2),
    )


@_model(lambda: (torch.randn(3, 2, 6, 5), torch.rand(3, 4, 4, 2) * 2.4 - 1.2))
def grids(x: Tensor, grid: Tensor) -> object:
    modes = [(m, p, a) for m in ("bilinear", "nearest", "bicubic") for p in ("zeros", "border") for a in (True, False)]
    modes.append(("bilinear", "reflection", False))
    return [F.grid_sample(x, grid, m, p, a) for m, p, a in modes]


@_model(lambda: (torch.randn(3, 2, 6, 5), torch.randn(3, 2, 3)))
def affine(x: Tensor, theta: Tensor) -> object:
    grid = F.affine_grid(theta, [x.shape[0], 2, 4, 4], align_corners=False)
    return grid, F.grid_sample(x, grid, align_corners=False)


@_model(_image(4, 6))
def unfolding(x: Tensor) -> object:
    columns = F.unfold(x, 3, dilation=1, padding=1, stride=2)
    return (
        columns,
        F.fold(columns, (6, 6), 3, padding=1, stride=2),
        x.unfold(2, 3, 2),
        x.unfold(3, 2, 1).unfold(2, 2, 2).sum(-1),
        F.pixel_shuffle(x, 2),
        F.pixel_unshuffle(x, 3),
        F.channel_shuffle(x, 2),
        x.flip(2).roll(2, 3).rot90(1, (2, 3)),
    )


@_model(_image(4, 9))
def pools(x: Tensor) -> object:
    row, volume = x[:, :, 0], x[:, :, None].expand(-1, -1, 5, -1, -1).contiguous()
    return (
        F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
        F.max_pool2d(x, 2, return_indices=True),
        F.max_pool2d(x, 3, 1, 1, 2),
        F.avg_pool2d(x, 2, ceil_mode=True),
        F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, divisor_override=5),
        F.lp_pool2d(x, 2, 3, 2),
        F.adaptive_avg_pool2d(x, 1),
        F.adaptive_avg_pool2d(x, (4, 3)),
        F.adaptive_max_pool2d(x, (2, 3)),
        F.adaptive_max_pool2d(x, 3, return_indices=True),
        F.max_pool1d(row, 2),
        F.avg_pool1d(row, 3, 1, 1),
        F.adaptive_avg_pool1d(row, 4),
        F.adaptive_max_pool1d(row, 2),
        F.max_pool3d(volume, 2),
        F.avg_pool3d(volume, 2, 2, 1),
        F.adaptive_avg_pool3d(volume, (2, 3, 1)),
    )


@_model(_image(4, 6))
def unpooling(x: Tensor) -> object:
    values, at = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(values, at, 2)


@_model(_image(4, 9), lambda: (torch.randn(4, 2, 3, 3), torch.randn(4), torch.randn(4, 3, 3, 3), torch.randn(4, 4, 3)))
def convolutions(x: Tensor, grouped: Tensor, bias: Tensor, transposed: Tensor, rows: Tensor) -> object:
    volume = x[:, :, None].expand(-1, -1, 3, -1, -1)
    return (
        F.conv2d(x, grouped, bias, 2, 1, groups=2),
        F.conv2d(x, grouped, padding="same", groups=2),
        F.conv2d(x, grouped, dilation=2, groups=2),
        F.conv_transpose2d(x, transposed, None, 2, 1, 1),
        F.conv_transpose2d(x, transposed[:, :2], padding=1, groups=2, dilation=2),
        F.conv1d(x[:, :, 0], rows, bias, padding="same", dilation=2),
        F.conv_transpose1d(x[:, :, 0], rows, stride=3),
        F.conv3d(volume, transposed[:, :2, None], groups=2, padding=(1, 0, 1)),
        F.conv_transpose3d(volume, transposed[:, :, None], stride=(2, 1, 1)),
        F.conv2d(x[0], grouped, groups=2),
    )


@_model(lambda: (torch.tensor([[0, 5, 2], [1, 0, 6]]), torch.rand(2, 3)), lambda: (torch.randn(7, 4),))
def embeddings(ids: Tensor, scale: Tensor, table: Tensor) -> object:
    return (
        F.embedding(ids, table),
        F.embedding(ids, table, padding_idx=0),
        F.embedding_bag(ids, table, mode="mean"),
        F.embedding_bag(ids, table, mode="sum", per_sample_weights=scale),
        F.embedding_bag(ids, table, mode="max"),
        F.one_hot(ids, 7),
        table[ids].sum(1),
        table.index_select(0, ids.reshape(-1)),
    )


@_model(lambda: (torch.tensor([0, 5, 2, 1, 0, 6]),), lambda: (torch.randn(7, 4), torch.tensor([0, 2, 5])))
def bags(ids: Tensor, table: Tensor, offsets: Tensor) -> object:
    return F.embedding_bag(ids, table, offsets, mode="mean"), F.embedding_bag(ids, table, offsets, mode="sum")


@_model(lambda: (torch.randn(4, 5), torch.rand(4, 5).argsort(1)[:, :3], torch.randn(4, 3)))
def scatters(x: Tensor, at: Tensor, new: Tensor) -> object:
    return (
        x.gather(1, at),
        x.scatter(1, at.sort(1)[0][:, :1], 0.5),
        x.scatter_add(1, at, new),
        *(x.scatter_reduce(1, at, new, how) for how in ("sum", "prod", "amax", "amin", "mean")),
        x.scatter_reduce(1, at, new, "amax", include_self=False),
        x.index_add(1, at[0], new),
        x.index_fill(1, at[0], 2.0),
        x.index_copy(1, torch.tensor([3, 0, 1]), new),
        x.slice_scatter(new[:, :2], 1, 1, 3),
        x.select_scatter(new[:, 0], 1, 2),
        torch.zeros(5).index_put((at[0],), new[0], accumulate=True),
    )


@_model(lambda: (torch.randn(4, 5, 6), torch.tensor([0, 3, 1, 1])))
def indexing(x: Tensor, at: Tensor) -> object:
    rows = torch.arange(x.shape[0])
    return (
        x[rows, at],
        x[:, [0, 2], 1:4],
        x[:, at, at],
        x[..., -1],
        x[:, None, ::2],
        x[:, 1:-1, -3:],
        x.take(at),
        x.select(1, 2),
        x.narrow(2, 1, 3),
        x[at > 0].sum(),
        torch.where(x > 0, x, x[:, :1]),
        x.masked_fill(x < 0, -1.0),
        x.diagonal(dim1=1, dim2=2),
        torch.diag_embed(x[:, 0]),
        torch.tril(x) + torch.triu(x, 1),
        x.index_select(1, at),
    )


@_model(_rows(3, 6))
def cumulative(x: Tensor) -> object:
    return (
        x.cumsum(1),
        x.cumprod(1),
        x.logcumsumexp(1),
        x.cummax(1),
        x.cummin(1),
        (x > 0).cumsum(1),
        x.diff(dim=1),
        x.cumsum(0),
        torch.trapezoid(x, dim=1),
        torch.cumulative_trapezoid(x, dim=1),
    )


@_model(_rows(4, 7))
def ordering(x: Tensor) -> object:
    return (
        x.sort(1),
        x.sort(dim=1, descending=True, stable=True),
        x.argsort(1),
        x.topk(3, 1),
        x.topk(2, 1, largest=False),
        x.kthvalue(3, 1),
        x.median(1),
        x.mode(1),
        x.quantile(0.3, 1),
        torch.nanmedian(x, 1),
        x.argmax(1),
        x.argmin(),
        torch.msort(x.t()),
        x.max(1),
        x.aminmax(dim=1),
    )


@_model(_rows(4, 7), lambda: (torch.linspace(-1, 1, 6),))
def searching(x: Tensor, edges: Tensor) -> object:
    return (
        torch.bucketize(x, edges),
        torch.bucketize(x, edges, right=True),
        torch.searchsorted(edges, x),
        torch.searchsorted(x.sort(1)[0], x, right=True),
        torch.isin(x.round(), torch.tensor([0.0, 1.0])),
        torch.histc(x, 4, -2, 2),
    )


@_model(_rows(4, 7))
def reductions(x: Tensor) -> object:
    p = x.exp()
    return (
        [f(x, dim=1) for f in (torch.sum, torch.mean, torch.prod, torch.amax, torch.amin, torch.std, torch.var)],
        (torch.var_mean(x, 1), x.std(1, correction=0), x.logsumexp(1), p.log().sum(), x.norm(), x.nansum(1), x.nanmean(1)),
        ((x > 0).any(1), (x > 0).all(1), (x > 0).sum(1), torch.count_nonzero(x, 1), x.sum((0, 1)), x.mean()),
        (torch.dist(x, x + 1), x.argmax(1, keepdim=True)),
    )


@_model(_rows(4, 5, 3, count=2))
def products(x: Tensor, y: Tensor) -> object:
    return (
        torch.einsum("bij,bkj->bik", x, y),
        torch.einsum("bij,bij->b", x, y),
        torch.einsum("bij->bji", x),
        torch.tensordot(x, y, ([1, 2], [1, 2])),
        torch.bmm(x, y.transpose(1, 2)),
        torch.baddbmm(x, x, y[:, :3], beta=0.5, alpha=2.0),
        torch.matmul(x, y[0].t()),
        torch.outer(x[:, 0, 0], y[0, :, 0]),
        torch.cross(x, y, dim=2),
        torch.inner(x, y[0]),
        torch.vdot(x[0, 0], y[0, 0]),
        torch.addmm(x[:, 0], x[:, 1], y[0, :3]),
        F.bilinear(x, y, x.new_ones(2, 3, 3)),
        torch.block_diag(x[0], y[0]),
        torch.cartesian_prod(x[0, :, 0], y[0, :, 0]),
        torch.vander(x[0, :, 0], 3),
    )


@_model(_rows(3, 4, 5, count=2))
def distances(x: Tensor, y: Tensor) -> object:
    return (
        torch.cdist(x, y[:, :2]),
        torch.cdist(x, y, p=1.0),
        torch.cdist(x, y, p=float("inf")),
        torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist"),
        F.pdist(x[0]),
    )


@_model(lambda: (torch.randn(3, 4, 4),))
def linear_algebra(x: Tensor) -> object:
    spd = x @ x.transpose(1, 2) + 4 * torch.eye(4)
    return (
        torch.linalg.det(spd),
        torch.linalg.inv(spd),
        torch.linalg.solve(spd, x),
        torch.linalg.cholesky(spd),
        torch.linalg.matrix_norm(x),
        torch.linalg.matrix_power(x, 3),
        torch.linalg.slogdet(spd),
        torch.logdet(spd),
        torch.linalg.solve_triangular(torch.tril(spd), x, upper=False),
        torch.cholesky_solve(x, torch.linalg.cholesky(spd)),
        torch.linalg.vecdot(x, x),
        torch.diagonal(spd, dim1=1, dim2=2).sum(1),
        torch.matrix_exp(x * 0.1),
        torch.linalg.norm(x, dim=(1, 2)),
    )


@_model(lambda: (torch.rand(3, 6) * 3 + 0.2,))
def special_functions(x: Tensor) -> object:
    s = torch.special
    return (
        [f(x) for f in (torch.erf, torch.erfc, torch.lgamma, torch.digamma, s.i0, s.i0e, s.i1, s.log_ndtr, s.ndtr)],
        [f(x / 4) for f in (torch.erfinv, s.ndtri, torch.logit, s.entr, torch.sinc, s.expit)],
        (torch.xlogy(x, x + 1), s.xlog1py(x, x), torch.polygamma(1, x), torch.mvlgamma(x + 1, 2)),
        (s.erfcx(x), s.bessel_j0(x)),
    )


@_model(lambda: (torch.rand(3, 6) * 0.8 + 0.1, torch.rand(3, 6) + 0.5))
def elementwise(x: Tensor, y: Tensor) -> object:
    t = torch
    return (
        [f(x) for f in (t.sin, t.cos, t.tan, t.asin, t.acos, t.atan, t.sinh, t.cosh, t.asinh, t.atanh, t.exp, t.exp2)],
        [f(x) for f in (t.expm1, t.log, t.log2, t.log10, t.log1p, t.sqrt, t.rsqrt, t.square, t.reciprocal, t.frac)],
        [f(x * 5) for f in (t.floor, t.ceil, t.round, t.trunc, t.sign, t.sgn, t.signbit, t.neg, t.abs, t.acosh)],
        [f(x, y) for f in (t.atan2, t.fmod, t.remainder, t.hypot, t.maximum, t.minimum, t.fmax, t.copysign, t.pow)],
        [f(x, y) for f in (t.logaddexp, t.logaddexp2, t.heaviside, t.floor_divide, t.true_divide)],
        (t.lerp(x, y, 0.3), t.addcmul(x, x, y, value=2), t.addcdiv(x, x, y), t.clamp(x, y * 0.1, y), t.nan_to_num(x)),
        (t.round(x * 10, decimals=1), t.div(x, y, rounding_mode="trunc"), t.rad2deg(x), t.ldexp(x, t.tensor(2))),
        (t.frexp(x), t.isclose(x, y), t.eq(x, y), t.float_power(x, 2), t.gcd((x * 20).int(), (y * 30).int())),
    )


@_model(lambda: (torch.randint(-50, 50, (3, 6)), torch.randint(0, 7, (3, 6))))
def bits(x: Tensor, y: Tensor) -> object:
    return (
        (x & y, x | y, x ^ y, ~x, x << y, x >> y, x % 7, x // 3, -x, x**2, x.abs(), x.clamp(-5, 5)),
        (torch.bitwise_left_shift(x, y), (x > 0) & ~(y > 3), (x > 0) ^ (y > 3), torch.logical_not(x)),
        (x.to(torch.uint8), x.to(torch.int8) * 2, x.float() / 3, torch.gcd(x, y), torch.lcm(x, y), x.bool().int()),
        (x.int() & 3, x.to(torch.int16) | 1, x == y, torch.fmod(x, 5), x.sum(1), x.max(1), x.cumsum(1)),
    )


@_model(lambda: (torch.randn(3, 5, 8), torch.tensor([5, 2, 3])))
def masks(x: Tensor, lengths: Tensor) -> object:
    n = x.shape[1]
    keep = torch.arange(n)[None] < lengths[:, None]
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    scores = (x @ x.transpose(1, 2)).masked_fill(~causal, float("-inf")).softmax(-1)
    mean = (x * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
    return scores, mean, x.masked_fill(~keep[..., None], 0), torch.logical_and(keep, x[..., 0] > 0), keep.float().argmin(1)


@_model(lambda: (torch.randn(3, 4, 6, 8), torch.randn(3, 4, 5, 8), torch.rand(3, 1, 6, 5) > 0.3))
def attention(q: Tensor, k: Tensor, mask: Tensor) -> object:
    sdpa = F.scaled_dot_product_attention
    return (
        sdpa(q, k, k),
        sdpa(q, k, k, attn_mask=mask | (mask.sum(-1, keepdim=True) == 0)),
        sdpa(q, k, k, attn_mask=mask.float()),
        sdpa(q, q, q, is_causal=True),
        sdpa(q, k, k, scale=0.2),
        sdpa(q, k[:, :2], k[:, :2], enable_gqa=True),
        sdpa(q[:, 0], k[:, 0], k[:, 0]),
    )


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.MultiheadAttention(16, 4, batch_first=True)
        self.second = nn.MultiheadAttention(16, 2, kdim=8, vdim=8, batch_first=True)

    def forward(self, x: Tensor, memory: Tensor) -> object:
        y, weights = self.first(x, x, x)
        z, _ = self.second(y, memory, memory, need_weights=False)
        return z, weights


@_model(lambda: (torch.randn(3, 5, 16), torch.randn(3, 7, 8)), module=True)
def multihead_attention() -> nn.Module:
    return SelfAttention()


@_model(lambda: (torch.randn(3, 5, 16), torch.randn(3, 4, 16)), module=True)
def transformer() -> nn.Module:
    return nn.Transformer(16, 4, 1, 1, 32, batch_first=True)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.encoder(x, mask, torch.zeros_like(padding, dtype=x.dtype).masked_fill(padding, float("-inf")))


@_model(lambda: (torch.randn(3, 5, 16), torch.arange(5)[None] >= torch.tensor([[5], [3], [4]])), module=True)
def masked_transformer() -> nn.Module:
    return Masked()


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTMCell(4, 6), nn.GRUCell(6, 6)
        self.tanh, self.relu = nn.RNNCell(6, 5), nn.RNNCell(5, 5, nonlinearity="relu")

    def forward(self, x: Tensor) -> object:
        h = c = x.new_zeros(x.shape[0], 6)
        for step in x.unbind(1):
            h, c = self.lstm(step, (h, c))
            h = self.gru(h, h)
        return h, c, self.relu(self.tanh(h))


@_model(lambda: (torch.randn(3, 4, 4),), module=True)
def cells() -> nn.Module:
    return Cells()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True)
        self.projected = nn.LSTM(12, 6, proj_size=3, batch_first=True)
        self.gru = nn.GRU(3, 5, batch_first=True)
        self.rnn = nn.RNN(5, 4, batch_first=True, nonlinearity="relu")

    def forward(self, x: Tensor) -> object:
        y, state = self.lstm(x)
        z, other = self.projected(y)
        w, last = self.gru(z)
        return y, state, z, other, last, self.rnn(w)


@_model(lambda: (torch.randn(3, 5, 4),), module=True)
def recurrent() -> nn.Module:
    return Recurrent()


class Choice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        def inner(x: Tensor) -> Tensor:
            return torch.cond(x.mean() > 1, self.a, self.b, (x,))

        return torch.cond(x.sum() > 0, inner, lambda x: x * 2, (x,))


@_model(_rows(3, 4), module=True)
def nested_choice() -> nn.Module:
    return Choice()


@_model(_rows(3, 4, 6))
def shapes(x: Tensor) -> object:
    n = x.shape[0]
    return (
        (x.reshape(n, -1), x.flatten(1), x.permute(0, 2, 1), x.transpose(1, 2), x.movedim(2, 1), x.swapaxes(1, 2)),
        (x.unsqueeze(1).squeeze(1), x.expand(2, n, 4, 6), x.repeat(1, 2, 1), x.tile(2), x.repeat_interleave(2, 1)),
        (x.chunk(3, 2), x.split([1, 3], 1), x.unbind(1), x.tensor_split(2, 2), torch.hsplit(x, 2), torch.dsplit(x, 3)),
        (torch.cat([x, x], 1), torch.stack([x, x], 1), torch.hstack([x, x]), torch.dstack([x, x]), torch.vstack([x, x])),
        (x.unflatten(2, (2, 3)), x.ravel(), x.view(n, 2, 2, 6), torch.atleast_2d(x[0, 0]), x.flip(1), x.fliplr()),
        (torch.broadcast_to(x[:, :1], (n, 4, 6)), torch.meshgrid(x[0, :, 0], x[0, 0], indexing="ij"), x.mT),
        (torch.column_stack([x[:, 0], x[:, 1]]), x.new_zeros(n, 2), torch.full_like(x, 2.0), x.size(0) * 2, x.view_as(x)),
    )


@_model(_rows(3, 16), lambda: (torch.randn(1, 1, 3),))
def signals(x: Tensor, kernel: Tensor) -> object:
    window = torch.hann_window(8) + torch.hamming_window(8) + torch.bartlett_window(8) + torch.blackman_window(8)
    frames = x.unfold(1, 8, 4) * window
    return (
        frames.square().sum(-1).clamp(min=1e-5).log(),
        F.conv1d(x[:, None], kernel, padding=1),
        x[:, 1:] - 0.97 * x[:, :-1],
        torch.angle(x),
        F.avg_pool1d(x[:, None], 4, 2),
        torch.sin(torch.linspace(0, 3, 16) * x) + torch.logspace(0, 1, 16),
    )


class Layers(nn.Module):
    """Layers that are nothing in eval mode, or rarely used."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout2d(0.3), nn.ReflectionPad2d(1), nn.Conv2d(2, 4, 3), nn.ZeroPad2d(1), nn.CELU(), nn.Dropout(0.2),
            nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.AlphaDropout(0.1), nn.Hardtanh(),
            nn.UpsamplingBilinear2d(scale_factor=2), nn.FeatureAlphaDropout(0.2), nn.Softmax2d(), nn.PReLU(4),
            nn.LPPool2d(2, 2), nn.LocalResponseNorm(3), nn.Unflatten(1, (2, 2)), nn.Flatten(1, 2), nn.ChannelShuffle(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.alpha_dropout(F.dropout(self.layers(x), 0.5, training=False), 0.5, training=False)


@_model(_image(2, 6), module=True)
def layers() -> nn.Module:
    return Layers()
