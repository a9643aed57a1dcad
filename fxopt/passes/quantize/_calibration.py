"""Values, and their ranges, over calibration data."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg

from fxopt.analysis.ranges import Histogram
from fxopt.errors import InputError
from fxopt.ops import fake_quantize, round_blocks
from fxopt.program import Program, origins_of
from fxopt.verification.sampling import batch_tensors

__all__ = ["calibrate", "called", "each_batch", "last_uses", "place_of", "watch"]


class _Watcher(Interpreter):
    """Runs a program and shows some of its values; memory is freed after the last use."""

    def __init__(self, program: Program, watched: Mapping[Node, Callable[[torch.Tensor], None]]) -> None:
        super().__init__(program.graph_module)
        self._watched = {node.name: see for node, see in watched.items()}

    def run_node(self, n: Node) -> Any:
        """The value of a node."""
        value = super().run_node(n)
        see = self._watched.get(n.name)
        if see is not None:
            try:
                see(value)
            except InputError as error:
                raise InputError(f"{place_of(n)}: {error}") from error
        return value


def calibrate(program: Program, nodes: Sequence[Node], data: Iterable[object]) -> dict[Node, Histogram]:
    """The histograms of the values of some nodes; memory does not grow with the number of batches.

    Args:
        program: run in torch as it is.
        nodes: floating-point values of it.
        data: a tensor, an argument tuple or a dict by name each; what is beyond the program's inputs is ignored.

    Raises:
        InputError: no data, data that does not fit, or a value that is NaN or inf; names the batch and the layer.
    """
    ranges = {node: Histogram() for node in nodes}
    watch(program, {node: histogram.update_hidden for node, histogram in ranges.items()}, data)
    return ranges


def watch(
    program: Program, watched: Mapping[Node, Callable[[torch.Tensor], None]], data: Iterable[object]
) -> None:
    """Shows some values of each batch to a function each.

    Args:
        program: run in torch as it is.
        watched: by node, what its value is given to.
        data: as for `calibrate`.

    Raises:
        InputError: no data, data that does not fit, or what a function raises; names the batch and the layer.
    """
    each_batch(program, data, _Watcher(program, watched).run)


def each_batch(program: Program, data: Iterable[object], run: Callable[..., object]) -> None:
    """Calls a function with the input tensors of each batch, without gradients.

    Args:
        program: whose inputs they are.
        data: as for `calibrate`.
        run: takes one tensor an input.

    Raises:
        InputError: no data, data that does not fit, or what the function raises; names the batch.
    """
    count = 0
    for count, item in enumerate(data, 1):
        try:
            tensors = batch_tensors(program.signature, item)
            with torch.no_grad():
                run(*tensors)
        except InputError as error:
            raise InputError(f"batch {count - 1} of the calibration data: {error}") from error
    if not count:
        raise InputError("the calibration data is empty: ranges need at least one batch")


def called(node: Node, value: Callable[[Node], Any], *, rounds: bool = True) -> Any:
    """What a call gives, of the values of what it reads; without `rounds` a rounding gives what it reads."""
    args, kwargs = map_arg((node.args, dict(node.kwargs)), value)
    if not rounds and node.target in (fake_quantize, round_blocks):
        return args[0]
    return node.target(*args, **kwargs)  # type: ignore[operator]


def last_uses(nodes: Iterable[Node]) -> dict[Node, list[Node]]:
    """By node, the values that no later one of these, which are in order, reads."""
    last: dict[Node, list[Node]] = {}
    seen: set[Node] = set()
    for node in reversed(list(nodes)):
        fresh = [n for n in node.all_input_nodes if n not in seen]
        seen.update(fresh)
        last[node] = fresh
    return last


def place_of(node: Node) -> str:
    """A value for messages: the module that makes it, else its name."""
    modules = [o.module for o in origins_of(node) if o.module]
    kind = "the input" if node.op == "placeholder" else "the result of"
    return f"{kind} {modules[0] if modules else node.name}"
