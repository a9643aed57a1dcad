"""Plans which calls run on which device; the plan travels with the program.

>>> import torch
>>> from fxopt.frontend import trace
>>> from fxopt.pipeline import PassManager
>>> layers = [(torch.nn.Linear(256, 256), torch.nn.Tanh()) for _ in range(4)]
>>> net = torch.nn.Sequential(*(module for layer in layers for module in layer)).eval()
>>> program = PassManager.parse("O1,partition").run(trace(net, torch.zeros(256, 256))).program
>>> [len(stage.calls) for stage in plan_of(program).stages]
[4, 4]
"""

from pathlib import Path

from fxopt.errors import InputError
from fxopt.passes.partition._devices import Device, read_devices
from fxopt.passes.partition._plan import PartitionPlan
from fxopt.passes.partition._problem import Objective
from fxopt.passes.partition._use import partition
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.program import Program, expect_program
from fxopt.rewriting import Rewriter

__all__ = ["Partition", "partition", "plan_of"]

_PROPERTY = "partitioned"


@register_pass
class Partition(Pass):
    """Plans which calls run on which device, so that the slowest stage is as fast as can be.

    Before and after: the same calls. The program is `partitioned`: it carries the plan, in memory and in its file,
    and `fxopt.lower(program, "stages", path=...)` writes the stages. A later pass that changes the graph loses the plan,
    so this one stands last, after pruning and quantization. The plan is attached to the run.
    """

    contract = Contract.EXACT
    establishes = frozenset({_PROPERTY})

    devices: Path | tuple[str | Device, ...] = ("cpu:0", "cpu:1")
    """a JSON file of devices and the links between them, or the devices"""
    objective: Objective = "throughput"
    """what is minimised: the slowest stage (throughput), one input through all (latency), the most weights (memory)"""
    pinned: tuple[str, ...] = ()
    """modules that have to run on one device, by pattern: ["encoder=cuda:0"]"""
    cost: Path | None = None
    """a JSON file of rates, or of times by call"""
    time_limit: float = 10.0
    """seconds for the search"""

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            InputError: a time limit or a pin that is none.
        """
        if not self.time_limit > 0:
            raise InputError(f"time_limit is {self.time_limit:g}; expected seconds above 0")
        self._pins()

    def run(self, rewriter: Rewriter) -> None:
        """Plans, and leaves the plan with the program."""
        given = self.devices
        devices, links = read_devices(given) if isinstance(given, Path) else (given, None)
        plan = partition(
            rewriter.program,
            devices,
            objective=self.objective,
            links=links,
            pinned=self._pins(),
            cost=self.cost,
            time_limit=self.time_limit,
        )
        rewriter.program.attached[_PROPERTY] = plan.to_json()
        rewriter.attach(plan)

    def _pins(self) -> dict[str, str]:
        pins = [pin.partition("=") for pin in self.pinned]
        wrong = next(("".join(p) for p in pins if not all(p)), None)
        if wrong is not None:
            raise InputError(f"pinned has {wrong!r}; expected MODULE=DEVICE, such as encoder=cpu:0")
        return {module: device for module, _, device in pins}


def plan_of(program: Program) -> PartitionPlan:
    """The plan that a program carries, checked.

    Raises:
        InputError: it carries none, or one that is not its own.
    """
    data = expect_program(program, "plan_of").attached.get(_PROPERTY)
    if data is None:
        raise InputError(
            f"{program.name} is not partitioned: run the pass partition{{devices=FILE}} on it, as the last one that "
            "changes the graph"
        )
    return PartitionPlan.from_json(data).of(program)
