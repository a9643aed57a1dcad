"""Recurrent layers and cells: one op a layer stack, which runtimes have kernels for."""

from collections.abc import Callable, Sequence

import torch

from fxopt.ops.info import QuantRole, SampleArgs
from fxopt.ops.sizes import Size, product, shape_of
from fxopt.ops.table.entry import Bound, Draw, Facts, call, entry


def _quiet(bound: Bound) -> bool:
    return bound["train"] is False or bound["dropout"] == 0


def _matrices(weights: object) -> Size:
    assert isinstance(weights, (list, tuple))
    return sum((product(shape_of(w)) for w in weights if len(shape_of(w)) == 2), start=0)


def _layer_flops(bound: Bound, output: object) -> Size:
    """Each step of each sequence meets each matrix."""
    steps = product(shape_of(bound["input"])[:-1])
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
        ]

    return samples


def _cells(gates: int, *, pair: bool = False) -> Callable[[Draw], Sequence[SampleArgs]]:
    def samples(d: Draw) -> Sequence[SampleArgs]:
        state = [d(2, 4), d(2, 4)] if pair else d(2, 4)
        weights = _params(d, gates, 1, 1)
        return [call(d(2, 3), state, *weights), call(d(2, 3), state, *weights[:2])]

    return samples


_LAYER = Facts(pure=_quiet, flops=_layer_flops, role=QuantRole.ISLAND)
_CELL = Facts(flops=_cell_flops, role=QuantRole.ISLAND)
entry("lstm", _layers(4, pair=True), _LAYER, absolute=True)
entry("gru", _layers(3), _LAYER, absolute=True)
entry("rnn_tanh rnn_relu", _layers(1), _LAYER)
entry("lstm_cell", _cells(4, pair=True), _CELL, absolute=True)
entry("gru_cell", _cells(3), _CELL, absolute=True)
entry("rnn_tanh_cell rnn_relu_cell", _cells(1), _CELL)
