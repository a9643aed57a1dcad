"""`Pass` and `RewritePass`: what a pass author writes.

A pass is a frozen dataclass by itself: its fields are its options, its docstring's first line its help. It
declares its contract, the properties that it requires, establishes and breaks, and whether it needs
calibration data; the manager checks all of these.

>>> class Halve(Pass):
...     '''Scales by a half.'''
...     factor: float = 0.5
...     def run(self, rewriter): ...
>>> Halve(factor=0.25), Halve.pass_name()
(Halve(factor=0.25), 'halve')
"""

import dataclasses
import enum
import inspect
import re
from collections.abc import Callable
from typing import ClassVar, dataclass_transform

from fxopt.errors import PassError
from fxopt.rewriting import Match, Refused, Rewriter, Rule, apply_rules

__all__ = ["Contract", "Pass", "RewritePass"]


class Contract(enum.Enum):
    """What a pass promises about the outputs."""

    EXACT = "exact"
    """Bit-identical under the reference evaluator."""
    EQUIVALENT = "equivalent"
    """The same real-number function on inputs whose intermediates are finite."""
    APPROXIMATE = "approximate"
    """Changes the function on purpose, within a stated budget."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Pass:
    """Base of all passes. Subclasses become frozen, keyword-only dataclasses by themselves."""

    contract: ClassVar[Contract] = Contract.EQUIVALENT
    requires: ClassVar[frozenset[str]] = frozenset()
    """Properties that the program must have."""
    establishes: ClassVar[frozenset[str]] = frozenset()
    """Properties that it has afterwards."""
    breaks: ClassVar[frozenset[str]] = frozenset()
    """Properties that it loses."""
    excludes: ClassVar[frozenset[str]] = frozenset()
    """Properties that the program must not have."""
    needs_calibration: ClassVar[bool] = False
    motifs: ClassVar[tuple[Callable[..., object], ...]] = ()
    """Functions annotated as rule patterns, which `fxopt.testing.check_pass` plants in random programs."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("requires", "establishes", "breaks", "excludes"):
            setattr(cls, name, _properties(cls, name))
        if not isinstance(cls.contract, Contract):
            raise PassError(f"{cls.__name__}.contract is {cls.contract!r}; expected a fxopt.Contract")
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    def takes_calibration(self) -> bool:
        """Whether this pass, with its options, needs calibration data: as the class declares by default."""
        return self.needs_calibration

    def budget(self) -> float | None:
        """For a pass that is APPROXIMATE: by what share of its own L2 norm it may move an output.

        `check_each` holds the pass to it, on calibration data where there are some. None: it states no budget.
        """
        return None

    def placed(self, placement: str) -> "Pass":
        """The pass as a target's runtime wants it (`Target.placement`): by default itself, whatever that is."""
        return self

    def run(self, rewriter: Rewriter) -> None:
        """Edits the program through the rewriter.

        Raises:
            PassError: the pass can't do its work.
        """
        raise NotImplementedError

    def all_motifs(self) -> tuple[Callable[..., object], ...]:
        """What to plant in programs so that the pass has something to do."""
        return self.motifs

    @classmethod
    def pass_name(cls) -> str:
        """The registry name: the class's name in kebab-case, in which `1x1` is a word."""
        words = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[a-z])(?=\d+x\d)"
        return re.sub(words, "-", cls.__name__).lower()

    @classmethod
    def summary(cls) -> str:
        """The first line of its docstring."""
        text = inspect.getdoc(cls) or ""
        return "" if text.startswith(f"{cls.__name__}(") else text.split("\n", 1)[0]


def _properties(cls: type[Pass], name: str) -> frozenset[str]:
    """A declared set of properties, which may be written as a set, list or tuple of words."""
    declared = getattr(cls, name)
    if isinstance(declared, str) or not all(isinstance(p, str) for p in declared):
        raise PassError(
            f"{cls.__name__}.{name} is {declared!r}; expected a set of words such as {{'quantized'}}"
        )
    return frozenset(declared)


class RewritePass(Pass):
    """A pass of rules: either `pattern`, `replacement` and, if need be, `guard`, or several as `rules`."""

    rules: ClassVar[tuple[Rule, ...]] = ()
    pattern: ClassVar[Callable[..., object] | None] = None
    replacement: ClassVar[Callable[..., object] | None] = None

    def guard(self, match: Match) -> Refused | None:
        """Asked before each rewrite by `pattern`: None to go on, or `match.refuse("why")`."""
        return None

    def all_rules(self) -> tuple[Rule, ...]:
        """The rules in the order in which they are tried.

        Raises:
            PassError: the class defines neither `pattern` and `replacement` nor `rules`, or only one of the
            two.
        """
        if self.pattern is not None and self.replacement is not None:
            guard = None if type(self).guard is RewritePass.guard else self.guard
            return (Rule(self.pattern, self.replacement, guard, self.pass_name()), *self.rules)
        if self.pattern is not None or self.replacement is not None:
            missing = "replacement" if self.replacement is None else "pattern"
            raise PassError(f"{type(self).__name__} defines no {missing}")
        if not self.rules:
            raise PassError(f"{type(self).__name__} defines neither pattern and replacement nor rules")
        wrong = next((r for r in self.rules if not isinstance(r, Rule)), None)
        if wrong is not None:
            raise PassError(f"{type(self).__name__}.rules holds {wrong!r}; expected fxopt.Rule objects")
        return self.rules

    def all_motifs(self) -> tuple[Callable[..., object], ...]:
        """The patterns of the rules, and further motifs."""
        return (*(rule.pattern for rule in self.all_rules()), *self.motifs)

    def run(self, rewriter: Rewriter) -> None:
        """Applies the rules to a fixpoint."""
        apply_rules(rewriter, self.all_rules())
