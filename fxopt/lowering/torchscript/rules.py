"""Ops that TorchScript takes otherwise, or that are fxopt's own, as text that loads with torch alone."""

from typing import TYPE_CHECKING

from torch.fx import Node

from fxopt.lowering.target import lowering_rule
from fxopt.lowering.torchscript.literals import literal_text
from fxopt.ops.schema import bind

if TYPE_CHECKING:
    from fxopt.lowering.torchscript.emit import Emitter

__all__: list[str] = []


@lowering_rule("torchscript", "aten.expand")
def expand(emitter: "Emitter", node: Node) -> str:
    """Without `implicit`, by which TorchScript marks expansions that it may leave out."""
    return f"{_name(emitter, node.args[0])}.expand({literal_text(node.args[1], None, emitter.name_of)})"


@lowering_rule("torchscript", "fxopt.fake_quantize")
def fake_quantize(emitter: "Emitter", node: Node) -> str:
    """The same arithmetic as the op's."""
    x, scale, zero_point = (_name(emitter, bind(node)[n]) for n in ("x", "scale", "zero_point"))
    return f"({_rounded(emitter, node)} - {zero_point}.to({x}.dtype)) * {scale}.to({x}.dtype)"


@lowering_rule("torchscript", "fxopt.to_integers")
def to_integers(emitter: "Emitter", node: Node) -> str:
    """The same arithmetic as the op's."""
    return f"{_rounded(emitter, node)}.to({node.meta['val'].dtype})"


def _rounded(emitter: "Emitter", node: Node) -> str:
    """The integers of a rounding, in the type of the floats."""
    bound = bind(node)
    x, scale, zero_point = (_name(emitter, bound[n]) for n in ("x", "scale", "zero_point"))
    q = f"torch.round({x} / {scale}.to({x}.dtype)) + {zero_point}.to({x}.dtype)"
    return f"torch.clamp({q}, {bound['quant_min']}, {bound['quant_max']})"


@lowering_rule("torchscript", "fxopt.dequantize")
def dequantize(emitter: "Emitter", node: Node) -> str:
    """The same arithmetic as the op's."""
    q, scale, zero_point = (_name(emitter, argument) for argument in node.args)
    return f"({q}.to({scale}.dtype) - {zero_point}.to({scale}.dtype)) * {scale}"


@lowering_rule("torchscript", "fxopt.round_blocks")
def round_blocks(emitter: "Emitter", node: Node) -> str:
    """The same arithmetic as the op's."""
    x, given, high = _name(emitter, node.args[0]), _name(emitter, node.args[1]), node.args[2]
    blocks = f"{x}.reshape({given}.size() + [{x}.size(-1) // {given}.size(-1)])"
    largest = f"{given}.unsqueeze(-1)"
    inverse = f"torch.where({largest} == 0, torch.zeros_like({largest}), {high} / {largest})"
    return f"(torch.round({blocks} * {inverse}) * ({largest} / {high})).reshape({x}.size())"


@lowering_rule("torchscript", "fxopt.choose_qparams")
def choose_qparams(emitter: "Emitter", node: Node) -> str:
    """The same arithmetic as the op's."""
    x, (low, high) = _name(emitter, node.args[0]), node.args[1:]
    kind = "torch.uint8" if low == 0 else "torch.int8"
    least, most = f"torch.clamp_max(torch.amin({x}), 0.0)", f"torch.clamp_min(torch.amax({x}), 0.0)"
    width = f"(({most} - {least}) / ({high} - {low}))"
    scale = f"torch.where({width} == 0, torch.ones_like({width}), {width})"
    zero = (
        f"torch.clamp(torch.round({low} - {least} / {scale}), {low}, {high}).nan_to_num({low}.0).to({kind})"
    )
    empty = f"(torch.tensor(1.0, dtype={x}.dtype), torch.tensor(0, dtype={kind}))"
    return f"({scale}, {zero}) if {x}.numel() > 0 else {empty}"


def _name(emitter: "Emitter", argument: object) -> str:
    assert isinstance(argument, Node)
    return emitter.name_of(argument)
