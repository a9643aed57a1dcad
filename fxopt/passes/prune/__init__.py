"""Pruning: plans of what goes, and the zeros that they come to.

>>> import torch
>>> from fxopt.frontend import trace
>>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
>>> plan = plan_pruning(trace(net, (torch.ones(1, 4),)), ratio=0.25)
>>> plan.layers[0].gone, plan.after.params / plan.before.params < 0.8
(2, True)
"""

from fxopt.passes.prune._criteria import LayerView, register_criterion
from fxopt.passes.prune._footprint import Footprint
from fxopt.passes.prune._plan import LeftOut, PlannedLayer, PrunePlan
from fxopt.passes.prune._sensitivity import Sensitivity, scan_sensitivity
from fxopt.passes.prune._use import plan_pruning, prune_in_steps
from fxopt.passes.prune.prune import Prune

__all__ = [
    "Footprint",
    "LayerView",
    "LeftOut",
    "PlannedLayer",
    "Prune",
    "PrunePlan",
    "Sensitivity",
    "plan_pruning",
    "prune_in_steps",
    "register_criterion",
    "scan_sensitivity",
]
