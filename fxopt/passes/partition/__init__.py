"""Partitioning: where to cut a model that runs on several devices, with a proof of how near that is to the best.

>>> import torch
>>> from fxopt.frontend import trace
>>> net = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(4))).eval()
>>> plan = partition(trace(net, torch.zeros(64, 256)), ["cpu:0", "cpu:1"], links=Link(latency=0.0))
>>> [len(s.calls) for s in plan.stages], plan.proof
([2, 2], 'optimal')
"""

from fxopt.passes.partition._devices import Device, Link, read_devices
from fxopt.passes.partition._plan import PartitionPlan, Stage
from fxopt.passes.partition._problem import Objective
from fxopt.passes.partition._side_by_side import run_wired
from fxopt.passes.partition._stages import Wires
from fxopt.passes.partition._times import VIEW, Profile, Rates, kind_of, op_name, read_cost, seconds_of
from fxopt.passes.partition.partition import Partition, partition, plan_of
from fxopt.passes.partition.shard_linears import Row, ShardLinears, run_together, shards

__all__ = [
    "VIEW",
    "Device",
    "Link",
    "Objective",
    "Partition",
    "PartitionPlan",
    "Profile",
    "Rates",
    "Row",
    "ShardLinears",
    "Stage",
    "Wires",
    "kind_of",
    "op_name",
    "partition",
    "plan_of",
    "read_cost",
    "read_devices",
    "run_together",
    "run_wired",
    "seconds_of",
    "shards",
]
