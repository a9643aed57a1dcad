"""Facts computed over a whole program: what it costs, what of it is constant, what is needed."""

from fxopt.analysis.cost import Cost, CostSummary, NodeCost

__all__ = ["Cost", "CostSummary", "NodeCost"]
