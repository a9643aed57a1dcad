"""Weights that a program rounds, as files hold them: integers."""

from fxopt.ops.quantized import fake_quantize
from fxopt.program.program import Program

__all__ = ["with_integer_weights"]


def with_integer_weights(program: Program) -> Program:
    """The program with its rounded weights stored as integers; itself if it rounds nothing."""
    if not any(node.target is fake_quantize for node in program.calls()):
        return program
    from fxopt.passes.quantize._integer_weights import StoreIntegerWeights
    from fxopt.pipeline import PassManager

    return PassManager.of([StoreIntegerWeights()]).run(program).program
