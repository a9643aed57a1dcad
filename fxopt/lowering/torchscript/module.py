"""Source text and weights to the bytes of a TorchScript file.

The module is built in a compilation unit of its own: in torch's shared one its class would get a name that
counts the modules made before it, and the same program would give other bytes each time.
"""

import contextlib
from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
import torch.jit._state as jit_state
from torch import nn

from fxopt.errors import LoweringError
from fxopt.lowering.few_bits import packed_bits
from fxopt.lowering.kernels.packing import pack, quietly
from fxopt.lowering.kernels.values import Packed
from fxopt.lowering.torchscript.emit import Source
from fxopt.lowering.torchscript.trials import trial_value
from fxopt.lowering.torchscript.unpacking import Unpacked
from fxopt.program.seal import SEAL_SIZE, sealed
from fxopt.program.weights import tighten

__all__ = ["SEAL_MARK", "script_bytes"]

_COMMENT = 2
"""Bytes at the end of a zip that tell the length of its comment."""
_TEXT = b"fxopt sha256 "
SEAL_MARK = (len(_TEXT) + SEAL_SIZE).to_bytes(_COMMENT, "little") + _TEXT
"""What stands before the hash at the end of a file: the hash is the zip's comment."""

# The class under which the module stands in the file: `__torch__.fxopt.Program`.
_HOLDER = type("Program", (nn.Module,), {"__module__": "fxopt"})


@contextlib.contextmanager
def _fresh_compilation_unit() -> Iterator[None]:
    shared = jit_state._python_cu
    jit_state._python_cu = torch._C.CompilationUnit()
    try:
        yield
    finally:
        jit_state._python_cu = shared


def _resolve(name: str) -> object:
    """What the text's free names mean."""
    import math

    return {"torch": torch, "math": math}.get(name)


def script_bytes(source: Source, weights: Mapping[str, torch.Tensor], extra: Mapping[str, str]) -> bytes:
    """Compiles and serialises; the file ends in a seal.

    Args:
        source: the text and its attributes.
        weights: by name; parameters stay parameters, others are buffers, none wants gradients.
        extra: texts to store beside the module, by file name.

    Raises:
        LoweringError: TorchScript refuses the text.
    """
    # Each weight alone in its memory: the file would hold all memory that a view looks into.
    values = tighten({n: weights[n].detach() for n in source.attributes if isinstance(n, str)})
    for content in source.attributes:
        if isinstance(content, Unpacked):
            values[content.weight] = packed_bits(weights[content.weight], content.few)
    with _fresh_compilation_unit():
        builder = torch._C.ConcreteModuleTypeBuilder(_HOLDER)
        kind = torch._C.TensorType.get()
        others: dict[str, object] = {}
        for content, attribute in source.attributes.items():
            if isinstance(content, str):
                parameter = isinstance(weights[content], nn.Parameter)
                builder.add_attribute(attribute, kind, parameter, not parameter)
            elif isinstance(content, Unpacked):
                builder.add_attribute(attribute, kind, False, True)
                others[attribute] = torch.empty(0, dtype=torch.int8)
            else:
                value = pack(content, weights) if isinstance(content, Packed) else trial_value(content)
                others[attribute] = value
                other = torch._C.BoolType.get() if isinstance(value, bool) else value._type()
                builder.add_attribute(attribute, other, False, False)
        concrete = builder.build()  # type: ignore[attr-defined]  # torch's stubs leave it out
        module = torch._C._create_module_with_type(concrete.jit_type)
        for content, attribute in source.attributes.items():
            module.setattr(attribute, values[content] if isinstance(content, str) else others[attribute])
        try:
            module._define(concrete, source.text, _resolve)  # type: ignore[attr-defined]
        except RuntimeError as error:
            raise LoweringError(f"TorchScript refuses the program: {_reason(error)}") from error
        with quietly():
            stored = module.save_to_buffer(dict(extra))  # type: ignore[attr-defined]
    return sealed([memoryview(stored)[:-_COMMENT]], SEAL_MARK)


def _reason(error: RuntimeError) -> str:
    """The compiler's message in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    marked = next((f" in `{a}`" for a, b in pairwise(lines) if b.startswith("~")), "")
    return f"{lines[0] if lines else type(error).__name__}{marked}"
