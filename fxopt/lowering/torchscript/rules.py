"""Ops of fxopt's own as TorchScript that loads with torch alone."""

from typing import TYPE_CHECKING

from torch.fx import Node

from fxopt.lowering.target import lowering_rule
from fxopt.ops.schema import bind

if TYPE_CHECKING:
    from fxopt.lowering.torchscript.emit import Emitter

__all__: list[str] = []


@lowering_rule("torchscript", "fxopt.fake_quantize")
def fake_quantize(emitter: "Emitter", node: Node) -> str:
    """The same arithmetic as the op's."""
    bound = bind(node)
    x, scale, zero_point = (_name(emitter, bound[n]) for n in ("x", "scale", "zero_point"))
    q = f"torch.round({x} / {scale}.to({x}.dtype)) + {zero_point}.to({x}.dtype)"
    clamped = f"torch.clamp({q}, {bound['quant_min']}, {bound['quant_max']})"
    return f"({clamped} - {zero_point}.to({x}.dtype)) * {scale}.to({x}.dtype)"


@lowering_rule("torchscript", "fxopt.dequantize")
def dequantize(emitter: "Emitter", node: Node) -> str:
    """The same arithmetic as the op's."""
    q, scale, zero_point = (_name(emitter, argument) for argument in node.args)
    return f"({q}.to({scale}.dtype) - {zero_point}.to({scale}.dtype)) * {scale}"


def _name(emitter: "Emitter", argument: object) -> str:
    assert isinstance(argument, Node)
    return emitter.name_of(argument)
