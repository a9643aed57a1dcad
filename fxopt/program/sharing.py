"""One table of weights for several programs: what is equal is stored once, under one name in all of them.

>>> import torch
>>> from fxopt.frontend import trace
>>> model = torch.nn.Linear(4, 4)
>>> twice = torch.nn.Sequential(model, model).eval()
>>> programs = share_weights({"once": trace(model, torch.zeros(2, 4)), "twice": trace(twice, torch.zeros(2, 4))})
>>> sorted(programs["twice"].weights), programs["twice"].weights["weight"] is programs["once"].weights["weight"]
(['bias', 'weight'], True)
"""

import hashlib
from collections.abc import Mapping

import torch
from torch.fx import Graph, Node

from fxopt.program.program import Program
from fxopt.program.weights import compact

__all__ = ["share_weights", "shared_table"]


def share_weights(programs: Mapping[str, Program]) -> dict[str, Program]:
    """Copies of programs over one table of weights: equal weights are one object, unequal ones have two names."""
    table: dict[str, torch.Tensor] = {}
    by_content: dict[object, str] = {}
    by_memory: dict[object, str] = {}
    shared: dict[str, Program] = {}
    for entry, program in programs.items():
        names: dict[str, str] = {}
        for name in dict.fromkeys(str(n.target) for n in program.weight_nodes()):
            tensor = program.weights[name]
            place = _memory(tensor)
            if place not in by_memory:
                key = _content(tensor)
                if key not in by_content:
                    fresh = name if name not in table else f"{name}_{entry}"
                    by_content[key] = fresh
                    table[fresh] = tensor
                by_memory[place] = by_content[key]
            names[name] = by_memory[place]
        shared[entry] = _renamed(program, names, table)
    return shared


def shared_table(programs: Mapping[str, Program]) -> dict[str, torch.Tensor]:
    """The weights of programs that share theirs, by name."""
    return {name: tensor for program in programs.values() for name, tensor in program.weights.items()}


def _memory(tensor: torch.Tensor) -> object:
    if tensor.is_meta:
        return id(tensor)
    place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.device)
    return (*place, tensor.dtype, tensor.shape, tensor.stride(), _is_parameter(tensor))


def _content(tensor: torch.Tensor) -> object:
    """What makes two weights one: values, strides (which decide how kernels round), and being a parameter."""
    if tensor.is_meta:
        return id(tensor)
    values = compact(tensor.detach()).cpu()
    order = sorted(range(values.dim()), key=values.stride, reverse=True)
    flat = values.permute(order).contiguous().reshape(-1)
    digest = hashlib.sha256(flat.view(torch.uint8).numpy().data).digest() if flat.numel() else b""
    return (digest, tensor.dtype, tensor.shape, values.stride(), tensor.device, _is_parameter(tensor))


def _is_parameter(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter)


def _renamed(program: Program, names: Mapping[str, str], table: Mapping[str, torch.Tensor]) -> Program:
    """A copy whose weights have other names."""
    graph = Graph()
    mapping: dict[Node, Node] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            copied = graph.create_node("get_attr", names[str(node.target)])
            copied.meta = dict(node.meta)
        else:
            copied = graph.node_copy(node, lambda n: mapping[n])
        mapping[node] = copied
        copied.name = node.name
    twin = program.copy()
    twin.graph = graph
    twin.weights = {new: table[new] for new in names.values()}
    twin.ties = {alias: names[name] for alias, name in program.ties.items() if name in names}
    return twin
