"""Recurrent layers and cells: one op a layer stack, which runtimes have kernels for."""

from collections.abc import Callable, Sequence

import torch

from fxopt.ops.info import QuantRole, SampleArgs
from fxopt.ops.sizes import Size, product, same_size, shape_of
from fxopt.ops.table.entry import Bound, Draw, Facts, IndexText, call, entry
from fxopt.ops.table.maps import statement


def _quiet(bound: Bound) -> bool:
    return bound["train"] is False or bound["dropout"] == 0


def _matrices(weights: object) -> Size:
    assert isinstance(weights, (list, tuple))
    return sum((product(shape_of(w)) for w in weights if len(shape_of(w)) == 2), start=0)


def _layer_flops(bound: Bound, output: object) -> Size:
    """Each step of each sequence meets each matrix."""
    steps = product(shape_of(bound["data" if "batch_sizes" in bound else "input"])[:-1])
    return 2 * steps * _matrices(bound["params"])


def _cell_flops(bound: Bound, output: object) -> Size:
    return 2 * product(shape_of(bound["input"])[:-1]) * _matrices([bound["w_ih"], bound["w_hh"]])


def _params(d: Draw, gates: int, layers: int, directions: int) -> list[torch.Tensor]:
    weights: list[torch.Tensor] = []
    for layer in range(layers):
        width = 3 if layer == 0 else 4 * directions
        for _ in range(directions):
            weights += [d(gates * 4, width), d(gates * 4, 4), d(gates * 4), d(gates * 4)]
    return weights


def _states(d: Draw, count: int, batch: int, *, pair: bool) -> torch.Tensor | list[torch.Tensor]:
    return [d(count, batch, 4), d(count, batch, 4)] if pair else d(count, batch, 4)


def _layers(gates: int, *, pair: bool = False) -> Callable[[Draw], Sequence[SampleArgs]]:
    def samples(d: Draw) -> Sequence[SampleArgs]:
        one, two = _params(d, gates, 1, 1), _params(d, gates, 2, 2)
        return [
            call(d(5, 2, 3), _states(d, 1, 2, pair=pair), one, True, 1, 0.0, True, False, False),
            call(d(2, 5, 3), _states(d, 4, 2, pair=pair), two, True, 2, 0.5, False, True, True),
            call(d(2, 5, 3), _states(d, 4, 2, pair=pair), two, True, 2, 0.5, True, True, True),
            call(
                d(5, 3), torch.tensor([2, 2, 1]), _states(d, 1, 2, pair=pair), one, True, 1, 0.0, False, False
            ),
            call(d(2, 5, 3), _states(d, 1, 2, pair=pair), one[:2], False, 1, 0.0, False, False, True),
        ]

    return samples


def _cells(gates: int, *, pair: bool = False) -> Callable[[Draw], Sequence[SampleArgs]]:
    def samples(d: Draw) -> Sequence[SampleArgs]:
        state = [d(2, 4), d(2, 4)] if pair else d(2, 4)
        weights = _params(d, gates, 1, 1)
        return [call(d(2, 3), state, *weights), call(d(2, 3), state, *weights[:2])]

    return samples


def _is_one_layer(bound: Bound, gates: int) -> bool:
    """Whether a call is one layer in one direction over whole sequences, its output as wide as its state."""
    if "batch_sizes" in bound or bound["num_layers"] != 1 or bound["bidirectional"]:
        return False
    rows, states = shape_of(_listed(bound["params"])[0])[0], map(shape_of, _listed(bound["hx"]))
    return all(same_size(rows, gates * s[-1]) for s in states)


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else [value]


def _rows(gates: int) -> str:
    return f"(g={gates} !u)" if gates > 1 else "!u"


def _layer_map(gates: int) -> IndexText:
    """Units `u` by their rows in each gate."""

    def index_map(bound: Bound) -> str | None:
        if not _is_one_layer(bound, gates):
            return None
        leading = ["n", "!t"] if bound["batch_first"] else ["!t", "n"]
        states = [[".", "n", "!u"] for _ in _listed(bound["hx"])]
        rows = _rows(gates)
        weights = [[rows, "i"], [rows, "!u"], [rows], [rows]][: len(_listed(bound["params"]))]
        return statement([[*leading, "i"], *states, *weights], [[*leading, "!u"], *states])

    return index_map


def _cell_map(gates: int) -> IndexText:
    def index_map(bound: Bound) -> str:
        rows, states = _rows(gates), [["*", "!u"] for _ in _listed(bound["hx"])]
        return statement([["*", "i"], *states, [rows, "i"], [rows, "!u"], [rows], [rows]], states)

    return index_map


_UNITS = Facts(role=QuantRole.ISLAND, units="u", state="hx", skips_zeros=("i",))
_LAYER = Facts(**_UNITS, pure=_quiet, flops=_layer_flops)
_CELL = Facts(**_UNITS, flops=_cell_flops)
entry("lstm", _layers(4, pair=True), _LAYER, index_map=_layer_map(4), absolute=True)
entry("gru", _layers(3), _LAYER, index_map=_layer_map(3), absolute=True)
entry("rnn_tanh rnn_relu", _layers(1), _LAYER, index_map=_layer_map(1))
entry("lstm_cell", _cells(4, pair=True), _CELL, index_map=_cell_map(4), absolute=True)
entry("gru_cell", _cells(3), _CELL, index_map=_cell_map(3), absolute=True)
entry("rnn_tanh_cell rnn_relu_cell", _cells(1), _CELL, index_map=_cell_map(1))
