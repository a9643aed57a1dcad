"""How much each layer can lose: a metric against the ratio, one layer pruned at a time.

>>> scan = Sensitivity(0.98, (0.25, 0.5), ("conv1.weight",), ((0.97, 0.5),))
>>> print(scan.table())
layer         25%   50%
conv1.weight  0.97  0.5
whole model: 0.98
>>> scan.most("conv1.weight", max_drop=0.05)
0.25
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from fxopt.errors import InputError
from fxopt.json_data import JsonData
from fxopt.passes.prune._masks import with_zeros
from fxopt.passes.prune._plan import PlannedLayer
from fxopt.passes.prune.prune import Prune
from fxopt.program import Program, expect_program
from fxopt.program.text import aligned
from fxopt.program.writing import checked_path, replacing, write_file

__all__ = ["Sensitivity", "scan_sensitivity"]

_CELL, _LINE = 64, 20
"""Width and height of a cell of the picture, in pixels."""


@dataclass(frozen=True)
class Sensitivity(JsonData):
    """A scan.

    Attributes:
        baseline: the metric of the whole program.
        ratios: shares of a layer that went.
        layers: their names.
        scores: the metric, a row a layer, a column a ratio.
    """

    baseline: float
    ratios: tuple[float, ...]
    layers: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]

    def most(self, layer: str, *, max_drop: float) -> float:
        """The largest ratio up to which a layer costs no more than this; 0 if every one does."""
        scores = self.scores[self.layers.index(layer)]
        found = 0.0
        for ratio, score in zip(self.ratios, scores, strict=True):
            if not self.baseline - score <= max_drop:
                break
            found = ratio
        return found

    def table(self) -> str:
        """The scan as text."""
        head = ["layer", *(f"{r:.0%}" for r in self.ratios)]
        rows = [
            [name, *(f"{s:.4g}" for s in scores)]
            for name, scores in zip(self.layers, self.scores, strict=True)
        ]
        return "\n".join([*aligned([head, *rows]), f"whole model: {self.baseline:.4g}"])

    def plot(self, path: str | Path) -> None:
        """Writes the scan as a picture (SVG): a row a layer, a column a ratio, the redder the larger the drop.

        Raises:
            ArtifactError: the file can't be written.
        """
        with replacing(Path(checked_path(path))) as temporary:
            write_file(temporary, [self._svg().encode()])

    def _svg(self) -> str:
        left = 8 * max(map(len, self.layers), default=0) + 16
        worst = max((self.baseline - s for row in self.scores for s in row), default=0.0)
        parts = [_text(left + _CELL * j + 4, 14, f"{r:.0%}") for j, r in enumerate(self.ratios)]
        for i, (name, scores) in enumerate(zip(self.layers, self.scores, strict=True), 1):
            parts.append(_text(4, _LINE * i + 14, name))
            for j, score in enumerate(scores):
                share = max(self.baseline - score, 0.0) / worst if worst > 0 else 0.0
                x, y, pale = left + _CELL * j, _LINE * i, round(255 * (1 - share))
                parts.append(
                    f'<rect x="{x}" y="{y}" width="{_CELL - 1}" height="{_LINE - 1}" '
                    f'fill="rgb(255,{pale},{pale})"/>{_text(x + 4, y + 14, f"{score:.4g}")}'
                )
        width, height = left + _CELL * len(self.ratios), _LINE * (len(self.layers) + 1)
        size = f'width="{width}" height="{height}"'
        style = 'font-family="sans-serif" font-size="12"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(parts)}</svg>\n'


def _text(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}">{escape(text)}</text>'


def scan_sensitivity(
    program: Program,
    metric: Callable[[Callable[..., object]], float],
    *,
    ratios: Iterable[float] = (0.25, 0.5, 0.75, 0.9),
    calibration: Iterable[object] | None = None,
    **options: object,
) -> Sensitivity:
    """The metric for each layer and ratio, with that layer alone pruned.

    Args:
        program: stays as it is.
        metric: scores a callable, higher is better.
        ratios: in increasing order.
        calibration: as in `plan_pruning`.
        options: of `prune`, without a goal.

    Raises:
        InputError: as `plan_pruning`; a goal among the options; the metric raises, or gives no number.
    """
    expect_program(program, "scan_sensitivity")
    item, shares = Prune(**options), tuple(ratios)  # type: ignore[arg-type]  # the class checks them
    if item.goal != "ratio" or item.ratio is not None:
        raise InputError(f"scan_sensitivity goes through ratios=: leave {item.goal} out")
    data = None if calibration is None else list(calibration)
    scores: dict[str, list[float]] = {}
    for ratio in shares:
        planner = dataclasses.replace(item, ratio=ratio).planner(program, data)
        plan = planner.plan()
        for layer in plan.layers:
            alone = dataclasses.replace(plan, layers=tuple(_only(x, layer) for x in plan.layers))
            pruned = with_zeros(program, planner.masks(alone))
            scored = _scored(metric, pruned, f"{layer.name} pruned by {ratio:g}")
            scores.setdefault(layer.name, []).append(scored)
    rows = tuple(map(tuple, scores.values()))
    return Sensitivity(_scored(metric, program, "the whole program"), shares, tuple(scores), rows)


def _scored(metric: Callable[[Callable[..., object]], float], program: Program, which: str) -> float:
    try:
        return float(metric(program))
    except Exception as error:  # whatever the user's code raises is told in one line
        said = str(error).strip().split("\n")[0]
        raise InputError(f"the metric fails for {which}: {type(error).__name__}: {said}") from error


def _only(layer: PlannedLayer, chosen: PlannedLayer) -> PlannedLayer:
    return layer if layer is chosen else dataclasses.replace(layer, removed=(), zeros=0)
