"""A recorded replacement in the program: constants computed at once in float64, the rest as calls.

What depends on weights and literals alone is evaluated here and rounded once to the recorded dtype, so that
folding a BatchNorm into a convolution is two plain functions and loses no accuracy to the order of
operations.
"""

import torch
from torch.fx import Node

from fxopt.errors import PassError
from fxopt.ops import is_view, op_key
from fxopt.program import infer_value, trained_as, value_key
from fxopt.rewriting.recorder import Recording
from fxopt.rewriting.rewriter import Rewriter
from fxopt.rewriting.rule import Match
from fxopt.rewriting.sizes import size_node

__all__ = ["instantiate"]

_WIDE: dict[object, torch.dtype] = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
}
_BITS = frozenset({torch.ops.aten.view.dtype})
"""Ops that read the bits of their input, which the wide form of a value does not have."""
_FRESH = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})


class _Instance:
    def __init__(self, rewriter: Rewriter, recording: Recording, match: Match) -> None:
        self.rewriter = rewriter
        self.recording = recording
        self.env: dict[Node, Node] = {}
        self.constant: dict[Node, object] = {}
        self.made_from: dict[Node, object] = {}
        """For each constant a key of how it is computed and of which weights."""
        self.weights: dict[Node, frozenset[Node]] = {}
        """For each constant the placeholders of the weights that it is made of."""
        self.exact: set[Node] = set()
        self.sizes: dict[object, Node | int] = {}
        self.sources = [b for b in match.bindings.values() if isinstance(b, Node)]
        for name, placeholder in recording.placeholders.items():
            bound = match.node(name)
            self.env[placeholder] = bound
            if rewriter.value(bound) is match[name]:
                self.constant[placeholder] = match[name]
                self.made_from[placeholder] = id(match[name])
                self.weights[placeholder] = frozenset([placeholder])
                self.exact.add(placeholder)

    def run(self) -> list[Node]:
        for call in self.recording.calls:
            if self.constant and self._is_constant(call):
                self._evaluate(call)
            else:
                args = tuple(self._argument(a) for a in call.args)
                kwargs = {k: self._argument(v) for k, v in call.kwargs.items()}
                self.env[call] = self.rewriter._emit(
                    call.target, args, kwargs, self._value(call, args, kwargs)
                )
        return [self._node(o) for o in self.recording.outputs if isinstance(o, Node)]

    def _value(self, call: Node, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """The recorded value, as the types are the same; sizes that depend on data are new ones each time."""
        if isinstance(call.target, torch._ops.OpOverload) and _FRESH & set(call.target.tags):
            return infer_value(self.rewriter.program, call.target, args, kwargs)
        return call.meta["val"]

    def _is_constant(self, call: Node) -> bool:
        """Only weights and literals go in (a call without tensors makes its tensor at run time)."""
        inputs = call.all_input_nodes
        symbolic = any(isinstance(v, torch.SymInt) for v in _flat([*call.args, *call.kwargs.values()]))
        return bool(inputs) and not symbolic and all(n in self.constant for n in inputs)

    def _evaluate(self, call: Node) -> None:
        """Views stay views of the weight; arithmetic is done in float64, by ops that are known to take it."""
        op = call.target
        assert callable(op)
        view = is_view(op) and all(n in self.exact for n in call.all_input_nodes)
        wide = not view and op not in _BITS and getattr(op, "namespace", "aten") in ("aten", "prims")

        def value(argument: object) -> object:
            if isinstance(argument, Node):
                tensor = self.constant[argument]
                if not isinstance(tensor, torch.Tensor):
                    return tensor
                return tensor.to(_WIDE.get(tensor.dtype, tensor.dtype)) if wide else self._rounded(argument)
            if isinstance(argument, (list, tuple)):
                return [value(a) for a in argument]
            return _WIDE.get(argument, argument) if wide else argument

        with torch.no_grad():
            self.constant[call] = op(*map(value, call.args), **{k: value(v) for k, v in call.kwargs.items()})
        self.made_from[call] = (op, *map(self._key, call.args), *map(self._key, call.kwargs.values()))
        self.weights[call] = frozenset().union(*(self.weights[n] for n in call.all_input_nodes))
        if view:
            self.exact.add(call)

    def _key(self, argument: object) -> object:
        if isinstance(argument, Node):
            return self.made_from[argument]
        return tuple(map(self._key, argument)) if isinstance(argument, (list, tuple)) else value_key(argument)

    def _rounded(self, source: Node) -> torch.Tensor:
        """A computed constant in the dtype and shape that were recorded.

        Raises:
            PassError: it has another shape, or is no tensor.
        """
        tensor, recorded = self.constant[source], source.meta["val"]
        if not isinstance(tensor, torch.Tensor):
            raise PassError(
                f"a replacement computes {type(tensor).__name__} from weights; only tensors can be stored"
            )
        if source in self.exact:
            return tensor.detach()
        if tensor.shape != recorded.shape:
            raise PassError(
                f"{op_key(source.target)} of weights gives {list(tensor.shape)} in float64, "
                f"{list(recorded.shape)} in {recorded.dtype}"
            )
        return tensor.to(recorded.dtype).contiguous()

    def _node(self, source: Node) -> Node:
        """The program's node for a recorded value; a computed constant is stored when it is first needed.

        The same of the same weights is stored once: layers that share a weight share what is made of it.
        """
        if source not in self.env:
            constants, place = self.rewriter._constants, self.rewriter._editing("constant").place
            key = (self.made_from[source], value_key(source.meta["val"]))
            known = constants.get(key)
            if known is None or known[0]._erased or not known[0] < place:
                weights = [self.constant.get(p) for p in self.recording.placeholders.values()]
                made = trained_as(self._rounded(source), [self.constant[p] for p in self.weights[source]])
                known = constants[key] = (self.rewriter.constant(made), weights)
            self.env[source] = known[0]
        return self.env[source]

    def _argument(self, argument: object) -> object:
        if isinstance(argument, Node):
            return self._node(argument)
        if isinstance(argument, (list, tuple)):
            return [self._argument(a) for a in argument]
        if isinstance(argument, torch.SymInt):
            expression = argument.node.expr
            if expression not in self.sizes:
                self.sizes[expression] = size_node(self.rewriter.call, expression, self.sources)
            return self.sizes[expression]
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
