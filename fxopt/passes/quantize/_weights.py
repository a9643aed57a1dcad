"""Rounding that needs no calibration: of weights, of tables, and of activations by their range at each call."""

from torch.fx import Node

from fxopt.ops import QuantRole, bind, op_info
from fxopt.passes._names import aten_name
from fxopt.passes.quantize._edges import Contraction, contraction_of, is_weight, may_overflow
from fxopt.passes.quantize._rounding import Rounding, called_with
from fxopt.passes.quantize._schemes import Schemes
from fxopt.rewriting import Rewriter

__all__ = ["round_blocks", "round_table", "round_weights"]

_BY_BLOCK = "int4-weights"
_DYNAMIC = "int8-dynamic"
_BY_CHANNEL = (_DYNAMIC, "int8-weights")


def round_table(
    rewriter: Rewriter, rule: str, rounding: Rounding, schemes: Schemes, node: Node
) -> Node | None:
    """Rounds the table that a call looks rows up in, by a scale a row; the call made anew, None if it is no such."""
    if aten_name(node) not in rounding.placement.tables:
        return None
    (name,) = op_info(node.target).picks
    table = bind(node)[name]
    if not is_weight(table):
        return None
    assert isinstance(table, Node)
    why = schemes.left_out(node)
    if why:
        rewriter.refuse(node, f"it stays in float: {why}", rule=rule)
        return None
    with rewriter.rewrite(rule, node):
        return _replace(rewriter, node, {table: rounding.weight(table, 0)[0]})


def round_weights(
    rewriter: Rewriter, rule: str, rounding: Rounding, schemes: Schemes, *, rows: bool = False
) -> None:
    """Rounds the weights of products, and what those read that are to be dynamic and have a kernel; tables too.

    With `rows` what linear layers read is divided by the largest magnitude of each row first, and their results are
    multiplied by it.
    """
    for node in rewriter.nodes():
        if not schemes.concern(node, *_BY_CHANNEL):
            continue
        round_table(rewriter, rule, rounding, schemes, node)
        found = contraction_of(node)
        if isinstance(found, str):
            if getattr(op_info(node.target), "role", None) is QuantRole.CONTRACTION:
                rewriter.refuse(node, f"it stays in float: {found}", rule=rule)
            continue
        why = schemes.left_out(node) or ("" if found.weight else "it is a product of two activations")
        if why:
            rewriter.refuse(node, f"it stays in float: {why}", rule=rule)
            continue
        dynamic = schemes.of(node) == _DYNAMIC
        float_input = _float_input(node, found, rounding) if dynamic else ""
        if float_input:
            rewriter.refuse(node, f"what it reads stays in float: {float_input}", rule=rule)
        bound = bind(node)
        weight, activation = bound[found.weight], bound[found.activations[0]]
        assert isinstance(weight, Node) and isinstance(activation, Node)
        with rewriter.rewrite(rule, node):
            operands = {weight: rounding.weight(weight, found.channel)[0]}
            if dynamic and not float_input and rows and aten_name(node) == "linear":
                rewriter.replace(
                    node, _by_row(rewriter, rounding, activation, operands[weight], bound["bias"])
                )
                continue
            if dynamic and not float_input:
                operands[activation] = rounding.dynamic(activation)
            _replace(rewriter, node, operands)


def _by_row(rewriter: Rewriter, rounding: Rounding, x: Node, weight: Node, bias: object) -> Node:
    """A linear layer that reads rows of the same largest magnitude."""
    rounded, largest = rounding.by_row(x)
    product = rewriter.call("aten.mul", rewriter.call("aten.linear", rounded, weight, None), largest)
    return product if bias is None else rewriter.call("aten.add", product, bias)


def round_blocks(
    rewriter: Rewriter, rule: str, rounding: Rounding, schemes: Schemes, *, block: int, symmetric: bool
) -> None:
    """Rounds weights of linear layers, and tables, to 4 bits by block; and what kernels of those read, if they do."""
    for node in rewriter.nodes():
        if not schemes.concern(node, _BY_BLOCK):
            continue
        found = contraction_of(node)
        name = op_info(node.target).picks[0] if aten_name(node) in rounding.placement.tables else ""
        if not isinstance(found, str):
            name = found.weight
        weight = bind(node)[name] if name else None
        if not is_weight(weight):
            continue
        assert isinstance(weight, Node)
        why = schemes.left_out(node) or _no_blocks(weight, found, block)
        if why:
            rewriter.refuse(node, f"it stays in float: {why}", rule=rule)
            continue
        with rewriter.rewrite(rule, node):
            operands = {weight: rounding.blocks(weight, block, symmetric=symmetric)}
            if not isinstance(found, str) and rounding.placement.rounds_blocks:
                x = bind(node)[found.activations[0]]
                assert isinstance(x, Node)
                operands[x] = rounding.read_by_block(x, block)
            _replace(rewriter, node, operands)


def _no_blocks(weight: Node, found: Contraction | str, block: int) -> str:
    """Why a weight has no blocks along the inputs of a linear layer, or along the rows of a table; "" if it has."""
    shape = weight.meta["val"].shape
    if len(shape) != 2 or (not isinstance(found, str) and (found.channel != 0 or found.result_channel != -1)):
        return "its weight is no matrix of a linear layer"
    return f"its {shape[1]} inputs are no multiple of blocks of {block}" if shape[1] % block else ""


def _float_input(node: Node, found: Contraction, rounding: Rounding) -> str:
    """Why a product has no kernel that rounds what it reads; "" if it has."""
    if aten_name(node) not in rounding.placement.dynamic:
        return f"{rounding.placement.name} has no kernel that rounds it at each call"
    if found.channel is None:
        return "its weight is no matrix"
    return may_overflow(node, found, rounding.placement)


def _replace(rewriter: Rewriter, node: Node, operands: dict[Node, Node]) -> Node:
    new = called_with(rewriter, node, operands)
    rewriter.replace(node, new)
    return new
