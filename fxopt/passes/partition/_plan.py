"""`PartitionPlan`: which calls run where, what that costs, and how near it is to the best.

>>> stages = (Stage("cpu:0", ("linear",), 2e-3, 1e-4, 400, 40), Stage("cpu:1", ("relu",), 1e-3, 1e-4, 0, 40))
>>> plan = PartitionPlan(stages, 2.1e-3, 2.1e-3, "optimal")
>>> print(plan.table())
stage  device  calls  computing  sending   memory  sends
0      cpu:0       1   2.000 ms  0.100 ms  400 B   40 B
1      cpu:1       1   1.000 ms  0.100 ms  0 B     -
bottleneck 2.100 ms; no split is under 2.100 ms (optimal), the gap is 0.00%
>>> PartitionPlan.from_json(plan.to_json()) == plan
True
"""

import dataclasses
import os
from dataclasses import dataclass, field

from torch.fx import Node

from fxopt.errors import InputError
from fxopt.json_data import MEMORY_ONLY, JsonData
from fxopt.passes.partition._factorisation import Factorisation, ways_table
from fxopt.passes.partition._pieces import is_size
from fxopt.passes.partition._side_by_side import run_wired
from fxopt.passes.partition._stages import Wires, stage_programs, wired_programs
from fxopt.passes.partition.shard_linears import Row, Shares, run_together
from fxopt.program import Program
from fxopt.program.text import aligned, human_bytes

__all__ = ["PartitionPlan", "Stage"]


@dataclass(frozen=True)
class Stage(JsonData):
    """One stage.

    Attributes:
        device: its name.
        calls: names of the calls that it runs, in order.
        computing: seconds.
        sending: seconds, of what comes in and goes out.
        memory: bytes of its weights and of the most results alive at once, inputs included.
        sends: bytes to the next stage.
        weights: bytes of its weights.
        beside: the other devices that share its layers (`tensor_parallel`); times and bytes are those of each.
        start: seconds after the first when it begins, of stages side by side.
    """

    device: str
    calls: tuple[str, ...]
    computing: float
    sending: float
    memory: int
    sends: int
    weights: int = 0
    beside: tuple[str, ...] = ()
    start: float = 0.0

    @property
    def devices(self) -> tuple[str, ...]:
        """All that it runs on."""
        return (self.device, *self.beside)

    @property
    def load(self) -> float:
        """Seconds that it is busy for one input."""
        return self.computing + self.sending


@dataclass(frozen=True)
class PartitionPlan(JsonData):
    """A split of one program over devices.

    Attributes:
        stages: in the order in which they run.
        bottleneck: seconds of the slowest stage: in a full pipeline one result leaves every so often. Of stages side by
            side those of a device count together.
        lower_bound: no split over these devices is under it, by the same times: seconds, for `memory` bytes.
        proof: what the bound comes from: "optimal" (the plan reaches it), "integer program", "order
            ideals" (a search through the sets of pieces that can be cut off, or the best split of the heaviest
            pieces alone), "critical path" (the longest way through the graph, what has to be sent on it included), or
            "simple" (the heaviest piece, and the total shared out by speed).
        notes: what else is to be said.
        objective: what is minimised: "throughput", "latency" or "memory".
        tensor_parallel: devices that share the layers of each stage; its calls are those of `shard-linears`.
        replicas: copies of all stages, each for a share of the data; `stages` are the first one's.
        side_by_side: whether stages that do not need one another run at the same time, each taking what it needs from
            where it is made; a device may have several.
        tried: what `tensor_parallel="auto"` and `replicas="auto"` chose from.
        program: the program that it was made for; not written.
    """

    stages: tuple[Stage, ...]
    bottleneck: float
    lower_bound: float
    proof: str
    notes: tuple[str, ...] = ()
    objective: str = "throughput"
    tensor_parallel: int = 1
    replicas: int = 1
    side_by_side: bool = False
    tried: tuple[Factorisation, ...] = ()
    program: Program | None = field(default=None, compare=False, repr=False, metadata=MEMORY_ONLY)

    @property
    def latency(self) -> float:
        """Seconds of one input through all stages; what is sent on is counted once."""
        if self.side_by_side:
            return max(s.start + s.computing for s in self.stages)
        return sum(s.computing + s.sending / 2 for s in self.stages)

    @property
    def value(self) -> float:
        """What is minimised: the bottleneck, the latency, or the most bytes of weights that a stage holds."""
        if self.objective == "memory":
            return max(s.weights for s in self.stages)
        return self.latency if self.objective == "latency" else self.bottleneck

    @property
    def gap(self) -> float:
        """How far the value may be above the best, as a share of the bound."""
        return self.value / self.lower_bound - 1 if self.lower_bound else 0.0

    @property
    def memory(self) -> tuple[int, ...]:
        """Bytes by stage."""
        return tuple(s.memory for s in self.stages)

    def of(self, program: Program) -> "PartitionPlan":
        """The plan, read from JSON or edited, for a program.

        Raises:
            InputError: a call of the program is in no stage or in two, a stage names a call that is not there, or
                needs what a later one makes.
        """
        found = dataclasses.replace(self, program=program)
        found.stage_of()
        return found

    def stage_of(self) -> dict[Node, int]:
        """The stage of each call.

        Raises:
            InputError: as in `of`.
        """
        return self._stage_of(self._shards(1)[0])

    def _stage_of(self, program: Program) -> dict[Node, int]:
        by_name = {n.name: n for n in program.calls()}
        stage_of: dict[Node, int] = {}
        for number, stage in enumerate(self.stages):
            for name in stage.calls:
                if name not in by_name:
                    raise InputError(f"stage {number} has the call {name!r}, which {program.name} has not")
                if stage_of.setdefault(by_name[name], number) != number:
                    raise InputError(f"the call {name!r} is in stage {stage_of[by_name[name]]} and {number}")
        for node in program.calls():
            if node not in stage_of:
                if is_size(node):
                    continue
                raise InputError(f"the call {node.name!r} is in no stage")
            for source in node.all_input_nodes:
                if stage_of.get(source, 0) > stage_of[node]:
                    raise InputError(
                        f"{node.name} in stage {stage_of[node]} needs {source.name} of stage {stage_of[source]}"
                    )
        return stage_of

    def programs(self) -> list[Program]:
        """The stages as programs; each takes what the one before it returns, or where they run side by side what `wires` says.

        Raises:
            InputError: as in `of`, or several devices share a stage.
        """
        if self.tensor_parallel > 1:
            raise InputError("several devices share each stage: plan.shards() has the programs of each")
        return [stage for (stage,) in self.shards()]

    def shards(self) -> list[list[Program]]:
        """For each stage the programs of the devices that share it; they run together.

        Raises:
            InputError: as in `of`.
        """
        if self.side_by_side:
            return [[stage] for stage in self._wired()[0]]
        parts = [
            stage_programs(shard, self._stage_of(shard), len(self.stages))
            for shard in self._shards(self.tensor_parallel)
        ]
        return [list(stage) for stage in zip(*parts, strict=True)]

    def wires(self) -> Wires | None:
        """What each of the stages side by side takes; None where each takes what the one before it returns.

        Raises:
            InputError: as in `of`.
        """
        return self._wired()[1] if self.side_by_side else None

    def _wired(self) -> tuple[list[Program], Wires]:
        return wired_programs(self._known_program(), self.stage_of(), len(self.stages))

    def _shards(self, count: int) -> list[Program]:
        """The whole program as the first devices of a stage hold it."""
        shares = Shares(self._known_program())
        return [shares.of(self.tensor_parallel, rank) for rank in range(count)]

    def run(self, *args: object, **kwargs: object) -> object:
        """Runs the stages in this process, one after the other or side by side, on the model's own arguments.

        Raises:
            InputError: the arguments do not fit.
        """
        signature = self._known_program().signature
        tensors = signature.flatten_inputs(args, kwargs)
        if self.side_by_side:
            programs, wires = self._wired()
            flat = run_wired(programs, [s.device for s in self.stages], wires, tensors)
        else:
            flat = run_together([Row(row) for row in zip(*self.shards(), strict=True)], tensors)
        return signature.unflatten_outputs(flat)

    def table(self) -> str:
        """The stages of one replica, the certificate, and the ways to use the devices that were tried."""
        rows: list[tuple[str, ...]] = [
            ("stage", "device", "calls", "computing", "sending", "memory", "sends")
            + (("begins",) if self.side_by_side else ())
        ]
        for number, s in enumerate(self.stages):
            last = number == len(self.stages) - 1
            seconds = [f"{1e3 * t:.3f} ms" for t in (s.computing, s.sending)]
            sends = "-" if last else human_bytes(s.sends)
            begins = (f"{1e3 * s.start:.3f} ms",) if self.side_by_side else ()
            device, calls = "+".join(s.devices), str(len(s.calls))
            rows.append((str(number), device, calls, *seconds, human_bytes(s.memory), sends, *begins))
        what = {"latency": "latency", "memory": "most weights"}.get(self.objective, "bottleneck")
        value, bound = (
            human_bytes(round(v)) if self.objective == "memory" else f"{1e3 * v:.3f} ms"
            for v in (self.value, self.lower_bound)
        )
        certificate = f"{what} {value}; no split is under {bound} ({self.proof}), the gap is {self.gap:.2%}"
        copies = [f"{self.replicas} replicas; this is one of them"] if self.replicas > 1 else []
        ways = ["", ways_table(self.tried)] if len(self.tried) > 1 else []
        return "\n".join([*aligned(rows, numbers={2, 3, 4}), certificate, *copies, *self.notes, *ways])

    def picture(self, path: str | os.PathLike[str]) -> None:
        """Draws the graph, coloured by stage, to an `.svg`, or to a `.dot` for Graphviz.

        Raises:
            InputError: another suffix, or a plan that was read and not joined with its program.
            ArtifactError: the file can't be written.
        """
        from fxopt.passes.partition._picture import draw

        draw(self, path)

    def _known_program(self) -> Program:
        if self.program is None:
            raise InputError("this plan was read from JSON: say plan.of(program) first")
        return self.program
