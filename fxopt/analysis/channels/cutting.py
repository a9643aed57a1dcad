"""Rebuilds a program on the positions that stay: smaller weights, the same calls with other literals."""

import operator
from collections.abc import Mapping

import numpy as np
import torch
from torch.fx import Node
from torch.fx.node import map_arg

from fxopt.analysis.channels.products import Product
from fxopt.analysis.channels.reading import Names, Reading
from fxopt.analysis.channels.removal import Removal
from fxopt.analysis.channels.space import Axis, is_part
from fxopt.errors import PassError
from fxopt.ops import Cut, Kept, argument_kinds, bind
from fxopt.program import trained_as
from fxopt.rewriting import Rewriter

__all__ = ["Cutter"]


class Cutter:
    """One rebuilding of a program.

    Args:
        rewriter: with a rewrite open.
        removal: what goes.
    """

    def __init__(self, rewriter: Rewriter, removal: Removal) -> None:
        self.rewriter, self.removal = rewriter, removal
        self.constants = removal.coupling.demand.constants
        self._kept: dict[Node, tuple[Kept, ...]] = {
            n: tuple(map(removal.kept, self.constants.space.parts(n)))
            for n in rewriter.program.graph.nodes
            if n.op != "output"
        }
        self._made: dict[Node, Node] = {}
        self._weights: dict[Node, Node] = {}

    def affected(self) -> list[Node]:
        """The calls that get other arguments or give fewer positions, in order."""
        return [
            n
            for n in self.rewriter.nodes()
            if self._is_cut(n) or any(self._is_cut(a) for a in n.all_input_nodes)
        ]

    def run(self, affected: list[Node]) -> None:
        """Makes each affected call anew; where all positions stay the new one takes the old one's place."""
        for node in affected:
            with self.rewriter.instead(node):
                made = self._part(node) if is_part(node) else self._call(node)
            self._made[node] = made
            if self._is_cut(node):
                self.rewriter.remove_dead(node)
            else:
                self.rewriter.replace(node, made)

    def _is_cut(self, node: Node) -> bool:
        return any(kept is not None for part in self._kept[node] for kept in part)

    def _part(self, node: Node) -> Node:
        return self.rewriter.call(operator.getitem, self._argument(node.all_input_nodes[0]), node.args[1])

    def _argument(self, node: Node) -> Node:
        """What stands for an operand."""
        if node.op == "get_attr" and self._is_cut(node):
            if node not in self._weights:
                self._weights[node] = self._weight(node, self._tensor(node))
            return self._weights[node]
        return self._made.get(node, node)

    def _weight(self, node: Node, tensor: torch.Tensor) -> Node:
        """A weight on the positions that stay, under the name of the old one if that goes."""
        for dim, kept in enumerate(self._kept[node][0]):
            if kept is not None:
                tensor = tensor.index_select(dim, torch.tensor(kept, device=tensor.device))
        return self.rewriter.constant(tensor.detach().clone(), name=str(node.target), successor_of=node)

    def _tensor(self, node: Node) -> torch.Tensor:
        tensor = self.rewriter.value(node)
        assert tensor is not None
        return tensor

    def _call(self, node: Node) -> Node:
        reading = self.constants.readings.get(node)
        if reading is None:  # a function on sizes, which are no less than they were
            args = map_arg(node.args, self._argument)
            return self.rewriter.call(node.target, *args)
        op, literals = self._resized(reading)
        renewed = self._selected(reading)
        added: dict[str, object] = {}
        for product in self.constants.products[node]:
            self._absorb(product, renewed, added)
        arguments = {name: self._renewed(value, renewed) for name, value in bind(node).items()} | added
        for name, value in literals.items():
            arguments[name] = self._merged(value, arguments.get(name))
        kinds = argument_kinds(op)
        made = self.rewriter.call(
            op,
            *(arguments[k.name] for k in kinds if not k.keyword_only and k.name in arguments),
            **{k.name: arguments[k.name] for k in kinds if k.keyword_only and k.name in arguments},
        )
        self._check(node, made)
        return made

    def _renewed(self, value: object, renewed: Mapping[Node, Node]) -> object:
        if isinstance(value, Node):
            return renewed.get(value) or self._argument(value)
        return [self._renewed(v, renewed) for v in value] if isinstance(value, (list, tuple)) else value

    def _selected(self, reading: Reading) -> dict[Node, Node]:
        """What a call reads some positions of, where it is made all stay."""
        found: dict[Node, Node] = {}
        for side in reading.inputs:
            for dim, _, names in side.places():
                if (side, dim) not in self.removal.coupling.selected:
                    continue
                (kept,) = self.removal.kept((self._met(reading, names),))
                if kept is not None:
                    places = torch.tensor(kept, device=side.node.meta["val"].device)
                    index = self.rewriter.constant(places, name="kept")
                    whole = found.get(side.node, self._argument(side.node))
                    found[side.node] = self.rewriter.call("aten.index_select", whole, dim, index)
        return found

    def _met(self, reading: Reading, names: Names) -> Axis:
        """The axis of the operand that the same index runs along and that can be cut."""
        selected = self.removal.coupling.selected
        places = ((s, d, axis) for s in reading.inputs for d, axis, own in s.places() if own == names)
        return next(axis for side, dim, axis in places if (side, dim) not in selected)

    @staticmethod
    def _merged(value: object, old: object) -> object:
        """A new literal; sizes in a list that are None stay as they were."""
        if isinstance(value, list) and isinstance(old, (list, tuple)) and None in value:
            return [o if v is None else v for v, o in zip(value, old, strict=True)]
        return value

    def _resized(self, reading: Reading) -> tuple[torch._ops.OpOverload, dict[str, object]]:
        """The op and the literals on what stays."""
        resize, node = reading.info.resize, reading.node
        if resize is None:
            return reading.op, {}
        inputs: dict[str, tuple[Kept, ...]] = {}
        for side in reading.inputs:
            inputs[side.name] = (*inputs.get(side.name, ()), *self._kept[side.node])
        value = node.meta["val"]
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        shapes = tuple(tuple(v.shape) for v in values)
        made = resize(Cut(reading.op, reading.bound, inputs, self._kept[node], shapes))
        if made is None:
            raise PassError(
                f"{node.name} can't be made of {self._kept[node]}: its table entry's resize says no"
            )
        return made

    def _absorb(self, product: Product, renewed: dict[Node, Node], added: dict[str, object]) -> None:
        """Constants that go are taken into the bias, or into the channel that stays for them.

        Args:
            product: of the call.
            renewed: gets what stands for an operand.
            added: gets arguments that the call did not have, by name.
        """
        if product.channel is None:
            return
        gone = self.removal.removed[product.channel.span]
        values = self.constants.along(product.reading, product.x, product.channels)
        constant = np.where(gone, np.nan_to_num(values), 0.0)
        merge = self.removal.merges.get(product)
        if merge is not None:
            renewed[product.weight.node] = self._merged_weight(product, merge.channel, merge.factors)
        elif constant.any() and self.constants.absorbs(product):  # else nothing sees what it gave
            response = product.response(constant)
            if response.any() and product.bias is not None:
                renewed[product.bias.node] = self._bias(product, response)
            elif response.any():
                added[product.reading.info.shifted_by] = self._bias(product, response)

    def _bias(self, product: Product, added: np.ndarray) -> Node:
        """The bias with what the constants add to each row."""
        weight = product.tensor
        if product.bias is None:
            rows = torch.tensor(added)
            (kept,) = self.removal.kept((product.out,))
            module = str(product.weight.node.target).rpartition(".")[0]
            name = f"{module}.bias" if module else "bias"
            chosen = rows if kept is None else rows[torch.tensor(kept)]
            made = trained_as(chosen.to(weight.dtype).to(weight.device), [weight])
            return self.rewriter.constant(made, name=name)
        old = self.constants.known[product.bias.node]
        along = [bool(d) for d in product.bias.dims]
        shape = [added.size if a else 1 for a in along]
        bias = (old.double() + torch.tensor(added).reshape(shape).to(old.device)).to(old.dtype)
        return self._weight(product.bias.node, bias)

    def _merged_weight(self, product: Product, channel: int, factors: np.ndarray) -> Node:
        """The weight with what goes added to the channel that stays for it, each so many times."""
        (dim,) = (i for i, d in enumerate(product.weight.dims) if d == product.channels)
        old = product.tensor.detach()
        shape = [-1 if i == dim else 1 for i in range(old.dim())]
        extra = (old.double() * torch.tensor(factors).reshape(shape).to(old.device)).sum(dim)
        merged = old.double().clone()  # of float64 weights it would be the weight itself
        merged.select(dim, channel).add_(extra)
        return self._weight(product.weight.node, merged.to(old.dtype))

    def _check(self, node: Node, made: Node) -> None:
        """Whether a call gives what the analysis says; a wrong entry of the table shows here."""
        before, after = (
            [v] if isinstance(v, torch.Tensor) else v for v in (node.meta["val"], made.meta["val"])
        )
        for old, new, kept in zip(before, after, self._kept[node], strict=True):
            for size, got, stay in zip(old.shape, new.shape, kept, strict=True):
                if isinstance(got, int) and got != (size if stay is None else len(stay)):
                    raise PassError(
                        f"{node.name} gives {tuple(new.shape)} on the positions that stay, expected "
                        f"{[s if k is None else len(k) for s, k in zip(old.shape, kept, strict=True)]}: "
                        f"the table entry of {node.target} is wrong"
                    )
