"""The edit journal: what each rewrite created, replaced and removed; rollback, "changed" and bisection come from it."""

from dataclasses import dataclass, field

from torch.fx import Graph, Node

from fxopt.program.program import Origin

__all__ = ["Journal", "Rewrite", "fingerprint"]


@dataclass(frozen=True)
class Rewrite:
    """One applied rewrite: rule, the node it was anchored at, names of nodes made and removed, where they came from."""

    rule: str
    root: str
    created: tuple[str, ...]
    removed: tuple[str, ...]
    origins: tuple[Origin, ...]


@dataclass
class Journal:
    """All rewrites of one pass application, and every node that they touched."""

    rewrites: list[Rewrite] = field(default_factory=list)
    touched: set[Node] = field(default_factory=set)

    @property
    def changed(self) -> bool:
        """Whether anything was rewritten."""
        return bool(self.rewrites)

    def counts(self) -> dict[str, int]:
        """Applications by rule."""
        counts: dict[str, int] = {}
        for rewrite in self.rewrites:
            counts[rewrite.rule] = counts.get(rewrite.rule, 0) + 1
        return counts


def fingerprint(graph: Graph) -> dict[Node, tuple[object, ...]]:
    """Each node's op, target and arguments by identity: two fingerprints differ exactly where the graph was edited."""
    return {n: (n.op, n.target, _identity(n.args), _identity(n.kwargs)) for n in graph.nodes}


def _identity(value: object) -> object:
    if isinstance(value, Node):
        return id(value)
    if isinstance(value, (list, tuple)):
        return tuple(map(_identity, value))
    if isinstance(value, dict):
        return tuple((k, _identity(v)) for k, v in value.items())
    return (type(value).__name__, repr(value))
