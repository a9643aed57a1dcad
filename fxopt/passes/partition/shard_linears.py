"""Shares out the layers of a program among processes; each holds its part of their weights, and they add up.

>>> import torch
>>> from fxopt.frontend import trace
>>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
>>> program, x = trace(net, torch.zeros(3, 4)), torch.ones(3, 4)
>>> parts = shards(program, 2)
>>> [tuple(parts[0].weights[name].shape) for name in ("0.weight", "0.bias", "2.weight", "2.bias")]
[(4, 4), (4,), (2, 4), (2,)]
>>> torch.allclose(run_together(parts, [x])[0], program(x))
True
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch.fx import Node

from fxopt.analysis.channels import Cutter, Product, Removal
from fxopt.dialect import check_program
from fxopt.errors import InputError
from fxopt.ops import all_reduce
from fxopt.ops.collectives import side_by_side
from fxopt.passes.partition._sharding import Candidates, Sharding
from fxopt.passes.partition._vocabulary import Vocabulary
from fxopt.pipeline import Contract, Pass, PassManager, register_pass
from fxopt.program import Program
from fxopt.rewriting import Rewriter
from fxopt.rewriting.trial import trial

__all__ = ["Row", "Runs", "ShardLinears", "Shares", "run_together", "shard", "shards"]

_NAME = "shard-linears"
_SAID = 3


class Runs(Protocol):
    """A program or an artifact."""

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """Runs on the tensors of its signature."""


@register_pass
class ShardLinears(Pass):
    """Keeps one process's share of the layers that several processes run together.

    Before: `%a = linear(%x, w1: [64, 32], b1)`, `%b = relu(%a)`, `%c = linear(%b, w2: [10, 64], b2)`. After, of two
    ranks: the same calls with `w1: [32, 32]`, `b1: [32]`, `w2: [10, 32]`, and `%d = fxopt.all_reduce(%c, 2)`, the sum
    of what both have; the last bias is zeros in all but the first.

    What goes together is found by the analysis that `eliminate-dead-weights` cuts by: hidden units, heads with what
    reads them (several to one key and value head too), channels of convolutions. Column then row, one sum a block; the
    tables of a vocabulary by rows, with a sum behind the lookup and `fxopt.all_gather` behind the logits (Shoeybi et al.,
    Megatron-LM, arXiv:1909.08053). The programs of all ranks have the same calls in the same order and run together:
    `torchrun -m fxopt.distributed`, or `side_by_side` in one process. What stays whole is reported.
    """

    contract = Contract.EQUIVALENT

    ranks: int = 1
    """processes that share the layers"""
    rank: int = 0
    """whose share it is, from 0"""
    vocabulary: int = 1_000_000
    """bytes from which on a table that rows are looked up in, or that makes the outputs, is shared by rows"""

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            InputError: a rank that is none.
        """
        if self.ranks < 1 or not 0 <= self.rank < self.ranks:
            raise InputError(
                f"rank {self.rank} of {self.ranks}: expected 1 rank at least, and one of 0 to ranks - 1"
            )

    def run(self, rewriter: Rewriter) -> None:
        """Cuts what the other ranks hold."""
        if self.ranks == 1:
            return
        cut = _Cut(rewriter, self)
        places = {str(n.target): n for n in rewriter.program.weight_nodes()}
        for name, why in cut.refused():
            rewriter.refuse(places[name], why, rule=_NAME)
        if cut.root is not None:
            with rewriter.rewrite(_NAME, cut.root):
                cut.make()


class _Cut:
    """What is to be cut for one rank."""

    def __init__(self, rewriter: Rewriter, share: ShardLinears) -> None:
        self.share = share
        self._candidates = rewriter.analysis(Candidates)
        self.sharding = Sharding.of(self._candidates, share.ranks)
        self.vocabulary = Vocabulary(rewriter, self.sharding.held, share.vocabulary)
        self._sharer = _Sharer(rewriter, self.sharding, share.rank, share.ranks)
        self._affected = self._sharer.affected() if self.sharding.shared else []
        self.root = next(iter([*self._affected, *self.vocabulary.users()]), None)
        """None if there is nothing to cut."""

    def refused(self) -> list[tuple[str, str]]:
        """The weights of which each process holds all, and why."""
        told = {*self.sharding.held, *(str(t.target) for t in self.vocabulary.tables)}
        told.update(name for name, _ in self.sharding.refused)
        whole = {n: f"{place} keeps its rows together" for n, place in self._candidates.whole.items()}
        return [*self.sharding.refused, *((n, why) for n, why in whole.items() if n not in told)]

    def make(self) -> None:
        """Cuts, inside a rewrite."""
        self._sharer.run(self._affected)
        self.vocabulary.share(self.share.rank, self.share.ranks)


class Shares:
    """The programs of the processes that share a program, however many: what can be shared is found out once.

    Args:
        program: stays as it is.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._rewriter = Rewriter(program.copy())

    def of(self, ranks: int, rank: int) -> Program:
        """The program of one rank.

        Raises:
            PipelineError: a rank that is none.
            InputError: no layer that so many can share.
        """
        if ranks == 1:
            return self.program
        share = ShardLinears(ranks=ranks, rank=rank)
        cut = _Cut(self._rewriter, share)
        if cut.root is None:
            raise InputError(
                f"{self.program.name} has no layer that {ranks} processes can share{_reasons(cut.refused())}"
            )
        made = trial(self._rewriter, _NAME, cut.root, cut.make)
        check_program(made, after=_NAME)
        made.history = (*self.program.history, PassManager.of([share]).expand())
        return made


def _reasons(refused: Sequence[tuple[str, str]]) -> str:
    """Why layers stay whole, the first few."""
    said = [f"{name}: {why}" for name, why in refused[:_SAID]]
    more = [f"and {len(refused) - _SAID} more"] if len(refused) > _SAID else []
    return f": {'; '.join([*said, *more])}" if said else ""


def shard(program: Program, ranks: int, rank: int) -> Program:
    """The program of one rank.

    Raises:
        InputError: a rank that is none, or no layer that so many can share.
    """
    return Shares(program).of(ranks, rank)


def shards(program: Program, ranks: int) -> list[Program]:
    """The programs of all ranks.

    Raises:
        InputError: fewer than one rank, or no layer that so many can share.
    """
    shares = Shares(program)
    return [shares.of(ranks, rank) for rank in range(ranks)]


@dataclass(frozen=True)
class Row:
    """Stages that run one after the other, each on what the one before it returns."""

    stages: Sequence[Runs]

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """What the last returns."""
        flat: list[object] = list(tensors)
        for stage in self.stages:
            flat = stage.run_flat([t for t in flat if isinstance(t, torch.Tensor)])
        return flat


def run_together(shards: Sequence[Runs], tensors: list[torch.Tensor]) -> list[object]:
    """Runs the shards of one program in a thread each, on the program's own tensors; returns its outputs."""
    copies = [tensors, *([t.clone() for t in tensors] for _ in shards[1:])]
    runs = [partial(shard.run_flat, own) for shard, own in zip(shards, copies, strict=True)]
    return runs[0]() if len(runs) == 1 else side_by_side(runs)[0]


class _Sharer(Cutter):
    """Cuts what the other ranks hold, and adds up what all have."""

    def __init__(self, rewriter: Rewriter, sharding: Sharding, rank: int, ranks: int) -> None:
        removed = sharding.others(rank, ranks)
        super().__init__(rewriter, Removal(sharding.coupling, removed, {}, ()))
        self.rank, self.ranks, self.partial = rank, ranks, sharding.partial

    def _call(self, node: Node) -> Node:
        made = super()._call(node)
        return self.rewriter.call(all_reduce, made, self.ranks) if node in self.partial else made

    def _absorb(self, product: Product, renewed: dict[Node, Node], added: dict[str, object]) -> None:
        """What goes is another rank's; the bias is added by the first alone."""
        if product is not self.partial.get(product.reading.node) or product.bias is None:
            return
        renewed[product.bias.node] = self._share(product.bias.node)

    def _share(self, bias: Node) -> Node:
        """The bias, or zeros, rounded as it is."""
        if bias.op == "get_attr":
            tensor = self._tensor(bias)
            share = tensor.detach().clone() if self.rank == 0 else torch.zeros_like(tensor)
            return self.rewriter.constant(share, name=str(bias.target), successor_of=bias)
        weight, *others = bias.args
        assert isinstance(weight, Node)
        return self.rewriter.call(bias.target, self._share(weight), *others, **bias.kwargs)
