"""LSTM, GRU and plain recurrent layers and cells.

ONNX orders the gates otherwise and stacks both directions; weights are stored so. Each layer is one node.

ONNX has no projection (`proj_size`): h = P o, of which the next step reads W h. It is the layer without one whose
recurrent weights are W P, and P is applied to all its outputs together. A state to start from is no P o; its share W h0 of
the first step comes in as more columns of the input, zero at all other steps.
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
    batched, first, directions = c.rank == 3, c.flag("batch_first"), 2 if c.flag("bidirectional") else 1
    x = c.x if batched else b.unsqueeze(c.x, 1)
    x = b.transpose(x, [1, 0, 2]) if first and batched else x
    starts = [
        _start(b, n, s if batched else b.unsqueeze(s, 1)) for s, n in zip(states, state_nodes, strict=True)
    ]
    hidden = int(fakes[-1].shape[-1])
    ends: list[list[Value]] = [[] for _ in states]
    projected = fakes[0].shape[-1] != hidden
    lower = _projected_layer if projected else _layer
    for layer, weights in enumerate(_by_layer(c, directions, projected=projected)):
        begin = [_of_layer(b, s, layer, directions) for s in starts]
        x, lasts = lower(b, c, kind, x, weights, begin, hidden)
        for end, last in zip(ends, lasts, strict=True):
            end.append(last)
    output = b.transpose(x, [1, 0, 2]) if first and batched else x
    finals = [e[0] if len(e) == 1 else b.op("Concat", *e, axis=0) for e in ends]
    if batched:
        return (output, *finals)
    return tuple(b.squeeze(v, 1) for v in (output, *finals))


def _by_layer(c: Call, directions: int, *, projected: bool) -> list[list[list[Node]]]:
    """The weights: by layer, by direction: input, hidden, then biases and a projection if there are."""
    params = c.nodes("params")
    each = 4 if c.flag("has_biases") else 2
    each += projected
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
    inputs = [_stacked(b, [[row[i]] for row in weights], kind.order) for i in (0, 1)]
    inputs.append(_biases(b, c, kind, weights))
    y, *lasts = _run(b, kind, [x, *inputs, "", *starts], directions, hidden)
    return _joined(b, y, directions, hidden), tuple(lasts)


def _biases(b: Builder, c: Call, kind: _Kind, weights: list[list[Node]]) -> Value:
    return _stacked(b, [row[2:4] for row in weights], kind.order) if c.flag("has_biases") else ""


def _run(b: Builder, kind: _Kind, inputs: list[Value], directions: int, hidden: int) -> tuple[Value, ...]:
    return b.ops(
        kind.op_type, *inputs, outputs=1 + kind.states, hidden_size=hidden,
        direction="bidirectional" if directions == 2 else None,
        linear_before_reset=1 if kind.op_type == "GRU" else None,
        activations=[kind.activation] * directions if kind.activation else None,
    )  # fmt: skip


def _joined(b: Builder, y: Value, directions: int, width: int) -> Value:
    """The outputs of both directions beside each other, from f[length, directions, batch, width]."""
    if directions == 1:
        return b.squeeze(y, 1)
    return b.op("Reshape", b.op("Transpose", y, perm=[0, 2, 1, 3]), b.ints([0, 0, directions * width]))


def _projected_layer(
    b: Builder, c: Call, kind: _Kind, x: Value, weights: list[list[Node]], starts: list[Value], hidden: int
) -> tuple[Value, tuple[Value, ...]]:
    directions, first = len(weights), starts[0]
    tensors = [[b.weight_of(n) for n in row] for row in weights]
    rows = [[t.detach() for t in row if t is not None and not t.is_meta] for row in tensors]
    if any(len(row) != len(nodes) for row, nodes in zip(rows, weights, strict=True)):
        raise c.error("a projection (proj_size) by computed weights")
    names = tuple(str(n.target) for row in weights for n in row)

    def store(name: str, make: Callable[[int], torch.Tensor]) -> Value:
        return b.stored(
            f"{names[0]}.{name}", lambda: torch.stack([make(i) for i in range(directions)]), of=names
        )

    def recurrent(i: int) -> torch.Tensor:
        return (_gates(rows[i][1], kind.order).double() @ rows[i][-1].double()).to(rows[i][1].dtype)

    def entering(i: int) -> torch.Tensor:
        """The weights of the input, and where there is a state those of each direction's."""
        state = _gates(rows[i][1], kind.order)
        parts = [state if j == i else torch.zeros_like(state) for j in range(directions)] if first else []
        return torch.cat([_gates(rows[i][0], kind.order), *parts], 1)

    if first:
        x = b.op("Concat", x, *_first_steps(b, c, first, directions), axis=2)
    inputs = [x, store("entering" if first else "gates", entering), store("recurrent", recurrent)]
    y, last, *others = _run(
        b, kind, [*inputs, _biases(b, c, kind, weights), "", "", *starts[1:]], directions, hidden
    )
    down = store("down", lambda i: rows[i][-1].t())
    y, last = (b.op("MatMul", v, down) for v in (y, last))
    return _joined(b, y, directions, int(rows[0][-1].shape[0])), (last, *others)


def _first_steps(b: Builder, c: Call, state: Value, directions: int) -> list[Value]:
    """Each direction's state at the step that it starts with, zeros at all others, f[length, batch, width]."""
    length = c.shape[1 if c.rank == 3 and c.flag("batch_first") else 0]
    pads = [b.shape([0, 0, 0, length - 1, 0, 0]), b.shape([length - 1, 0, 0, 0, 0, 0])]
    return [b.op("Pad", b.slice(state, 0, i, i + 1), pads[i]) for i in range(directions)]


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
