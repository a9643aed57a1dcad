"""Small models that try what a target has to spell: literals, lists, tuples, sizes, numbers, odd outputs.

`CASES[name]` is `(module, args, dynamic_shapes)`; each is the same function at any batch size.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

Case = tuple[nn.Module, tuple[object, ...], object]
X = torch.linspace(-2, 2, 24).reshape(4, 6)
BATCH = ({0: "batch"},)


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., object], **buffers: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in buffers.items():
            self.register_buffer(name, value)
        self.eval()

    def forward(self, *args: torch.Tensor) -> object:
        return self.function(*args)


class Indexed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("at", torch.tensor([2, 0, 1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, self.at] + x[:, None, self.at][:, 0] * x[..., -1:]


def sizes(x: torch.Tensor) -> tuple[object, ...]:
    n = x.shape[0]
    return (
        x.reshape(n * 2, -1),
        x.new_zeros(n // 2 + 1, n % 3 + 1, -n + 20),
        x.expand(n, 6).sum() + n / 4,
        torch.arange(max(n, 3)).float(),
        x[: math.ceil(n / 2)],
        x[: min(n, 2)],
        n * n,
        n + 1,
    )


def lists(x: torch.Tensor) -> tuple[object, ...]:
    a, b = x.split([2, 4], 1)
    c, d, e = x.chunk(3, 1)
    rows = x.unbind(1)
    return (
        torch.cat([a, b, c], 1),
        torch.stack([d, e]),
        rows[0] + rows[5],
        a[:, :1].squeeze(1),
        torch.cat([x]),
    )


def results(x: torch.Tensor) -> tuple[object, ...]:
    values, at = x.max(1)
    top, where = x.topk(2, 1)
    ordered, order = x.sort(1, descending=True)
    return values, at, top, where, ordered, order, x.max(), x.argmax(1, keepdim=True)


def literals(x: torch.Tensor) -> tuple[object, ...]:
    return (
        x.clamp(min=-1e-7),
        x.clamp(max=1e20),
        x.masked_fill(x > 0, float("-inf")),
        torch.where(x > 0, x, float("nan")),
        torch.full_like(x, float("inf")),
        x.to(torch.bfloat16),
        (x > 0).to(torch.int8) + True,
        torch.zeros(3, dtype=torch.float64),
        torch.full((2,), True),
        torch.full_like(x > 0, False),
        (x > 0) + True,
        (x > 0) * True,
        torch.where(x > 0, True, False),
        torch.scalar_tensor(True),
        torch.full((2,), 3),
        x[:, 1:9223372036854775807:2],
        x.sum((), keepdim=True),
        x.mean([0, 1]),
        torch.tensor(2.5) + x,
        x * 2,
        x + 1.0,
        2**x,
        x**2,
        1 - x,
        3 / (x + 10),
        F.pad(x, (1, 2), value=-0.5),
        F.gelu(x, approximate="tanh"),
        torch.div(x, 0.3, rounding_mode="floor"),
    )


def images(x: torch.Tensor) -> tuple[object, ...]:
    return (
        F.interpolate(x, scale_factor=2.0),
        F.interpolate(x, size=(3, 5), mode="bilinear", align_corners=False),
        F.interpolate(x, scale_factor=1.5, mode="bicubic"),
        F.avg_pool2d(x, 2, ceil_mode=True),
        F.adaptive_avg_pool2d(x, (None, 2)),
        F.max_pool2d(x, 3, 2, 1),
    )


def attention(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return (
        F.scaled_dot_product_attention(q, k, k, is_causal=True) + torch.einsum("bhid,bhjd->bhij", q, k).mean()
    )


def outputs(x: torch.Tensor) -> dict[str, object]:
    y = torch.relu(x)
    return {
        "same": x,
        "twice": (y, y),
        "none": None,
        "rows": x.shape[0],
        "seven": 7,
        "text": "a",
        "flag": True,
    }


def nothing(x: torch.Tensor) -> tuple[object, ...]:
    return (None, 3)


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.drop(x)
        return self.drop(y) + 1, y


class Sharing(nn.Module):
    """Weights that are views: of one another, and of memory much larger than they are."""

    def __init__(self) -> None:
        super().__init__()
        large = torch.arange(6000.0).reshape(1000, 6) / 1000
        self.register_buffer("head", large[:2])
        self.register_buffer("turned", large[:2].t())
        self.weight = nn.Parameter(large[500:502])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.head) + x @ self.turned + F.linear(x, self.weight)


class Named(nn.Module):
    """Arguments whose names mean something to Python or TorchScript."""

    def forward(
        self, input: torch.Tensor, lambda_: torch.Tensor, List: torch.Tensor, sum: torch.Tensor
    ) -> torch.Tensor:
        return input + lambda_ * List - sum


CASES: dict[str, Case] = {
    "indexing": (Indexed().eval(), (X,), BATCH),
    "sizes": (Call(sizes), (X,), [{0: "batch"}]),
    "lists": (Call(lists), (X,), [{0: "batch"}]),
    "results": (Call(results), (X,), [{0: "batch"}]),
    "literals": (Call(literals), (X,), [{0: "batch"}]),
    "images": (Call(images), (torch.randn(2, 3, 8, 8),), [{0: "batch"}]),
    "attention": (Call(attention), (torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4)), [{0: "b"}, {0: "b"}]),
    "outputs": (Call(outputs), (X,), [{0: "batch"}]),
    "nothing": (Call(nothing), (X,), None),
    "no input": (Call(lambda: torch.arange(3) + 1), (), None),
    "dropout": (Dropping().eval(), (X,), BATCH),
    "views": (Sharing().eval(), (X,), BATCH),
    "names": (Named().eval(), (X, X, X, X), ({0: "batch"},) * 4),
    "scalars": (Call(lambda x, n: x * n + n.long()), (X, torch.tensor(1.5)), [{0: "batch"}, None]),
}
