"""LSTM, GRU and plain recurrent layers and cells.

ONNX orders the gates otherwise and stacks both directions; weights are stored so. Each layer is one node.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.graph import Value
from fxopt.ops.info import op_key

__all__: list[str] = []


@dataclass(frozen=True)
class _Kind:
    op_type: str
    order: tuple[int, ...]
    """Torch's gate at each of ONNX's places."""
    states: int = 1
    activation: str = ""


_LSTM = _Kind("LSTM", (0, 3, 1, 2), 2)
_GRU = _Kind("GRU", (1, 0, 2))
_TANH = _Kind("RNN", (0,), 1, "Tanh")
_RELU = _Kind("RNN", (0,), 1, "Relu")


@rule("aten.lstm.input")
def lstm(b: Builder, c: Call) -> tuple[Value, ...]:
    return _layers(b, c, _LSTM, [b.value(n) for n in c.nodes("hx")], c.nodes("hx"))


@rule("aten.gru.input")
def gru(b: Builder, c: Call) -> tuple[Value, ...]:
    return _layers(b, c, _GRU, [c.tensor("hx")], [c["hx"]])


@rule("aten.rnn_tanh.input", "aten.rnn_relu.input")
def rnn(b: Builder, c: Call) -> tuple[Value, ...]:
    return _layers(b, c, _RELU if "relu" in op_key(c.node.target) else _TANH, [c.tensor("hx")], [c["hx"]])


def _layers(
    b: Builder, c: Call, kind: _Kind, states: list[Value], state_nodes: Sequence[object]
) -> tuple[Value, ...]:
    """The stacked layers: the output, then the last states."""
    fakes = [n.meta["val"] for n in state_nodes if isinstance(n, Node)]
    if len({f.shape[-1] for f in fakes}) > 1:
        raise c.error("projections (proj_size)")
    batched, first, directions = c.rank == 3, c.flag("batch_first"), 2 if c.flag("bidirectional") else 1
    x = c.x if batched else b.unsqueeze(c.x, 1)
    x = b.transpose(x, [1, 0, 2]) if first and batched else x
    starts = [
        _start(b, n, s if batched else b.unsqueeze(s, 1)) for s, n in zip(states, state_nodes, strict=True)
    ]
    hidden = int(fakes[0].shape[-1])
    ends: list[list[Value]] = [[] for _ in states]
    for layer, weights in enumerate(_by_layer(c, directions)):
        x, lasts = _layer(
            b, c, kind, x, weights, [_of_layer(b, s, layer, directions) for s in starts], hidden
        )
        for end, last in zip(ends, lasts, strict=True):
            end.append(last)
    output = b.transpose(x, [1, 0, 2]) if first and batched else x
    finals = [e[0] if len(e) == 1 else b.op("Concat", *e, axis=0) for e in ends]
    if batched:
        return (output, *finals)
    return tuple(b.squeeze(v, 1) for v in (output, *finals))


def _by_layer(c: Call, directions: int) -> list[list[list[Node]]]:
    """The weights: by layer, by direction: input, hidden, then biases if there are."""
    params = c.nodes("params")
    each = 4 if c.flag("has_biases") else 2
    wanted = each * directions * c.integer("num_layers")
    if len(params) != wanted:
        raise c.error(f"{len(params)} weights instead of {wanted}")
    rows = [params[i : i + each] for i in range(0, len(params), each)]
    return [rows[i : i + directions] for i in range(0, len(rows), directions)]


def _start(b: Builder, node: object, state: Value) -> Value:
    """The initial state; "" where it is zeros, which ONNX assumes."""
    zeros = isinstance(node, Node) and op_key(node.target) in ("aten.zeros.default", "aten.new_zeros.default")
    return "" if zeros else state


def _of_layer(b: Builder, state: Value, layer: int, directions: int) -> Value:
    return b.slice(state, 0, layer * directions, (layer + 1) * directions) if state else ""


def _layer(
    b: Builder, c: Call, kind: _Kind, x: Value, weights: list[list[Node]], starts: list[Value], hidden: int
) -> tuple[Value, tuple[Value, ...]]:
    directions = len(weights)
    inputs = [x, *(_stacked(b, [[row[i]] for row in weights], kind.order) for i in (0, 1))]
    inputs.append(_stacked(b, [row[2:] for row in weights], kind.order) if c.flag("has_biases") else "")
    y, *lasts = b.ops(
        kind.op_type, *inputs, "", *starts, outputs=1 + kind.states, hidden_size=hidden,
        direction="bidirectional" if directions == 2 else None,
        linear_before_reset=1 if kind.op_type == "GRU" else None,
        activations=[kind.activation] * directions if kind.activation else None,
    )  # fmt: skip
    if directions == 1:
        return b.squeeze(y, 1), tuple(lasts)
    both = b.op("Transpose", y, perm=[0, 2, 1, 3])
    return b.op("Reshape", both, b.ints([0, 0, directions * hidden])), tuple(lasts)


def _stacked(b: Builder, rows: list[list[Node]], order: tuple[int, ...]) -> Value:
    """Weights with their gates in ONNX's order, those of a row joined, rows (directions) stacked."""
    tensors = [[b.weight_of(n) for n in row] for row in rows]
    if all(t is not None and not t.is_meta for row in tensors for t in row):
        targets = tuple(str(n.target) for row in rows for n in row)

        def make() -> torch.Tensor:
            return torch.stack(
                [torch.cat([_gates(t, order) for t in row if t is not None]) for row in tensors]
            )

        return b.stored(f"{targets[0]}.gates", make, of=targets)
    joined = [b.op("Concat", *(_gate_nodes(b, n, order) for n in row), axis=0) for row in rows]
    return b.op("Concat", *(b.unsqueeze(v, 0) for v in joined), axis=0)


def _gates(tensor: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    chunks = tensor.detach().chunk(len(order))
    return torch.cat([chunks[i] for i in order])


def _gate_nodes(b: Builder, node: Node, order: tuple[int, ...]) -> Value:
    if len(order) == 1:
        return b.value(node)
    chunks = b.ops("Split", b.value(node), outputs=len(order), axis=0, num_outputs=len(order))
    return b.op("Concat", *(chunks[i] for i in order), axis=0)


def _gate_sums(b: Builder, c: Call, h: Value) -> tuple[Value, Value]:
    """The input's and the state's share of all gates, biases included."""
    shares: list[Value] = []
    for x, weight, bias in ((c.x, "w_ih", "b_ih"), (h, "w_hh", "b_hh")):
        product = b.op("MatMul", x, b.op("Transpose", c.tensor(weight), perm=[1, 0]))
        shares.append(b.op("Add", product, c.tensor(bias)) if c.has(bias) else product)
    return shares[0], shares[1]


@rule("aten.lstm_cell")
def lstm_cell(b: Builder, c: Call) -> tuple[Value, ...]:
    h, state = (b.value(n) for n in c.nodes("hx"))
    parts = b.ops("Split", b.op("Add", *_gate_sums(b, c, h)), outputs=4, axis=-1, num_outputs=4)
    enter, forget, leave = (b.op("Sigmoid", parts[i]) for i in (0, 1, 3))
    state = b.op("Add", b.op("Mul", forget, state), b.op("Mul", enter, b.op("Tanh", parts[2])))
    return b.op("Mul", leave, b.op("Tanh", state)), state


@rule("aten.gru_cell")
def gru_cell(b: Builder, c: Call) -> Value:
    h = c.tensor("hx")
    mine, its = (b.ops("Split", s, outputs=3, axis=-1, num_outputs=3) for s in _gate_sums(b, c, h))
    reset, update = (b.op("Sigmoid", b.op("Add", mine[i], its[i])) for i in (0, 1))
    new = b.op("Tanh", b.op("Add", mine[2], b.op("Mul", reset, its[2])))
    return b.op("Add", b.op("Mul", b.op("Sub", h, new), update), new)


def _plain_cell(op_type: str) -> Callable[[Builder, Call], Value]:
    def lower(b: Builder, c: Call) -> Value:
        return b.op(op_type, b.op("Add", *_gate_sums(b, c, c.tensor("hx"))))

    return lower


rule("aten.rnn_tanh_cell")(_plain_cell("Tanh"))
rule("aten.rnn_relu_cell")(_plain_cell("Relu"))
