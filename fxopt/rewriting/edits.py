"""What an open rewrite has done so far, and the names that its constants may have.

>>> WeightNames.identifier("layers.0.weight")
'layers_0_weight'
"""

from typing import Protocol

from torch.fx import Node

from fxopt.errors import PassError
from fxopt.program import Origin, Program, origins_of

__all__ = ["Analyses", "Analysis", "Edits", "OrderError", "WeightNames"]


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

    @property
    def any(self) -> bool:
        """Whether something was replaced or given up; calls alone change nothing."""
        return bool(self.replaced or self.dead)

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
