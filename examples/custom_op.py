"""An op of one's own, `torch.library`, with a rule that writes it as ONNX.

The eager and the TorchScript target call the op as it is; where their files are opened, this file must be imported first.
"""

import torch

import fxopt


@torch.library.custom_op("examples::snake", mutates_args=())
def snake(x: torch.Tensor, rate: float) -> torch.Tensor:
    """The snake function (Ziyin et al. 2020): x + sin(rate x)^2 / rate."""
    return x + torch.sin(rate * x) ** 2 / rate


@snake.register_fake
def _(x: torch.Tensor, rate: float) -> torch.Tensor:
    return torch.empty_like(x)


@fxopt.lowering_rule("onnx", "examples.snake")
def snake_in_onnx(builder, node):
    x, rate = node.args
    value = builder.operand(x)
    factor = builder.like(rate, value)
    wave = builder.op("Sin", builder.op("Mul", value, factor))
    return builder.op("Add", value, builder.op("Div", builder.op("Mul", wave, wave), factor))


class Net(torch.nn.Module):
    """A layer with the op behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.examples.snake(self.layer(x), 2.0)


def build():
    """The model and its example."""
    return Net().eval(), (torch.randn(3, 4),)
