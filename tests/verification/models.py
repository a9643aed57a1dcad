"""Small models with non-trivial weights, right rewrites of them, and wrong ones."""

import copy
from collections.abc import Callable
from functools import cache

import torch
from torch import nn

from fxopt.frontend import trace
from fxopt.program import Program


class ConvBn(nn.Module):
    """conv, batch norm, relu, conv, mean, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, bias=False)
        self.head = nn.Linear(8, 10)
        self.act: Callable[[torch.Tensor], torch.Tensor] = torch.relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.conv2(self.act(self.bn(self.conv(x))))).mean((2, 3)))


class Block(nn.Module):
    """A transformer block with two outputs of one shape."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
        self.axis, self.approximate = -1, "none"

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(mask[:, None, :] == 0, -1e9)
        x = x + self.out(torch.softmax(scores, self.axis) @ v)
        return x, x + self.down(nn.functional.gelu(self.up(x), approximate=self.approximate))


def seeded(cls: type[nn.Module], seed: int = 0) -> nn.Module:
    """A module in eval mode with random weights and statistics."""
    torch.manual_seed(seed)
    module = cls()
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_(0, 0.3)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" in name or "bn" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
    return module.eval()


def conv_bn(seed: int = 0) -> tuple[nn.Module, Program]:
    """A fresh module, and the program of one like it (shared: don't change it)."""
    return seeded(ConvBn, seed), _conv_bn(seed)


def block(seed: int = 0) -> tuple[nn.Module, Program]:
    """A fresh module, and the program of one like it (shared: don't change it)."""
    return seeded(Block, seed), _block(seed)


@cache
def _conv_bn(seed: int) -> Program:
    example = (torch.randn(2, 3, 8, 8),)
    return trace(seeded(ConvBn, seed), example, dynamic_shapes={"x": {0: "batch"}})


@cache
def _block(seed: int) -> Program:
    example = (torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.int64))
    shapes = {"x": {0: "batch", 1: "length"}, "mask": {0: "batch", 1: "length"}}
    return trace(seeded(Block, seed), example, dynamic_shapes=shapes)


def folded(module: nn.Module, *, eps: float = 1.0, sign: float = 1.0, bias: bool = True) -> nn.Module:
    """`ConvBn` with its norm folded into the first convolution, in float64 and rounded; or wrongly so."""
    result = copy.deepcopy(module)
    conv, bn, dtype = result.conv, result.bn, result.conv.weight.dtype
    with torch.no_grad():
        scale = bn.weight.double() / (bn.running_var.double() + eps * bn.eps).sqrt()
        shift = bn.bias.double() + (conv.bias.double() * bias - sign * bn.running_mean.double()) * scale
        conv.weight.copy_((conv.weight.double() * scale[:, None, None, None]).to(dtype))
        conv.bias.copy_(shift.to(dtype))
    result.bn = nn.Identity().eval()
    return result


def changed(module: nn.Module, change: Callable[[nn.Module], object]) -> nn.Module:
    """A copy that `change` was applied to."""
    result = copy.deepcopy(module)
    with torch.no_grad():
        change(result)
    return result
