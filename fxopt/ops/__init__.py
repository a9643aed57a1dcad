"""What is known of each op, written once: `OpInfo` entries, schemas, canonical arguments, index maps.

>>> import torch
>>> from fxopt.ops import op_info, resolve_op
>>> op_info(resolve_op("aten.mul", (torch.ones(2), 2))).linear_in
('self', 'other')
"""

from fxopt.ops.canonical import canonical_arguments, plain
from fxopt.ops.collectives import all_gather, all_reduce
from fxopt.ops.dependence import align_inputs, align_outputs, call_index_map
from fxopt.ops.flops import call_flops
from fxopt.ops.index_map import Dimension, Index, IndexMap, IndexMapError, Mark, Operand, parse_index_map
from fxopt.ops.info import (
    Aliasing,
    Cut,
    Kept,
    OpInfo,
    QuantRole,
    Resized,
    op_info,
    op_key,
    register_op,
    registered_ops,
)
from fxopt.ops.quantized import (
    choose_qparams,
    dequantize,
    fake_quantize,
    quantize,
    round_blocks,
    to_integers,
)
from fxopt.ops.resolve import UnknownOpError, resolve_op
from fxopt.ops.schema import (
    ArgumentKind,
    argument_kinds,
    bind,
    bind_call,
    bind_values,
    check_taken,
    is_commutative,
    is_mutating,
    is_pure,
    is_random,
    is_view,
    mutated_arguments,
    schema_arguments,
)
from fxopt.ops.traffic import call_bytes, outline, tensor_bytes, view_outline

__all__ = [
    "Aliasing",
    "ArgumentKind",
    "Cut",
    "Dimension",
    "Index",
    "IndexMap",
    "IndexMapError",
    "Kept",
    "Mark",
    "OpInfo",
    "Operand",
    "QuantRole",
    "Resized",
    "UnknownOpError",
    "align_inputs",
    "align_outputs",
    "all_gather",
    "all_reduce",
    "argument_kinds",
    "bind",
    "bind_call",
    "bind_values",
    "call_bytes",
    "call_flops",
    "call_index_map",
    "canonical_arguments",
    "check_taken",
    "choose_qparams",
    "dequantize",
    "fake_quantize",
    "is_commutative",
    "is_mutating",
    "is_pure",
    "is_random",
    "is_view",
    "mutated_arguments",
    "op_info",
    "op_key",
    "outline",
    "parse_index_map",
    "plain",
    "quantize",
    "register_op",
    "registered_ops",
    "resolve_op",
    "round_blocks",
    "schema_arguments",
    "tensor_bytes",
    "to_integers",
    "view_outline",
]
