"""`PrunePlan`: what a pruning takes away, as data to read, edit and apply.

>>> layer = PlannedLayer("fc.weight", 4, 1, ("fc.weight",), (0.5, 2.0, 0.1, 1.0), (0, 2))
>>> plan = PrunePlan("channel", "l2", (layer,), Footprint(40, 160, 80), Footprint(22, 88, 44))
>>> print(plan.table())
layer      groups  width  removed  kept  least kept
fc.weight       4      1        2     2           1
parameters 40 -> 22 (55.0%), weights 160 B -> 88 B, operations 80 -> 44 (55.0%)
>>> PrunePlan.from_json(plan.to_json()) == plan
True
"""

import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fxopt.errors import ArtifactError, InputError, nearest
from fxopt.json_data import JsonData
from fxopt.passes.prune._footprint import Footprint
from fxopt.program.text import aligned, human_bytes
from fxopt.program.writing import checked_path, replacing, write_file

__all__ = ["LeftOut", "PlannedLayer", "PrunePlan"]


@dataclass(frozen=True)
class LeftOut(JsonData):
    """A weight that the plan can't touch, and why."""

    weight: str
    reason: str


@dataclass(frozen=True)
class PlannedLayer(JsonData):
    """One layer of a plan.

    Attributes:
        name: the first weight whose slices make its channels; for elements and blocks the weight.
        groups: how many groups it has: channels, heads, tiles, elements.
        width: how many rows of the named weight a group takes.
        weights: all that a group has slices of.
        importance: by group; empty for elements and blocks.
        removed: the groups that go; empty for elements and blocks.
        zeros: how many elements or tiles go, for elements and blocks: those of least importance.
    """

    name: str
    groups: int
    width: int
    weights: tuple[str, ...]
    importance: tuple[float, ...] = ()
    removed: tuple[int, ...] = ()
    zeros: int = 0

    @property
    def gone(self) -> int:
        """How many groups go."""
        return self.zeros or len(self.removed)

    @property
    def least_kept(self) -> float | None:
        """The least importance that stays."""
        gone = set(self.removed)
        return min((v for i, v in enumerate(self.importance) if i not in gone), default=None)


@dataclass(frozen=True)
class PrunePlan(JsonData):
    """What goes, layer by layer, and what that leaves.

    A plan belongs to the program that it was made for. Edit it with `with_removed`, or its JSON, and apply it
    with `prune{plan=FILE}`.

    Attributes:
        granularity: "channel", "head", "weight" or "block".
        criterion: by which importance was measured.
        layers: those that can be pruned, in the order of the graph.
        before: the footprint of the program.
        after: what is expected once `eliminate-dead-weights` has run. Of weights and blocks `params` is what is
            not zero, and the rest does not shrink.
        left_out: what can't be pruned, with the reason.
        seed: of the criterion `random`.
        loss: of the criterion `taylor`.
        pattern: n:m, for blocks.
        tile: rows and columns, for blocks.
    """

    granularity: str
    criterion: str
    layers: tuple[PlannedLayer, ...]
    before: Footprint
    after: Footprint
    left_out: tuple[LeftOut, ...] = ()
    seed: int = 0
    loss: str = "energy"
    pattern: str = ""
    tile: tuple[int, ...] = ()

    def layer(self, name: str) -> PlannedLayer:
        """The layer of a name.

        Raises:
            InputError: there is none.
        """
        found = next((x for x in self.layers if x.name == name), None)
        if found is None:
            close = nearest(name, [x.name for x in self.layers])
            raise InputError(
                f"the plan has no layer {name!r}" + (f"; did you mean {close!r}?" if close else "")
            )
        return found

    def with_removed(self, name: str, groups: Iterable[int]) -> "PrunePlan":
        """A plan in which just these groups of a layer go; `after` is counted anew when it is applied.

        Raises:
            InputError: there is no such layer.
        """
        old = self.layer(name)
        new = dataclasses.replace(old, removed=tuple(sorted(set(groups))))
        return dataclasses.replace(self, layers=tuple(new if x is old else x for x in self.layers))

    def table(self) -> str:
        """The layers as a table, and what is left in all."""
        head = ["layer", "groups", "width", "removed", "kept", "least kept"]
        rows = [
            [x.name, x.groups, x.width, x.gone, x.groups - x.gone, _number(x.least_kept)] for x in self.layers
        ]
        return "\n".join([*aligned([head, *rows], numbers=range(1, len(head))), self.summary()])

    def summary(self) -> str:
        """One line: what is left."""
        a, b = self.before, self.after
        return (
            f"parameters {a.params} -> {b.params} ({b.params / max(a.params, 1):.1%}), "
            f"weights {human_bytes(a.bytes)} -> {human_bytes(b.bytes)}, "
            f"operations {a.flops} -> {b.flops} ({b.flops / max(a.flops, 1):.1%})"
        )

    def __str__(self) -> str:
        return self.table()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan as JSON.

        Raises:
            ArtifactError: the file can't be written.
        """
        with replacing(Path(checked_path(path))) as temporary:
            write_file(temporary, [self.dumps().encode()])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "PrunePlan":
        """The plan of a JSON file.

        Raises:
            ArtifactError: there is no such file, or it holds no plan.
        """
        try:
            with open(path, encoding="utf-8") as file:
                data = json.load(file)
        except OSError as error:
            raise ArtifactError(f"the plan {os.fspath(path)} can't be read: {error.strerror}") from error
        except ValueError as error:
            raise ArtifactError(f"the plan {os.fspath(path)} is no JSON: {error}") from error
        if not isinstance(data, dict):
            raise ArtifactError(f"the plan {os.fspath(path)} is no JSON object")
        try:
            return cls.from_json(data)
        except ArtifactError as error:
            raise ArtifactError(f"{os.fspath(path)} is {error}") from error


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
