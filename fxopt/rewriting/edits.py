"""What an open rewrite has done so far, and the names that its constants may have.

>>> WeightNames.identifier("layers.0.weight")
'layers_0_weight'
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch.fx import Node

from fxopt.errors import PassError
from fxopt.program import Origin, Program, origins_of
from fxopt.rewriting.ledger import Ledger

__all__ = ["Analyses", "Analysis", "Edits", "OrderError", "WeightNames", "WeightNodes"]


class OrderError(PassError):
    """A rewrite would leave a use before its definition."""


class Analysis(Protocol):
    """A fact computed over a whole program; cached by the rewriter and dropped when the program changes."""

    @classmethod
    def compute(cls, program: Program) -> "Analysis":
        """Computes it."""


Analyses = dict[type, tuple[int, object]]
"""Version of the program and result, by kind."""


class Edits:
    """The edits of the rewrite that is being made."""

    def __init__(self, rule: str, root: Node) -> None:
        self.rule, self.root = rule, root
        self.place = root
        self.created: list[Node] = []
        self.replaced: list[Node] = []
        self.dead: list[Node] = []
        self.uses: list[tuple[Node, tuple[object, ...], dict[str, object]]] = []
        self.origins: dict[Origin, None] = dict.fromkeys(origins_of(root))
        self.source: tuple[Origin, ...] = ()
        """Where the calls that are being made come from, if not from all that is replaced."""
        self.own: dict[Node, tuple[Origin, ...]] = {}
        self.successors: dict[Node, tuple[str, str]] = {}
        """New weights, and the names of the weight and node that each follows."""

    @property
    def any(self) -> bool:
        """Whether something was replaced or given up; calls alone change nothing."""
        return bool(self.replaced or self.dead)

    def moved(self, there: Mapping[Node, Node]) -> "Edits":
        """The same edits in a copy of the graph, whose nodes are given."""
        found = Edits(self.rule, there[self.root])
        found.created, found.replaced, found.dead = (
            [there[n] for n in nodes] for nodes in (self.created, self.replaced, self.dead)
        )
        found.uses = [(there[user], there[user].args, dict(there[user].kwargs)) for user, _, _ in self.uses]
        found.origins = dict(self.origins)
        found.own = {there[n]: origins for n, origins in self.own.items()}
        found.successors = {there[n]: names for n, names in self.successors.items()}
        return found

    def check_order(self) -> None:
        """A call may stand behind an earlier user of what it replaces, or before its own argument.

        Raises:
            OrderError: names both.
        """
        for user in (*(u for u, _, _ in self.uses), *self.created):
            for argument in user.all_input_nodes:
                if user < argument:
                    raise OrderError(
                        f"rewrite {self.rule!r} at {self.root.name}: {user.name} would use {argument.name} "
                        "before it is made; anchor the rewrite at the earliest node that it replaces"
                    )


class WeightNodes:
    """The nodes of a program's weights, kept in step with its table, its ties and the ledger."""

    def __init__(self, program: Program, ledger: Ledger | None) -> None:
        self._program, self._ledger = program, ledger
        self._nodes = {str(n.target): n for n in program.weight_nodes()}

    def add(self, node: Node, tensor: torch.Tensor) -> None:
        """A new weight."""
        self._program.weights[str(node.target)] = tensor
        self._nodes[str(node.target)] = node
        self._note(str(node.target))

    def drop(self, node: Node) -> None:
        """The weight of a node that was erased goes with it, and its other names."""
        name = str(node.target)
        if self._nodes.get(name) is not node:
            return
        del self._nodes[name]
        self._program.weights.pop(name, None)
        for alias in [a for a, n in self._program.ties.items() if n == name]:
            del self._program.ties[alias]
        self._note(name)

    def inherit(self, successors: Mapping[Node, tuple[str, str]], ties: Mapping[str, str]) -> None:
        """Gives successors of weights that are gone their names, and those under which they were tied."""
        for node, (name, identifier) in successors.items():
            if node._erased or name in self._nodes:
                continue
            before = str(node.target)
            self._nodes[name] = self._nodes.pop(before)
            self._program.weights[name] = self._program.weights.pop(before)
            self._program.ties.update({alias: name for alias, tied in ties.items() if tied == name})
            node.target = name
            node._rename(identifier)
            self._note(before)
            self._note(name)

    def _note(self, name: str) -> None:
        if self._ledger is not None:
            self._ledger.note_weight(name)


class WeightNames:
    """Names for new weights of a program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._above = {p for name in program.weights for p in _prefixes(name)}
        self._used: dict[str, int] = {}
        """The last number behind each name."""

    def unused(self, wish: str) -> str:
        """A name that no weight has, is below or is above: `conv` can't be a weight beside `conv.weight`."""
        base = ".".join(part for part in wish.split(".") if part) or "folded"
        if any(p in self._program.weights for p in _prefixes(base)):
            base = base.replace(".", "_")
        taken = (self._program.weights, self._program.ties, self._above)
        unique = base
        while any(unique in t for t in taken):
            self._used[base] = self._used.get(base, 0) + 1
            unique = f"{base}_{self._used[base]}"
        self._above.update(_prefixes(unique))
        return unique

    @staticmethod
    def identifier(name: str) -> str:
        """The name of the node that reads a weight."""
        text = "".join(c if c.isalnum() else "_" for c in name)
        return f"_{text}" if not text or text[0].isdigit() else text


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]
