"""A program as something that trains: parameters with gradients, its graph with dropout and BatchNorm as asked.

An eval-mode ATen graph trains as it is. What differs in training is literals: of `dropout` whether it drops,
of `batch_norm` whose statistics it takes. The weights are copies; the program that was given stays as it is.

>>> from fxopt.frontend import trace
>>> student = Student(trace(torch.nn.Linear(4, 2).eval(), torch.zeros(3, 4)))
>>> sorted(student.parameters)
['bias', 'weight']
"""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from fxopt.errors import InputError
from fxopt.program import Program, TensorSpec
from fxopt.program.recurrent import RECURRENT
from fxopt.training.data import on_device
from fxopt.training.settings import BatchNorm

__all__ = ["Student", "runnable"]

Literals = Callable[[Node], Mapping[str, object]]

_DROPOUTS = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
)
_BATCH_NORM = torch.ops.aten.batch_norm.default


def runnable(
    program: Program,
    weights: Mapping[str, torch.Tensor],
    *,
    device: torch.device,
    extra: Sequence[Node] = (),
    literals: Literals | None = None,
) -> GraphModule:
    """The program's graph over other weights.

    Args:
        program: whose graph.
        weights: all of its weights, on the device; they become the module's parameters and buffers.
        device: takes the place of those in the graph.
        extra: nodes whose values are returned after the program's outputs.
        literals: of a call, those arguments by schema name that are others than in the program.
    """
    graph = Graph()
    made: dict[Node, Node] = {}
    for node in program.graph.nodes:
        if node.op == "output":
            continue
        args, kwargs = node.args, dict(node.kwargs)
        if isinstance(node.target, torch._ops.OpOverload):
            args, kwargs = _with_literals(node, {} if literals is None else literals(node))
        # fx's types of arguments are narrower than what its graphs hold.
        args, kwargs = (_on(map_arg(a, lambda n: made[n]), device) for a in (args, kwargs))  # type: ignore[assignment]
        made[node] = graph.create_node(node.op, node.target, args, kwargs, name=node.name)  # type: ignore[arg-type]
        made[node].meta = {}
    outputs = [n for n in program.output_nodes() if isinstance(n, Node)]
    graph.output(tuple(made[n] for n in (*outputs, *extra)))
    used = {str(n.target) for n in program.weight_nodes()}
    return GraphModule({name: weights[name] for name in used}, graph, "Student")


def _with_literals(
    node: Node, literals: Mapping[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [a.name for a in node.target._schema.arguments]
    args = tuple(literals.get(name, value) for name, value in zip(names, node.args, strict=False))
    return args, {name: literals.get(name, value) for name, value in node.kwargs.items()}


def _on(argument: object, device: torch.device) -> object:
    if isinstance(argument, torch.device):
        return device
    if isinstance(argument, (list, tuple)):
        return type(argument)([_on(a, device) for a in argument])
    return {k: _on(v, device) for k, v in argument.items()} if isinstance(argument, dict) else argument


class Student:
    """A program being trained.

    Args:
        program: it is copied.
        device: to train on; by default that of its weights.
        freeze: patterns of names of weights that don't train.
        dropout: whether dropout drops.
        batch_norm: whose statistics BatchNorm takes.
        features: nodes whose values training looks at.

    Attributes:
        parameters: the weights that train, by name.
        state: all weights that training may change: the parameters, and statistics that are updated.
        module: runs in training, on flat tensors.

    Raises:
        InputError: no weight trains; a pattern of `freeze` fits none.
    """

    def __init__(
        self,
        program: Program,
        *,
        device: str | torch.device | None = None,
        freeze: Sequence[str] = (),
        dropout: bool = True,
        batch_norm: BatchNorm = "frozen",
        features: Sequence[Node] = (),
    ) -> None:
        self.program = program
        self.device = _device(program, device)
        trains = _trainable(program, freeze)
        self.weights = {
            name: _copied(tensor, self.device, trains=name in trains)
            for name, tensor in program.weights.items()
        }
        self.parameters = {n: w for n, w in self.weights.items() if isinstance(w, torch.nn.Parameter)}
        literals = _literals(dropout=dropout, update=batch_norm == "update")
        self.module = runnable(program, self.weights, device=self.device, extra=features, literals=literals)
        self._eval = runnable(program, self.weights, device=self.device)
        moving = _statistics(program) if batch_norm == "update" else set()
        self.state = {n: w for n, w in self.weights.items() if n in self.parameters or n in moving}

    def inputs(self, args: tuple[object, ...], kwargs: dict[str, object]) -> list[torch.Tensor]:
        """The flat tensors of a call, on the device.

        Raises:
            InputError: they don't fit the model.
        """
        flat = self.program.signature.flatten_inputs(args, kwargs)
        return [t.to(self.device, non_blocking=True) for t in flat]

    def restored(self, flat: Sequence[object]) -> object:
        """The model's own containers of the first outputs; floats in the dtype that the model returns."""
        specs = self.program.signature.computed_outputs
        values = [
            v.to(s.dtype) if isinstance(v, torch.Tensor) and isinstance(s, TensorSpec) else v
            for v, s in zip(flat, specs, strict=False)
        ]
        return self.program.signature.unflatten_outputs(values)

    def predict(self, *args: object, **kwargs: object) -> object:
        """Runs it as the finished model would run, called as the model is: for metrics."""
        flat = self.inputs(args, kwargs)
        with torch.no_grad():
            values = self._eval.forward(*flat)
        home = next(
            (t.device for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)), None
        )
        result = self.restored(list(values))
        return result if home in (None, self.device) else on_device(result, home)

    def snapshot(self) -> dict[str, torch.Tensor]:
        """Copies of what training changes."""
        return {name: w.detach().clone() for name, w in self.state.items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Sets the weights to a snapshot."""
        with torch.no_grad():
            for name, tensor in self.state.items():
                tensor.copy_(state[name])

    def not_finite(self) -> str | None:
        """The name of a weight that holds NaN or infinity although it did not at the start."""
        for name, tensor in self.state.items():
            if not bool(torch.isfinite(tensor).all()) and bool(
                torch.isfinite(self.program.weights[name]).all()
            ):
                return name
        return None

    def trained(self, state: Mapping[str, torch.Tensor], history: str) -> Program:
        """The program with trained weights, where the original's were, and the training in its history."""
        program = self.program.copy()
        program.history = (*program.history, history)
        for name, tensor in state.items():
            original = program.weights[name]
            moved = tensor.detach().to(original.device)
            if isinstance(original, torch.nn.Parameter):
                moved = torch.nn.Parameter(moved, requires_grad=original.requires_grad)
            program.weights[name] = moved
        return program


def _literals(*, dropout: bool, update: bool) -> Literals:
    """What differs in training; recurrent kernels of GPUs have gradients in training mode only."""

    def differing(node: Node) -> Mapping[str, object]:
        if node.target in _DROPOUTS:
            return {"train": True} if dropout else {}
        if node.target in RECURRENT:
            return {"train": True} if dropout else {"train": True, "dropout": 0.0}
        return {"training": True} if update and node.target is _BATCH_NORM else {}

    return differing


def _device(program: Program, device: str | torch.device | None) -> torch.device:
    if device is None:
        return next((w.device for w in program.weights.values()), torch.device("cpu"))
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise InputError(f"the device {device!r} can't be used: {first}") from error
    return chosen


def _trainable(program: Program, freeze: Sequence[str]) -> set[str]:
    """The names of the parameters that learn."""
    aliases: dict[str, list[str]] = {}
    for alias, name in program.ties.items():
        aliases.setdefault(name, []).append(alias)
    for pattern in freeze:
        if not any(fnmatchcase(n, pattern) for n in (*program.weights, *program.ties)):
            raise InputError(f"freeze: no weight is named {pattern!r}; they are {_few(program.weights)}")
    used = {str(n.target) for n in program.weight_nodes()}
    trains = {
        name
        for name, tensor in program.weights.items()
        if isinstance(tensor, torch.nn.Parameter)
        and tensor.requires_grad
        and name in used
        and not any(fnmatchcase(n, p) for p in freeze for n in (name, *aliases.get(name, ())))
    }
    if not trains:
        raise InputError(
            "no weight of the program trains: they are buffers, have requires_grad=False, or are frozen; "
            "trace a model whose parameters want gradients"
        )
    return trains


def _few(names: Sequence[str] | Mapping[str, object]) -> str:
    listed = list(names)
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")


def _copied(tensor: torch.Tensor, device: torch.device, *, trains: bool) -> torch.Tensor:
    copy = tensor.detach().clone().to(device)
    return torch.nn.Parameter(copy) if trains else copy


def _statistics(program: Program) -> set[str]:
    """The weights that BatchNorm takes as running mean and variance."""
    operands = (a for n in program.calls() if n.target is _BATCH_NORM for a in n.args[3:5])
    return {str(a.target) for a in operands if isinstance(a, Node) and a.op == "get_attr"}
