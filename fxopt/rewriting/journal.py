"""The edit journal: what each rewrite created, replaced and removed; "changed" and bisection come from it.

>>> journal = Journal([Rewrite("fuse", "add", ("linear",), ("matmul", "add"), ())])
>>> journal.changed, journal.counts()
(True, {'fuse': 1})
"""

import re
from collections import Counter
from dataclasses import dataclass, field

from torch.fx import Node

from fxopt.program import Origin

__all__ = ["Journal", "Rewrite", "failed_rewrite", "note_rewrite"]


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


def note_rewrite(error: BaseException, rule: str, root: Node) -> None:
    """Notes on an exception in which rewrite it was raised; a traceback shows it."""
    error.add_note(f"in rewrite {rule!r} at %{root.name}")


def failed_rewrite(error: BaseException | None) -> tuple[str, str] | None:
    """Rule and root of the rewrite in which an exception, or what caused it, was raised; None if in none.

    >>> from torch.fx import Graph
    >>> error = ValueError("no")
    >>> note_rewrite(error, "fold", Graph().placeholder("x"))
    >>> failed_rewrite(error), failed_rewrite(ValueError("no"))
    (('fold', 'x'), None)
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error raised anew is its own cause
        seen.add(id(error))
        for note in getattr(error, "__notes__", ()):
            found = re.fullmatch(r"in rewrite '(.*)' at %(\w+)", note)
            if found:
                return found[1], found[2]
        error = error.__cause__
    return None
