"""The readable form of a program: one typed line an op, the user's line behind it, a weight table below.

`%conv1: f32[batch, 64, 112, 112] = conv2d(%x, layer1.conv1.weight, None, [2, 2])   # resnet.py:61 layer1.conv1`
"""

import difflib
from collections.abc import Iterable

import torch
from torch.fx import Node

from fxopt.ops.info import op_key
from fxopt.ops.schema import schema_arguments
from fxopt.program.program import Program, origins_of
from fxopt.program.signature import ConstantSpec, dtype_name

__all__ = ["call_text", "human_bytes", "program_diff", "program_text", "value_text"]


def human_bytes(count: int) -> str:
    """A size in B, KB, MB or GB (powers of 1,000).

    >>> human_bytes(1_500_000)
    '1.5 MB'
    """
    size = float(count)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def value_text(program: Program, value: object) -> str:
    """The type of a value: `f32[batch, 8]`, `(f32[2], f32[3])`, `int`."""
    if isinstance(value, torch.Tensor):
        return f"{dtype_name(value.dtype)}[{', '.join(str(program.dim(d)) for d in value.shape)}]"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(value_text(program, v) for v in value)})"
    if isinstance(value, (torch.SymInt, int)) and not isinstance(value, bool):
        return f"int {program.dim(value)}"
    return type(value).__name__


def _argument_text(value: object) -> str:
    if isinstance(value, Node):
        return str(value.target) if value.op == "get_attr" else f"%{value.name}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_argument_text, value))}]"
    if isinstance(value, torch.dtype):
        return dtype_name(value)
    return repr(value)


def call_text(node: Node) -> str:
    """A call without its result: op and arguments, trailing defaults left out."""
    positional = [_argument_text(a) for a in node.args]
    named = [f"{k}={_argument_text(v)}" for k, v in node.kwargs.items()]
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        arguments = {a.name: a for a in schema_arguments(target)}
        kinds = [a for a in arguments.values() if not a.kwarg_only]
        while positional:
            argument = kinds[len(positional) - 1]
            if not (argument.has_default_value() and _is_default(node.args[len(positional) - 1], argument)):
                break
            positional.pop()
        named = [
            f"{k}={_argument_text(v)}"
            for k, v in node.kwargs.items()
            if not (arguments[k].has_default_value() and _is_default(v, arguments[k]))
        ]
        namespace, name, overload = op_key(target).split(".", 2)
        name = name if namespace == "aten" else f"{namespace}.{name}"
    else:
        name = getattr(target, "__name__", str(target))
    return f"{name}({', '.join([*positional, *named])})"


def _is_default(value: object, argument: torch.Argument) -> bool:
    default = argument.default_value
    if isinstance(value, (list, tuple)) and not isinstance(default, (list, tuple)):
        return all(v == default for v in value)
    return type(value) is type(default) and value == default


def _line(program: Program, node: Node) -> str:
    origins = origins_of(node)
    comment = f"   # {'; '.join(dict.fromkeys(map(str, origins)))}" if origins else ""
    return f"  %{node.name}: {value_text(program, node.meta.get('val'))} = {call_text(node)}{comment}"


def _weight_lines(program: Program) -> Iterable[str]:
    aliases: dict[str, list[str]] = {}
    for alias, name in program.ties.items():
        aliases.setdefault(name, []).append(alias)
    for name, tensor in program.weights.items():
        shared = f"   = {', '.join(aliases[name])}" if name in aliases else ""
        size = human_bytes(tensor.numel() * tensor.element_size())
        yield f"  {name}: {dtype_name(tensor.dtype)}{list(tensor.shape)} {size}{shared}"


def program_text(program: Program) -> str:
    """The whole program as text."""
    inputs = ", ".join(map(str, program.signature.inputs))
    lines = [f"program {program.name}({inputs}):"]
    lines += [_line(program, node) for node in program.calls()]
    names = [s.name for s in program.signature.outputs]
    returned = iter(program.output_nodes())
    parts = []
    for name, spec in zip(names, program.signature.outputs, strict=True):
        value = repr(spec.value) if isinstance(spec, ConstantSpec) else _argument_text(next(returned))
        parts.append(f"{name}={value}")
    lines.append(f"  return {', '.join(parts)}")
    total = sum(t.numel() * t.element_size() for t in program.weights.values())
    lines.append(f"weights: {len(program.weights)}, {human_bytes(total)}")
    lines += _weight_lines(program)
    return "\n".join(lines)


def program_diff(before: Program, after: Program) -> str:
    """A unified diff of the two texts; empty if they are equal."""
    return "\n".join(
        difflib.unified_diff(
            program_text(before).splitlines(),
            program_text(after).splitlines(),
            before.name,
            after.name,
            lineterm="",
            n=2,
        )
    )
