"""Forward: which slices hold one number on every input, and which number.

A constant flows from weights through bias, normalisations in eval mode, activations, pools, moves. It is
computed by the op itself, in float64, on one element a slice.
"""

import math

import numpy as np
import torch
from torch.fx import Node

from fxopt.analysis.channels.products import Product, products_of
from fxopt.analysis.channels.reading import (
    Names,
    Reading,
    Side,
    equal,
    read_call,
    run_bound,
    some,
    tensor_operands,
)
from fxopt.analysis.channels.space import Space, is_part
from fxopt.analysis.channels.units import Units, standing, units_of
from fxopt.ops import Cut, QuantRole, is_pure
from fxopt.program import Program

__all__ = ["Constants"]

_LARGEST_FOLDED = 1 << 22
"""Elements of a result that is computed from weights alone: more is not looked into."""


class Constants:
    """Constant slices of a program.

    Attributes:
        space: the numbering.
        values: float64 by position, NaN where the slice is not known to be constant.
        known: the tensors of weights and of what is computed from them alone.
        readings: every call read through its index map.
        products: those that meet known weights.
        units: of calls that have some, where their weights are known.
    """

    def __init__(self, program: Program) -> None:
        self.space = Space(program)
        self.values = np.full(self.space.size, np.nan)
        self.known: dict[Node, torch.Tensor] = {}
        self.readings: dict[Node, Reading] = {}
        self.products: dict[Node, list[Product]] = {}
        self.units: dict[Node, Units] = {}
        for node in program.graph.nodes:
            if node.op == "get_attr":
                self._note(node, program.weights[str(node.target)])
            elif node.op == "call_function" and not is_part(node):
                self._call(node)

    @classmethod
    def compute(cls, program: Program) -> "Constants":
        """Follows constants through a program."""
        return cls(program)

    def _call(self, node: Node) -> None:
        reading = read_call(node, self.space)
        if reading is None:
            return
        self.readings[node] = reading
        folded = self._folded(node)
        if folded is not None:
            self.known[node] = folded  # its slices are uniform by what it is computed from, which may be cut
        self.products[node] = products_of(reading, self.known)
        if reading.is_known:
            for part, side in enumerate(reading.outputs):
                for dim, axis, names in side.places():
                    self.values[axis.span] = self._along(reading, part, dim, names, axis.size)
        units = units_of(reading, self.known)
        if units is not None:
            self.units[node] = units
            self._standing(units)

    def _standing(self, units: Units) -> None:
        """What units that never change give, in each result."""
        reading = units.reading
        product = next(p for p in self.products[reading.node] if p.rows == units.names)
        results = standing(units, product, self.known, lambda side, onto: self.along(reading, side, onto))
        for side, values in zip(units.reading.outputs, results, strict=True):
            for _, axis, names in side.places():
                if names == units.names:
                    self.values[axis.span] = values

    def _note(self, node: Node, tensor: torch.Tensor) -> None:
        """A weight, and its uniform slices."""
        self.known[node] = tensor
        if tensor.is_complex() or tensor.is_quantized or tensor.is_meta or not tensor.numel():
            return
        data = tensor.detach().cpu()
        data = data.float() if data.dtype in (torch.bfloat16, torch.float16, torch.bool) else data
        for dim, axis in enumerate(self.space.axes(node)):
            if axis is not None:
                rows = data.movedim(dim, 0).reshape(axis.size, -1) if data.dim() else data.reshape(1, 1)
                low, high = rows.amin(1).double(), rows.amax(1).double()
                self.values[axis.span] = torch.where((low == high) & low.isfinite(), low, math.nan).numpy()

    def _folded(self, node: Node) -> torch.Tensor | None:
        """The value of a pure call on known tensors of fixed sizes, if it is not too large."""
        value, operands = node.meta["val"], [n for _, n in tensor_operands(node)]
        if not operands or any(n not in self.known for n in node.all_input_nodes) or not is_pure(node):
            return None
        if not isinstance(value, torch.Tensor) or not all(isinstance(d, int) for d in value.shape):
            return None
        if value.numel() > _LARGEST_FOLDED or not isinstance(node.target, torch._ops.OpOverload):
            return None
        args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), lambda n: self.known[n])
        with torch.no_grad():
            result = node.target(*args, **kwargs)
        assert isinstance(result, torch.Tensor)
        return result

    def along(self, reading: Reading, side: Side, onto: Names) -> np.ndarray:
        """An operand's constants, by the positions of a dimension with the indices `onto`."""
        extents = [reading.extents[n] for n in onto]
        found = np.full(math.prod(extents), np.nan)
        for _, axis, names in side.places():
            vector = self.values[axis.span]
            if not np.isnan(vector).all():
                if not names:  # a dimension whose position says nothing: constant if all of it is
                    vector = equal(vector, (0,)).reshape(1)
                spreaded = reading.onto(vector, names, onto, equal)
                found = np.where(np.isnan(found), spreaded, found)
        return found

    def absorbs(self, product: Product) -> bool:
        """Whether a bias can be made that holds what constant channels give to a product."""
        if product.pads or not product.is_plain or not product.takes_bias:
            return False
        return product.bias is None or product.bias.node in self.known

    def _along(self, reading: Reading, part: int, dim: int, names: Names, size: int) -> np.ndarray:
        """The constants of one dimension of a result."""
        info = reading.info
        found = np.full(math.prod(reading.extents[n] for n in names), np.nan)
        if info.elementwise or info.same_everywhere:
            found = _first_known(found, self._computed(reading, names))
        found = _first_known(found, self._zeros(reading, names), self._scaled(reading, names))
        keeps = info.keeps_constants
        if keeps(reading.bound) if callable(keeps) else keeps:
            found = _first_known(found, self.along(reading, reading.inputs[0], names))
        for product in self.products[reading.node]:
            if product.rows == names and np.isnan(found).any():
                found = _first_known(found, self._rows(product))
        # A dimension that says nothing is constant only as a whole.
        found = found if found.size == size else np.full(size, found[0])
        return _first_known(found, self._moved(reading, part, dim, size))

    def _zeros(self, reading: Reading, names: Names) -> np.ndarray:
        """Zero where an operand in which the call is linear, or that it keeps zero at, is zero."""
        info, first = reading.info, reading.inputs[0].name if reading.inputs else ""
        zero = np.zeros(math.prod(reading.extents[n] for n in names), dtype=bool)
        if info.role is QuantRole.CONTRACTION and not info.affine_in:  # nothing but factors
            zero |= np.any([self.along(reading, s, names) == 0 for s in reading.inputs], axis=0)
        for argument in {*info.linear_in, *([first] if info.zero_preserving else [])}:
            sides = [s for s in reading.inputs if s.name == argument]
            if sides:
                zero |= np.all([self.along(reading, s, names) == 0 for s in sides], axis=0)
        return np.where(zero, 0.0, np.nan)

    def _scaled(self, reading: Reading, names: Names) -> np.ndarray:
        """What is left where the scale is zero."""
        size = math.prod(reading.extents[n] for n in names)
        scale = next((s for s in reading.inputs if s.name == reading.info.scaled_by), None)
        if not reading.info.scaled_by or scale is None:
            return np.full(size, np.nan)
        shift = next((s for s in reading.inputs if s.name == reading.info.shifted_by), None)
        left = np.zeros(size) if shift is None else self.along(reading, shift, names)
        return np.where(self.along(reading, scale, names) == 0, left, np.nan)

    def _computed(self, reading: Reading, names: Names) -> np.ndarray:
        """The op itself on one element a slice, where all operands are constant there."""
        size = math.prod(reading.extents[n] for n in names)
        nothing = np.full(size, np.nan)
        if not [
            s for s in reading.inputs if s.name not in reading.info.shape_only or reading.info.elementwise
        ]:
            return np.full(size, _filled(reading))
        if len(names) > 1 or any(isinstance(v, torch.SymInt) for v in reading.bound.values()):
            return nothing
        free = reading.info.shape_only
        operands = [
            np.zeros(size) if s.name in free else self.along(reading, s, names) for s in reading.inputs
        ]
        chosen = ~np.isnan(np.stack(operands)).any(axis=0) if operands else np.zeros(size, dtype=bool)
        if not chosen.any() or len({s.name for s in reading.inputs}) != len(reading.inputs):
            return nothing
        arguments = dict(reading.bound)
        for side, vector in zip(reading.inputs, operands, strict=True):
            arguments[side.name] = _thumbnail(side, vector[chosen], names)
        result = run_bound(reading.op, arguments)
        assert isinstance(result, torch.Tensor)
        if result.is_complex():
            return nothing
        numbers = result.double().reshape(-1).numpy()
        nothing[chosen] = np.where(np.isfinite(numbers), numbers, np.nan)
        return nothing

    def _rows(self, product: Product) -> np.ndarray:
        """A row is constant if no channel that varies reaches it, nor a constant that no bias can hold.

        The channel may go, and the row would lose what it gives.
        """
        x = self.along(product.reading, product.x, product.channels)
        bad = np.isnan(x) | ((x != 0) & (not self.absorbs(product)))
        varies = product.from_grid(
            product.reaches & product.over_grid(bad, product.channels),
            product.rows,
            some,
        )
        if varies.all() or not product.is_plain:
            return np.full(varies.size, np.nan)
        value = np.zeros(varies.size)
        if np.nan_to_num(x).any():
            value = value + product.response(np.nan_to_num(x))
        if product.bias is not None:
            value = value + self.along(product.reading, product.bias, product.rows)
        return np.where(varies, np.nan, value)

    def _moved(self, reading: Reading, part: int, dim: int, size: int) -> np.ndarray:
        """Constants at the places that elements come from."""
        found = np.full(size, np.nan)
        places = reading.moved.get(dim, ())
        if places and len(reading.inputs[0].axes) == len(reading.outputs[part].axes):
            axes = [s.axes[dim] for s in reading.inputs]
            values = np.concatenate([self.values[a.span] for a in axes if a is not None])
            found = np.where(places[part] >= 0, values[places[part]], np.nan)
        return found


def _filled(reading: Reading) -> float:
    """The number that a call without operands gives everywhere."""
    shapes = (tuple(reading.node.meta["val"].shape),)
    assert reading.info.resize is not None
    made = reading.info.resize(Cut(reading.op, reading.bound, {}, (((0,),) * len(shapes[0]),), shapes))
    arguments = reading.bound | ({} if made is None else made[1])
    if any(isinstance(v, (torch.SymInt, torch.SymFloat)) for v in arguments.values()):
        return math.nan
    result = run_bound(reading.op, {name: _on_cpu(value) for name, value in arguments.items()})
    assert isinstance(result, torch.Tensor)
    return math.nan if result.is_complex() else float(result)


def _on_cpu(value: object) -> object:
    """A device, or a tensor that is asked for its dtype alone."""
    if isinstance(value, torch.Tensor):
        return torch.zeros(1, dtype=value.dtype)
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _first_known(*vectors: np.ndarray) -> np.ndarray:
    found = vectors[0]
    for vector in vectors[1:]:
        found = np.where(np.isnan(found), vector, found)
    return found


def _thumbnail(side: Side, vector: np.ndarray, names: Names) -> torch.Tensor:
    """A tensor of an operand's rank with one element a slice along the named index, of size one elsewhere."""
    value = side.node.meta["val"]
    dtype = torch.float64 if value.dtype.is_floating_point else value.dtype
    has = [bool(names) and d == names for d in side.dims]
    shape = [len(vector) if h else 1 for h in has]
    data = torch.tensor(vector if any(has) else vector[:1]).to(dtype)
    return data.reshape(shape)
