"""`double_program`: the same program in float64, the reference that rounding is measured against.

Weights and float inputs become float64, and so does every low-precision float dtype that stands in the
graph as a literal: in `to.dtype`, in factory functions, in accumulation dtypes. What rests on torch's
default dtype (a factory without a dtype, an integer divided by an integer) is made explicit. Integers and
booleans stay as they are; casts that widen nothing any more go. The result is a canonical Program over the
same sizes, so that a pass can be run on it.

>>> import torch
>>> from fxopt.frontend import trace
>>> twin = double_program(trace(torch.nn.Linear(4, 2).eval(), (torch.zeros(3, 4),)))
>>> twin.weights["weight"].dtype, twin.signature.outputs[0].dtype
(torch.float64, torch.float64)
"""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch.fx import Graph, Node

from fxopt.errors import FxoptError
from fxopt.ops import canonical_arguments, is_random, op_key
from fxopt.program import Program, Spec, TensorSpec, infer_value, origins_of, value_key
from fxopt.rewriting.quiet import quiet
from fxopt.verification.arguments import with_values

__all__ = ["NoFloat64Error", "as_double", "double_dtype", "double_program", "is_low"]

aten = torch.ops.aten
_WIDE = {torch.complex32: torch.complex128, torch.complex64: torch.complex128}


class NoFloat64Error(FxoptError):
    """The program can't be computed in float64; names the op."""


def double_dtype(dtype: torch.dtype) -> torch.dtype:
    """The float64 twin of a floating-point dtype (complex128 of a complex one); any other dtype itself."""
    return torch.float64 if dtype.is_floating_point else _WIDE.get(dtype, dtype)


def as_double(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64 if it is of floating point, else itself."""
    return tensor.to(double_dtype(tensor.dtype))


def double_program(program: Program) -> Program:
    """A program that computes the same function in float64.

    Args:
        program: any traced program; it is not changed.

    Returns:
        An independent program over float64 copies of the weights (integer weights are shared), every
        `meta["val"]` inferred anew, in the same fake mode.

    Raises:
        NoFloat64Error: an op reinterprets bits, or returns a low-precision float whatever it is given.
    """
    return _Doubling(program).run()


def is_low(value: object) -> bool:
    """Whether a value holds a float or complex tensor below float64."""
    if isinstance(value, torch.Tensor):
        return double_dtype(value.dtype) != value.dtype
    return isinstance(value, (list, tuple)) and any(map(is_low, value))


def _has_float(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return value.dtype.is_floating_point or value.dtype.is_complex
    return isinstance(value, (list, tuple)) and any(map(_has_float, value))


def _with_dtype(
    target: object, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]] | None:
    """The call with float64 in its `dtype` argument, if it has one that is left open."""
    names = [a.name for a in target._schema.arguments] if isinstance(target, torch._ops.OpOverload) else []
    if "dtype" not in names:
        return None
    at = names.index("dtype")
    if at < len(args):
        return None if args[at] is not None else ((*args[:at], torch.float64, *args[at + 1 :]), kwargs)
    return None if kwargs.get("dtype") is not None else (args, {**kwargs, "dtype": torch.float64})


def _double_literals(argument: object) -> object:
    """An argument with each low-precision float dtype in it as float64, all else as it is."""
    if isinstance(argument, torch.dtype):
        return double_dtype(argument)
    if isinstance(argument, (list, tuple)):
        items = [_double_literals(a) for a in argument]
        return items if isinstance(argument, list) else tuple(items)
    return argument


def _double_spec(spec: Spec) -> Spec:
    return dataclasses.replace(spec, dtype=double_dtype(spec.dtype)) if isinstance(spec, TensorSpec) else spec


def _uncast(target: object, args: tuple[object, ...]) -> Node | None:
    """The operand of a cast to the dtype that it has already, which is no canonical call."""
    if target is not aten.to.dtype or not isinstance(args[0], Node):
        return None
    value = args[0].meta.get("val")
    return args[0] if isinstance(value, torch.Tensor) and value.dtype == args[1] else None


def _kept(old: object, new: object) -> object:
    """The old value where the new one is the same, so that what follows is not inferred again."""
    return old if value_key(old) == value_key(new) else new


class _Doubling:
    """One walk over the graph, building its twin."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = Graph()
        self.twins: dict[Node, Node] = {}
        self.taken = {node.name for node in program.graph.nodes}

    def run(self) -> Program:
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self._call(node)
            else:
                self._copy(node)
        program = self.program
        twin = Program(
            self.graph,
            {name: as_double(tensor) for name, tensor in program.weights.items()},
            dataclasses.replace(
                program.signature,
                inputs=tuple(map(_double_spec, program.signature.inputs)),
                outputs=tuple(map(_double_spec, program.signature.outputs)),
            ),
            fake_mode=program.fake_mode,
            ties=program.ties,
            symbol_names=program.symbol_names,
            history=program.history,
            name=program.name,
        )
        twin.properties = program.properties
        return twin

    def _copy(self, node: Node) -> None:
        twin = self.twins[node] = self.graph.node_copy(node, lambda n: self.twins[n])
        twin.name = node.name
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and is_low(value):
            twin.meta["val"] = infer_value(self.program, aten.to.dtype, (value, double_dtype(value.dtype)))

    def _call(self, node: Node) -> None:
        args = tuple(self._argument(a) for a in node.args)
        kwargs = {name: self._argument(a) for name, a in node.kwargs.items()}
        same = _uncast(node.target, args)
        if same is not None:
            self.twins[node] = same
            return
        operands = [n.meta.get("val") for n in (node, *node.all_input_nodes)]
        if op_key(node.target) == "aten.view.dtype" and any(map(is_low, operands)):
            raise NoFloat64Error(
                f"{self._where(node)} reinterprets the bits of a float: it has no float64 form"
            )
        old = node.meta.get("val")
        if is_random(node):
            # In float64 other numbers would be drawn: it draws as it does, from operands as they were.
            self.twins[node] = self._drawn(node)
            return
        if not self._moved(node) and not is_low(old):
            value = old
        else:
            value = self._infer(node, args, kwargs)
            if is_low(value):
                args, kwargs, value = self._widened(node, args, kwargs)
        self.twins[node] = self._make(node, node.name, node.target, args, kwargs, _kept(old, value))
        if is_low(value):
            self.twins[node] = self._cast(node, self.twins[node])

    def _drawn(self, node: Node) -> Node:
        args = with_values(list(node.args), lambda n: self._narrowed(node, n))
        kwargs = {name: with_values(a, lambda n: self._narrowed(node, n)) for name, a in node.kwargs.items()}
        assert isinstance(args, list)
        old = node.meta.get("val")
        twin = self._make(node, node.name, node.target, args, kwargs, old)
        return self._cast(node, twin) if is_low(old) else twin

    def _narrowed(self, node: Node, operand: Node) -> Node:
        """The twin of an operand in the operand's own dtype."""
        twin, value = self.twins[operand], operand.meta.get("val")
        if not isinstance(value, torch.Tensor) or not is_low(value):
            return twin
        name = self._free_name(f"{twin.name}_drawn")
        args, kwargs = canonical_arguments(aten.to.dtype, (twin, value.dtype), {})
        return self._make(node, name, aten.to.dtype, args, kwargs, value)

    def _argument(self, argument: object) -> object:
        return _double_literals(with_values(argument, self.twins.__getitem__))

    def _moved(self, node: Node) -> bool:
        """Whether any operand has another value than in the original."""
        return any(self.twins[n].meta.get("val") is not n.meta.get("val") for n in node.all_input_nodes)

    def _infer(self, node: Node, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        try:
            return infer_value(self.program, node.target, args, kwargs)
        except (RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise NoFloat64Error(f"{self._where(node)} does not take float64: {reason}") from error

    def _widened(
        self, node: Node, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object], object]:
        """A call whose result is of torch's default dtype, with float64 asked for.

        By its dtype argument, else by integer operands in float64. What neither helps (`where(mask, 0.5,
        1.0)`) stays, for its result to be cast.
        """
        if any(_has_float(self.twins[n].meta.get("val")) for n in node.all_input_nodes):
            raise NoFloat64Error(f"{self._where(node)} returns a low-precision float for float64 operands")
        asked = _with_dtype(node.target, args, kwargs)
        if asked is not None:
            return (*asked, self._infer(node, *asked))
        fakes = tuple(map(self._wide_value, args)), {k: self._wide_value(a) for k, a in kwargs.items()}
        try:
            with quiet():
                value = infer_value(self.program, node.target, *fakes)
        except (RuntimeError, TypeError, ValueError):
            return args, kwargs, self._infer(node, args, kwargs)  # the op takes no float there
        casts = (
            tuple(self._wide_node(node, a) for a in args),
            {k: self._wide_node(node, a) for k, a in kwargs.items()},
        )
        return (*casts, value)

    def _wide_value(self, argument: object) -> object:
        """A tensor operand's value in float64."""
        value = argument.meta.get("val") if isinstance(argument, Node) else None
        return (
            infer_value(self.program, aten.to.dtype, (value, torch.float64))
            if isinstance(value, torch.Tensor)
            else argument
        )

    def _wide_node(self, node: Node, argument: object) -> object:
        """The cast that gives `_wide_value`."""
        value = argument.meta.get("val") if isinstance(argument, Node) else None
        return (
            self._cast(node, argument)
            if isinstance(value, torch.Tensor) and isinstance(argument, Node)
            else argument
        )

    def _cast(self, node: Node, operand: Node) -> Node:
        if not isinstance(operand.meta.get("val"), torch.Tensor):
            raise NoFloat64Error(
                f"{self._where(node)} returns several low-precision floats for integer operands"
            )
        args, kwargs = canonical_arguments(aten.to.dtype, (operand, torch.float64), {})
        value = infer_value(self.program, aten.to.dtype, args, kwargs)
        return self._make(node, self._free_name(f"{operand.name}_double"), aten.to.dtype, args, kwargs, value)

    def _free_name(self, name: str) -> str:
        free, count = name, 0
        while free in self.taken:
            count += 1
            free = f"{name}_{count}"
        self.taken.add(free)
        return free

    def _make(
        self,
        node: Node,
        name: str,
        target: object,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        value: object,
    ) -> Node:
        twin = self.graph.create_node("call_function", target, tuple(args), dict(kwargs))  # type: ignore[arg-type]
        twin.name = name
        twin.meta = {**node.meta, "val": value}
        return twin

    def _where(self, node: Node) -> str:
        origins = "; ".join(map(str, origins_of(node)))
        return f"{op_key(node.target)} ({node.name}{', ' + origins if origins else ''})"
