"""The `Rewriter`, the only way to edit a Program, and rules as plain functions."""

from fxopt.rewriting.engine import apply_rules
from fxopt.rewriting.journal import Journal, Rewrite, fingerprint
from fxopt.rewriting.rewriter import Analysis, OrderError, Rewriter
from fxopt.rewriting.rule import Const, Match, Refused, Rule
from fxopt.rewriting.sizes import NoSize, read_symbol, size_node

__all__ = [
    "Analysis",
    "Const",
    "Journal",
    "Match",
    "NoSize",
    "OrderError",
    "Refused",
    "Rewrite",
    "Rewriter",
    "Rule",
    "apply_rules",
    "fingerprint",
    "read_symbol",
    "size_node",
]
