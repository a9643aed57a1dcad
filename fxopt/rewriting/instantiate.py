"""A recorded replacement in the program: constants computed at once in float64, the rest as calls.

What depends on weights and literals alone is evaluated here and rounded once to the recorded dtype, so that
folding a BatchNorm into a convolution is two plain functions and loses no accuracy to the order of
operations.
"""

import torch
from torch.fx import Node

from fxopt.errors import PassError
from fxopt.ops import is_view
from fxopt.rewriting.recorder import Recording
from fxopt.rewriting.rewriter import Rewriter
from fxopt.rewriting.rule import Match
from fxopt.rewriting.sizes import size_node

__all__ = ["instantiate"]

_WIDE = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64}


class _Instance:
    def __init__(self, rewriter: Rewriter, recording: Recording, match: Match) -> None:
        self.rewriter = rewriter
        self.recording = recording
        self.env: dict[Node, Node] = {}
        self.constant: dict[Node, object] = {}
        self.exact: set[Node] = set()
        self.sources = [b for b in match.bindings.values() if isinstance(b, Node)]
        for name, placeholder in recording.placeholders.items():
            bound = match.node(name)
            self.env[placeholder] = bound
            if isinstance(match[name], torch.Tensor) and rewriter.value(bound) is match[name]:
                self.constant[placeholder] = match[name]
                self.exact.add(placeholder)

    def run(self) -> list[Node]:
        for call in self.recording.calls:
            if self._is_constant(call):
                self._evaluate(call)
            else:
                args = [self._argument(a) for a in call.args]
                kwargs = {k: self._argument(v) for k, v in call.kwargs.items()}
                self.env[call] = self.rewriter.call(call.target, *args, **kwargs)
        return [self._node(o) for o in self.recording.outputs if isinstance(o, Node)]

    def _is_constant(self, call: Node) -> bool:
        """Only weights and literals go in (a call without tensors makes its tensor at run time)."""
        inputs = call.all_input_nodes
        symbolic = any(isinstance(v, torch.SymInt) for v in _flat([*call.args, *call.kwargs.values()]))
        return bool(inputs) and not symbolic and all(n in self.constant for n in inputs)

    def _evaluate(self, call: Node) -> None:
        """Views stay views of the weight; arithmetic is done in float64."""
        view = is_view(call.target) and all(n in self.exact for n in call.all_input_nodes)

        def value(argument: object) -> object:
            if isinstance(argument, Node):
                tensor = self.constant[argument]
                if isinstance(tensor, torch.Tensor) and not view:
                    return tensor.to(_WIDE.get(tensor.dtype, tensor.dtype))
                return tensor
            if isinstance(argument, (list, tuple)):
                return [value(a) for a in argument]
            return torch.float64 if isinstance(argument, torch.dtype) and argument in _WIDE else argument

        with torch.no_grad():
            self.constant[call] = call.target(  # type: ignore[operator]
                *(value(a) for a in call.args), **{k: value(v) for k, v in call.kwargs.items()}
            )
        if view:
            self.exact.add(call)

    def _node(self, source: Node) -> Node:
        """The program's node for a recorded value; a computed constant is stored when it is first needed."""
        if source not in self.env:
            tensor = self.constant[source]
            recorded = source.meta["val"]
            if not isinstance(tensor, torch.Tensor):
                raise PassError(
                    f"a replacement computes {type(tensor).__name__} from weights; only tensors can be stored"
                )
            rounded = tensor.detach() if source in self.exact else tensor.to(recorded.dtype).contiguous()
            self.env[source] = self.rewriter.constant(rounded)
        return self.env[source]

    def _argument(self, argument: object) -> object:
        if isinstance(argument, Node):
            return self._node(argument)
        if isinstance(argument, (list, tuple)):
            return [self._argument(a) for a in argument]
        if isinstance(argument, torch.SymInt):
            return size_node(self.rewriter.call, argument.node.expr, self.sources)
        return argument


def _flat(values: list[object]) -> list[object]:
    return [w for v in values for w in (_flat(list(v)) if isinstance(v, (list, tuple)) else [v])]


def instantiate(rewriter: Rewriter, recording: Recording, match: Match) -> list[Node]:
    """Makes the recorded replacement's calls inside the open rewrite.

    Args:
        rewriter: with an open rewrite.
        recording: the replacement, recorded on the matched values.
        match: what its arguments are bound to.

    Returns:
        The nodes of its results, in order.
    """
    return _Instance(rewriter, recording, match).run()
