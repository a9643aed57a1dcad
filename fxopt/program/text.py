"""The readable form of a program: one typed line an op, the user's line behind it, a weight table below.

`%conv1: f32[batch, 64, 112, 112] = conv2d(%x, layer1.conv1.weight, None, [2, 2])   # net.py:61 layer1.conv1`
"""

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence

import torch
from torch.fx import Node

from fxopt.ops.info import op_key
from fxopt.ops.schema import argument_kinds
from fxopt.program.program import Program, origins_of
from fxopt.program.signature import ConstantSpec, dtype_name

__all__ = ["aligned", "call_text", "human_bytes", "program_text", "value_text"]

Names = Mapping[Node, str]
"""Names to print for nodes other than their own."""

_KINDS: dict[type, str] = {torch.SymFloat: "float", torch.SymBool: "bool"}


def aligned(rows: Sequence[Sequence[object]], *, numbers: Container[int] = ()) -> list[str]:
    """A plain table, a line a row; the columns of `numbers` stand at the right.

    >>> aligned([("layer", "width"), ("a", 8)], numbers={1})
    ['layer  width', 'a          8']
    """
    texts = [[str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(
            t.rjust(w) if i in numbers else t.ljust(w)
            for i, (t, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in texts
    ]


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
    """The type of a value: `f32[batch, 8]`, `(f32[2], f32[3])`, `int 2*batch`."""
    if isinstance(value, torch.Tensor):
        return f"{dtype_name(value.dtype)}[{', '.join(str(program.dim(d)) for d in value.shape)}]"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(value_text(program, v) for v in value)})"
    if isinstance(value, (torch.SymInt, int)) and not isinstance(value, bool):
        return f"int {program.dim(value)}"
    return _KINDS.get(type(value), type(value).__name__)


def _argument_text(value: object, names: Names) -> str:
    if isinstance(value, Node):
        return str(value.target) if value.op == "get_attr" else f"%{names.get(value, value.name)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_argument_text(v, names) for v in value)}]"
    if isinstance(value, torch.dtype):
        return dtype_name(value)
    if isinstance(value, torch.device | torch.layout | torch.memory_format):
        return str(value).removeprefix("torch.")
    return repr(value)


def call_text(node: Node, names: Names | None = None) -> str:
    """A call without its result: op and arguments, trailing defaults left out.

    Args:
        node: the call.
        names: what to call its operands, where not by their own names.
    """
    names = names or {}
    target = node.target
    positional, named = list(node.args), dict(node.kwargs)
    name = getattr(target, "__name__", str(target))
    if isinstance(target, torch._ops.OpOverload):
        kinds = {k.name: k for k in argument_kinds(target)}
        order = [k for k in kinds.values() if not k.keyword_only]
        while positional and _is_default(positional[-1], order[len(positional) - 1].default):
            positional.pop()
        named = {k: v for k, v in named.items() if k not in kinds or not _is_default(v, kinds[k].default)}
        namespace, op, _ = op_key(target).split(".", 2)
        name = op if namespace == "aten" else f"{namespace}.{op}"
    texts = [_argument_text(a, names) for a in positional]
    texts += [f"{k}={_argument_text(v, names)}" for k, v in named.items()]
    return f"{name}({', '.join(texts)})"


def _is_default(value: object, default: object) -> bool:
    if isinstance(value, (list, tuple)):
        expected = list(default) if isinstance(default, (list, tuple)) else [default] * len(value)
        return len(value) == len(expected) and all(map(_is_default, value, expected)) and default is not None
    return type(value) is type(default) and value == default


def _line(program: Program, node: Node, names: Names) -> str:
    places = [str(o) for o in origins_of(node) if o.file or o.module]
    comment = f"   # {'; '.join(dict.fromkeys(places))}" if places else ""
    kind = value_text(program, node.meta.get("val"))
    return f"  %{names.get(node, node.name)}: {kind} = {call_text(node, names)}{comment}"


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _memories(program: Program) -> list[list[str]]:
    """The weights' names, those on one storage together."""
    memories: dict[object, list[str]] = defaultdict(list)
    for name, tensor in program.weights.items():
        place = None if tensor.is_meta else tensor.untyped_storage().data_ptr()
        memories[place or name].append(name)
    return list(memories.values())


def _total(program: Program) -> int:
    """Bytes that the weights take, views of one memory counted once."""
    total = 0
    for names in _memories(program):
        tensors = [program.weights[n] for n in names]
        size = sum(map(_size, tensors))
        total += size if len(tensors) == 1 else min(size, tensors[0].untyped_storage().nbytes())
    return total


def _weight_lines(program: Program) -> Iterator[str]:
    aliases: dict[str, list[str]] = defaultdict(list)
    for alias, name in program.ties.items():
        aliases[name].append(alias)
    beside = {name: names for names in _memories(program) for name in names}
    for name, tensor in program.weights.items():
        shared = f"   = {', '.join(aliases[name])}" if name in aliases else ""
        others = [n for n in beside[name] if n != name]
        memory = f"   (on the memory of {', '.join(others)})" if others else ""
        shape = ", ".join(map(str, tensor.shape))
        yield f"  {name}: {dtype_name(tensor.dtype)}[{shape}] {human_bytes(_size(tensor))}{shared}{memory}"


def program_text(program: Program, names: Names | None = None) -> str:
    """The whole program as text.

    Args:
        program: to print.
        names: what to call nodes, where not by their own names.
    """
    names = names or {}
    inputs = ", ".join(map(str, program.signature.inputs))
    lines = [f"program {program.name}({inputs}):"]
    lines += [f"  # {s.limits}" for s in program.signature.symbols.values() if s.limits]
    lines += [f"  # assumed not to raise: {place}" for place in program.assumptions]
    lines += [_line(program, node, names) for node in program.calls()]
    returned = iter(program.output_nodes())
    parts = []
    for spec in program.signature.outputs:
        value = repr(spec.value) if isinstance(spec, ConstantSpec) else _argument_text(next(returned), names)
        parts.append(f"{spec.name}={value}")
    lines.append(f"  return {', '.join(parts)}")
    lines.append(f"weights: {len(program.weights)}, {human_bytes(_total(program))}")
    lines += _weight_lines(program)
    return "\n".join(lines)
