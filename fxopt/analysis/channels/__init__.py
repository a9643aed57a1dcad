"""Channels: which positions along a dimension are constant, which are demanded, which go together.

Facts hold for whole slices: position `i` of dimension `d` of a value stands for all elements `value[..., i, ...]`.
All of it is read off the index maps of the op table; no architecture has a case of its own.
"""

from fxopt.analysis.channels.constants import Constants
from fxopt.analysis.channels.coupling import Coupling
from fxopt.analysis.channels.cutting import Cutter
from fxopt.analysis.channels.demand import Demand
from fxopt.analysis.channels.layers import Layer, Member, layers_of, statistics_of
from fxopt.analysis.channels.products import Product
from fxopt.analysis.channels.reading import Reading, Side, read_call
from fxopt.analysis.channels.removal import Blocked, Merge, Removal
from fxopt.analysis.channels.space import Axis, Space

__all__ = [
    "Axis",
    "Blocked",
    "Constants",
    "Coupling",
    "Cutter",
    "Demand",
    "Layer",
    "Member",
    "Merge",
    "Product",
    "Reading",
    "Removal",
    "Side",
    "Space",
    "layers_of",
    "read_call",
    "statistics_of",
]
