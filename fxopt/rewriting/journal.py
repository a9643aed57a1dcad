"""The edit journal: what each rewrite created, replaced and removed; "changed" and bisection come from it.

>>> journal = Journal([Rewrite("fuse", "add", ("linear",), ("matmul", "add"), ())])
>>> journal.changed, journal.counts()
(True, {'fuse': 1})
"""

from collections import Counter
from dataclasses import dataclass, field

from torch.fx import Node

from fxopt.program import Origin

__all__ = ["Journal", "Rewrite"]


@dataclass(frozen=True)
class Rewrite:
    """One applied rewrite: rule, the node it was anchored at, names of nodes made and removed, sources."""

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
    """Made, removed, or with other arguments than before."""

    @property
    def changed(self) -> bool:
        """Whether anything was rewritten."""
        return bool(self.rewrites)

    def counts(self) -> dict[str, int]:
        """Applications by rule."""
        return dict(Counter(r.rule for r in self.rewrites))
