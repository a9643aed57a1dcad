"""`Program`, its signature, text form, file form and shape inference."""

from fxopt.program.inference import fake_value, infer_value, value_key
from fxopt.program.program import Origin, Program, expect_program, new_fake_mode, origins_of
from fxopt.program.quantized import InFloats, Quantized, in_floats
from fxopt.program.signature import (
    STATE,
    ConstantSpec,
    Dim,
    ScalarSpec,
    Signature,
    Spec,
    Symbol,
    TensorSpec,
    dtype_name,
    evaluate_dim,
    named_dtype,
    solve_sizes,
)
from fxopt.program.trained import trained_as
from fxopt.program.trees import signature_from_json, signature_to_json

__all__ = [
    "STATE",
    "ConstantSpec",
    "Dim",
    "InFloats",
    "Origin",
    "Program",
    "Quantized",
    "ScalarSpec",
    "Signature",
    "Spec",
    "Symbol",
    "TensorSpec",
    "dtype_name",
    "evaluate_dim",
    "expect_program",
    "fake_value",
    "in_floats",
    "infer_value",
    "named_dtype",
    "new_fake_mode",
    "origins_of",
    "signature_from_json",
    "signature_to_json",
    "solve_sizes",
    "trained_as",
    "value_key",
]
