"""The `Rewriter`, the only way to edit a Program, and rules as plain functions."""

from fxopt.rewriting.edits import Analyses, Analysis, OrderError
from fxopt.rewriting.engine import apply_rules
from fxopt.rewriting.journal import Journal, Rewrite, failed_rewrite
from fxopt.rewriting.ledger import Ledger
from fxopt.rewriting.rewriter import Rewriter
from fxopt.rewriting.rule import Const, Match, Refused, Rule
from fxopt.rewriting.sameness import same_size, same_type
from fxopt.rewriting.sizes import NoSize, read_symbol, size_node

__all__ = [
    "Analyses",
    "Analysis",
    "Const",
    "Journal",
    "Ledger",
    "Match",
    "NoSize",
    "OrderError",
    "Refused",
    "Rewrite",
    "Rewriter",
    "Rule",
    "apply_rules",
    "failed_rewrite",
    "read_symbol",
    "same_size",
    "same_type",
    "size_node",
]
