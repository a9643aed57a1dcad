"""How long each call takes, in seconds: by a roofline over its static cost, as measured, or as the user says.

>>> import torch
>>> from fxopt.frontend import trace
>>> program = trace(torch.nn.Linear(100, 50).eval(), torch.zeros(10, 100))
>>> rates = Rates(flops=1e9, bandwidth=1e12, overhead=1e-6)
>>> [round(s * 1e6) for s in seconds_of(program, rates).values()]
[101]
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.fx import Node

from fxopt.analysis.cost import Cost
from fxopt.errors import ArtifactError, InputError, nearest
from fxopt.json_data import JsonData
from fxopt.ops import all_gather, all_reduce, argument_kinds, bind_values, op_info, op_key, tensor_bytes
from fxopt.ops.info import QuantRole
from fxopt.passes.partition._devices import Link
from fxopt.passes.partition._pieces import is_size
from fxopt.program import Program
from fxopt.program.text import aligned

__all__ = [
    "DEFAULT_RATES",
    "VIEW",
    "CostOf",
    "Profile",
    "Rates",
    "kind_of",
    "op_name",
    "read_cost",
    "seconds_of",
]


@dataclass(frozen=True)
class Rates(JsonData):
    """A device for the roofline: a call takes `overhead + max(flops / F, bytes / B)`.

    Attributes:
        flops: floating-point operations a second.
        bandwidth: bytes a second.
        overhead: seconds of a call, whatever it computes; a view takes nothing else.
        kinds: the rates of calls that kernels do better or worse than that, by the op (`aten.gelu`) or `kind_of`.
        machine: what they were measured on.
    """

    flops: float = 5e10
    bandwidth: float = 2.4e10
    overhead: float = 8e-6
    kinds: "dict[str, Rates]" = field(default_factory=dict)
    machine: str = ""

    def seconds(self, node: Node, flops: float, moved: float) -> float:
        """Of a call of so many operations that moves so many bytes; nothing where there is neither, unless measured."""
        if not isinstance(node.target, torch._ops.OpOverload) or is_size(node):
            return 0.0
        kind = kind_of(node) if flops or moved else VIEW
        own = self.kinds.get(op_name(node)) or self.kinds.get(kind, self)
        if own is self and kind == VIEW:
            return 0.0
        return own.overhead + max(flops / own.flops, moved / own.bandwidth)

    def table(self) -> str:
        """The rates by kind."""
        rows: list[tuple[str, ...]] = [("calls", "GFLOP/s", "GB/s", "a call")]
        for name, r in {**self.kinds, "all others": self}.items():
            rows.append(
                (name, f"{r.flops / 1e9:.1f}", f"{r.bandwidth / 1e9:.1f}", f"{1e6 * r.overhead:.1f} us")
            )
        return "\n".join([*aligned(rows, numbers={1, 2, 3}), *([self.machine] if self.machine else [])])

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            InputError: a rate that is not above zero, or a negative overhead.
        """
        if not (self.flops > 0 and self.bandwidth > 0 and self.overhead >= 0):
            raise InputError("rates: flops and bandwidth must be above zero, overhead not below it")


@dataclass(frozen=True)
class Profile(JsonData):
    """Measured times of one program's calls.

    Attributes:
        seconds: by the names of calls.
        machine: what they were measured on.
    """

    seconds: dict[str, float]
    machine: str = ""


VIEW = "view"
"""The kind of calls that move nothing."""

CostOf = Rates | Profile | Callable[[Node], float] | Mapping[str, float] | str | os.PathLike[str] | None
"""Rates, a profile, a file of either, seconds by call, or by the names of calls (those not named take none)."""


def read_cost(path: str | os.PathLike[str]) -> Rates | Profile:
    """What `fxopt bench --calibrate` or a profile wrote.

    Raises:
        InputError: the file can't be read, or holds neither.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        return Profile.from_json(data) if "seconds" in data else Rates.from_json(data)
    except OSError as error:
        raise InputError(f"cost {os.fspath(path)}: {error.strerror or error}") from error
    except (ValueError, TypeError, AttributeError, ArtifactError) as error:
        expected = "expected rates (of fxopt bench --calibrate) or a profile, as JSON"
        raise InputError(f"cost {os.fspath(path)}: {expected}; {error}") from error


def kind_of(node: Node) -> str:
    """What kernels a call runs, as far as their rates differ: by the op table, the schema and a convolution's weight."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    info, names = op_info(target), {k.name for k in argument_kinds(target)}
    if info.role is QuantRole.CONTRACTION:
        return _convolution(node) if "stride" in names else "product"
    if "kernel_size" in names:
        return "window"
    return "elementwise" if info.elementwise else "other"


def _convolution(node: Node) -> str:
    bound = bind_values(node)
    weight = bound["weight"]
    assert isinstance(weight, torch.Tensor)
    if "output_padding" in bound:
        return "transposed convolution"
    if bound["groups"] != 1:
        return "grouped convolution"
    return "pointwise convolution" if all(d == 1 for d in weight.shape[2:]) else "convolution"


def op_name(node: Node) -> str:
    """The op without its overload: `aten.gelu`."""
    return op_key(node.target).rpartition(".")[0]


def seconds_of(program: Program, cost: CostOf = None, link: Link | None = None) -> dict[Node, float]:
    """Seconds by call, at the sizes of the example that was traced; collectives by the link that they go over.

    Raises:
        InputError: a name is no call's, a time is negative or no number, a file that can't be read, or a size depends
            on data.
    """
    together = {n: _ring(n, link or Link()) for n in program.calls() if n.target in _ROUNDS}
    return {**_computing(program, cost), **together}


_ROUNDS = {all_reduce: 2, all_gather: 1}


def _ring(node: Node, link: Link) -> float:
    """In a ring each sends its part on to all others, to sum up and to hand out (Patarasuk and Yuan, 2009)."""
    ranks, size = node.args[-1], tensor_bytes(node.meta["val"])
    assert isinstance(ranks, int)
    number = size if isinstance(size, int) else size.node.hint
    return _ROUNDS[node.target] * (ranks - 1) * link.seconds(number / ranks)  # type: ignore[index]  # one of the two


def _computing(program: Program, cost: CostOf) -> dict[Node, float]:
    calls = list(program.calls())
    cost = read_cost(cost) if isinstance(cost, (str, os.PathLike)) else cost
    cost = cost.seconds if isinstance(cost, Profile) else cost
    if isinstance(cost, Mapping):
        known = {n.name for n in calls}
        strange = next((n for n in cost if n not in known), None)
        if strange is not None:
            close = nearest(strange, list(known))
            hint = f"; did you mean {close!r}?" if close else ""
            raise InputError(f"cost names {strange!r}, which is no call of {program.name}{hint}")
        times = {n: cost.get(n.name, 0.0) for n in calls}
    elif cost is None or isinstance(cost, Rates):
        return _roofline(program, cost or DEFAULT_RATES)
    else:
        times = {n: cost(n) for n in calls}
    wrong = next(((n, t) for n, t in times.items() if not isinstance(t, (int, float)) or not t >= 0), None)
    if wrong is not None:
        raise InputError(f"cost gives {wrong[1]!r} for {wrong[0].name}; expected seconds, from 0 up")
    return {n: float(t) for n, t in times.items()}


def _roofline(program: Program, rates: Rates) -> dict[Node, float]:
    cost = Cost.compute(program)
    flops, moved = cost.flops_at(), cost.bytes_at()
    return {n: rates.seconds(n, flops[n], moved[n]) for n in program.calls()}


_DEFAULT_KINDS = {
    "product": Rates(9.5e10, 3.7e10, 5.1e-6),
    "convolution": Rates(2e11, 2.8e9, 1.3e-5),
    "pointwise convolution": Rates(9.3e10, 2.4e10, 7.2e-6),
    "grouped convolution": Rates(1.8e10, 8.1e9, 5.5e-5),
    "transposed convolution": Rates(3.4e10, 3.3e9, 1.2e-5),
    "other": Rates(7.3e10, 1e11, 8e-6),
    "aten.scaled_dot_product_attention": Rates(7.3e10, 5.4e10, 1.3e-5),
    "window": Rates(1.3e9, 3e9, 6.2e-6),
    "aten.max_pool2d": Rates(3.7e8, 8.6e8, 7e-6),
    "aten.avg_pool2d": Rates(1.3e9, 3e9, 5.4e-6),
    "elementwise": Rates(1.1e10, 1e11, 3.1e-6),
    "aten.relu": Rates(1.1e10, 8.5e10, 3e-6),
    "aten.add": Rates(8.7e9, 1e11, 3.3e-6),
    "aten.gelu": Rates(3.7e9, 3e10, 1.1e-5),
    "aten.tanh": Rates(4.6e8, 3.7e9, 2.4e-6),
    "aten.layer_norm": Rates(1.6e10, 1.8e10, 5.6e-6),
    "aten.softmax": Rates(1.2e10, 2e10, 2.7e-6),
    "aten.cat": Rates(9.5e10, 8.8e10, 4.1e-6),
    "aten.mean": Rates(2.3e10, 9e10, 9.8e-6),
    "view": Rates(9.5e10, 1e11, 3e-6),
    "aten.reshape": Rates(9.5e10, 1e11, 3.3e-6),
    "aten.permute": Rates(9.5e10, 1e11, 3e-6),
    "aten.slice": Rates(9.5e10, 1e11, 3e-6),
}
DEFAULT_RATES = Rates(9.5e10, 1e11, 5.4e-6, _DEFAULT_KINDS, "one core of an x86 server, torch 2.13")
"""As `fxopt bench --calibrate` found them."""
