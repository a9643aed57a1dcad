"""A graph as JSON and back: names, literals, and ops by name; never code.

What is read becomes part of generated Python, so every name is checked, and an op must be one that computes
and does nothing else: no random numbers, no writes, no files, no network.

>>> encode_literal([1, 2.0, float("-inf"), torch.float32, (None, True)])
[1, 2.0, {'float': '-inf'}, {'dtype': 'float32'}, {'tuple': [None, True]}]
>>> decode_literal(encode_literal([float("-inf"), torch.device("cpu")]), {})
[-inf, device(type='cpu')]
"""

import builtins
import keyword
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch.fx import Graph, Node
from torch.fx.node import Argument

from fxopt.errors import ArtifactError
from fxopt.ops.info import op_key
from fxopt.ops.resolve import UnknownOpError, resolve_op
from fxopt.ops.schema import is_mutating, is_pure, is_random
from fxopt.program.program import Origin, Program, origins_of

__all__ = ["decode_graph", "decode_literal", "encode_graph", "encode_literal", "reaches_out"]

Json = dict[str, object]

_FUNCTIONS: dict[str, Callable[..., object]] = {
    **{
        f"operator.{n}": getattr(operator, n)
        for n in (
            "getitem", "add", "sub", "mul", "floordiv", "mod", "neg", "pos", "abs", "truediv", "pow", "eq",
            "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_", "xor", "lshift", "rshift", "invert",
        )
    },
    **{
        f"math.{n}": getattr(math, n)
        for n in ("ceil", "floor", "trunc", "sqrt", "pow", "log", "log2", "exp", "isqrt")
    },
    **{
        f"torch.{n}": getattr(torch, n)
        for n in ("sym_max", "sym_min", "sym_int", "sym_float", "sym_not", "sym_ite", "sym_sum")
    },
    **{f"torch._sym_{n}": f for n in ("sqrt", "log2") if (f := getattr(torch, f"_sym_{n}", None))},
    **{f"builtins.{n}": getattr(builtins, n) for n in ("round", "int", "float", "bool")},
}  # fmt: skip
_FUNCTION_NAMES = {f: n for n, f in _FUNCTIONS.items()}

_REFUSED_NAMESPACES = frozenset(
    {
        "c10d", "_c10d_functional", "_c10d_functional_autograd", "_dtensor", "symm_mem", "profiler",
        "inductor", "debugprims", "rngprims", "inductor_prims", "static_runtime", "export", "_test",
        "streams", "higher_order",
    }
)  # fmt: skip
"""Namespaces of torch whose ops talk to other processes, read files or reach into the runtime."""
_REFUSED_OPS = frozenset({"aten.from_file", "aten.save"})
"""Ops of aten that read or write files, whatever their schema says."""

_TORCH = {"layout": torch.layout, "memory_format": torch.memory_format, "dtype": torch.dtype}
_WEIGHT = re.compile(r"""[^"'\\\x00-\x1f\x7f]+""")


def encode_literal(value: object) -> object:
    """An argument as JSON: what JSON lacks as an object of one tag.

    Raises:
        ArtifactError: the value has no file form.
    """
    if isinstance(value, Node):
        return {"node": value.name}
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, tuple) and not isinstance(value, torch.Size):
        return {"tuple": [encode_literal(v) for v in value]}
    if isinstance(value, (list, torch.Size)):
        return [encode_literal(v) for v in value]
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for tag, kind in _TORCH.items():
        if isinstance(value, kind):
            return {tag: str(value).removeprefix("torch.")}
    raise ArtifactError(f"an argument of type {type(value).__name__} has no file form: {str(value)[:60]}")


def decode_literal(value: object, nodes: Mapping[str, Node]) -> object:
    """The argument of `encode_literal`'s output.

    Raises:
        ArtifactError: the value is malformed or names an unknown node.
    """
    if isinstance(value, list):
        return [decode_literal(v, nodes) for v in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"node": str(name)} if name in nodes:
            return nodes[name]
        case {"node": name}:
            raise ArtifactError(f"the graph uses {name!r} before it is computed")
        case {"float": ("inf" | "-inf" | "nan") as text}:
            return float(text)
        case {"tuple": list(items)}:
            return tuple(decode_literal(v, nodes) for v in items)
        case {"device": str(text)}:
            return _device(text)
    for tag, kind in _TORCH.items():
        if isinstance(value.get(tag), str):
            found = getattr(torch, value[tag], None)
            if isinstance(found, kind):
                return found
    raise ArtifactError(f"an argument in the graph is malformed: {str(value)[:60]}")


def _device(text: str) -> torch.device:
    try:
        return torch.device(text)
    except RuntimeError as error:
        raise ArtifactError(f"unknown device {text!r}") from error


def _target_name(node: Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return op_key(node.target)
    name = _FUNCTION_NAMES.get(node.target)  # type: ignore[arg-type]  # a str target has no entry either
    if name is None:
        raise ArtifactError(f"{node.target} at {node.name} has no file form")
    return name


def encode_graph(program: Program, *, lines: bool) -> Json:
    """The graph as JSON.

    Args:
        program: whose graph.
        lines: keep the user's file names and lines; else module paths only.

    Raises:
        ArtifactError: a node has an argument or target without file form.
    """
    origins: dict[tuple[str, str, int, str], int] = {}
    nodes: list[Json] = []
    for node in program.graph.nodes:
        entry: Json = {"name": node.name}
        if node.op == "placeholder":
            entry["op"] = "input"
        elif node.op == "get_attr":
            entry |= {"op": "weight", "weight": node.target}
        elif node.op == "call_function":
            entry |= {"op": "call", "target": _target_name(node), "args": encode_literal(list(node.args))}
            if node.kwargs:
                entry["kwargs"] = [[k, encode_literal(v)] for k, v in node.kwargs.items()]
            entry["from"] = [
                origins.setdefault(_origin_key(o, lines=lines), len(origins)) for o in origins_of(node)
            ]
        else:
            entry = {"op": "return", "values": [encode_literal(v) for v in program.output_nodes()]}
        nodes.append(entry)
    return {"nodes": nodes, "origins": [list(o) for o in origins]}


def _origin_key(origin: Origin, *, lines: bool) -> tuple[str, str, int, str]:
    """The file's own name only: the folders above it are the machine's."""
    file = re.split(r"[/\\]", origin.file)[-1]
    return (origin.module, file, origin.line, origin.op) if lines else (origin.module, "", 0, origin.op)


def reaches_out(name: str) -> bool:
    """Whether an op (`aten.relu.default`, `aten.relu`) reads files, talks to other processes or the like.

    >>> reaches_out("aten.from_file.default"), reaches_out("aten.relu")
    (True, False)
    """
    space, _, rest = name.partition(".")
    return space in _REFUSED_NAMESPACES or f"{space}.{rest.partition('.')[0]}" in _REFUSED_OPS


def _target(name: object) -> Callable[..., object]:
    if not isinstance(name, str):
        raise ArtifactError("a call in the graph names no op")
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    if reaches_out(name) or name.startswith("prim."):
        raise ArtifactError(f"the graph calls {name!r}, which does more than compute")
    if name.count(".") != 2:
        raise ArtifactError(f"the graph calls {name!r}, which is no op")
    try:
        return resolve_op(name)
    except UnknownOpError as error:
        raise ArtifactError(f"{error} (import what defines it before loading)") from error


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ArtifactError(f"{str(name)[:60]!r} can't name a node")
    return name


class _Decoder:
    def __init__(self, data: Mapping[str, object], weights: Mapping[str, torch.Tensor]) -> None:
        self.weights = weights
        self.graph = Graph()
        self.nodes: dict[str, Node] = {}
        self.entries = data["nodes"]
        origins = data["origins"]
        assert isinstance(origins, list)
        self.origins = [Origin(str(m), str(f), int(line), str(op)) for m, f, line, op in origins]

    def run(self) -> Graph:
        assert isinstance(self.entries, list)
        *body, last = self.entries
        for entry in body:
            name = _checked_name(entry["name"])
            if name in self.nodes:
                raise ArtifactError(f"two nodes have the name {name!r}")
            node = self._node(name, entry)
            node.name = name
            self.nodes[name] = node
        if last["op"] != "return":
            raise ArtifactError("the graph returns nothing")
        values = [decode_literal(v, self.nodes) for v in last["values"]]
        if not all(isinstance(v, Node) for v in values):
            raise ArtifactError("the graph returns something that it does not compute")
        self.graph.output(tuple(values)).meta.clear()  # type: ignore[arg-type]  # checked above
        return self.graph

    def _node(self, name: str, entry: Mapping[str, object]) -> Node:
        kind = entry["op"]
        if kind == "input":
            return self.graph.create_node("placeholder", name, name=name)
        if kind == "weight":
            weight = entry["weight"]
            if not isinstance(weight, str) or weight not in self.weights or not _WEIGHT.fullmatch(weight):
                raise ArtifactError(
                    f"the graph uses the weight {str(weight)[:60]!r}, which is not in the table of weights"
                )
            return self.graph.create_node("get_attr", weight, name=name)
        if kind == "call":
            return self._call(name, entry)
        raise ArtifactError(f"the graph holds a node of unknown kind {str(kind)[:60]!r}")

    def _call(self, name: str, entry: Mapping[str, object]) -> Node:
        target = _target(entry["target"])
        args, kwargs = entry["args"], entry.get("kwargs", [])
        assert isinstance(args, list)
        assert isinstance(kwargs, list)
        values = tuple(cast(Argument, decode_literal(a, self.nodes)) for a in args)
        named = {_checked_name(k): cast(Argument, decode_literal(v, self.nodes)) for k, v in kwargs}
        node = self.graph.create_node("call_function", target, values, named, name)
        draws = is_random(node) and not is_mutating(target)
        if isinstance(target, torch._ops.OpOverload) and not is_pure(node) and not draws:
            raise ArtifactError(
                f"the graph calls {entry['target']!r} at {name!r}, which does more than compute"
            )
        indices = entry["from"]
        assert isinstance(indices, list)
        node.meta["origins"] = tuple(self.origins[i] for i in indices)
        return node


def decode_graph(data: Mapping[str, object], weights: Mapping[str, torch.Tensor]) -> Graph:
    """The graph of `encode_graph`'s output, without values in `meta`.

    Raises:
        ArtifactError: it is malformed, names an unknown op, or one that does more than compute.
    """
    try:
        return _Decoder(data, weights).run()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError) as error:
        raise ArtifactError(f"the graph is malformed: {error!r}") from error
