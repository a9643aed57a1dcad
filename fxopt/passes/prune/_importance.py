"""Criteria: how much each group of a layer, or each element of a weight, is worth.

Magnitudes are those of the slices that make the channels, summed over all weights of a group. The first-order
Taylor criterion (Molchanov et al. 2017, 2019) is the change of a loss when what reads the channels reads zeros
instead: the sum of weight times gradient over the slices that read them, its magnitude averaged over batches.

>>> l2([torch.tensor([[3.0, 4.0], [0.0, 1.0]])])
tensor([5., 1.], dtype=torch.float64)
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from fxopt.analysis.channels import Layer, Member
from fxopt.errors import InputError
from fxopt.passes.prune._criteria import Criterion, LayerView
from fxopt.passes.prune._moments import channel_dim
from fxopt.passes.prune._obs import Surgeon, costs_of
from fxopt.program import Program

__all__ = ["Scorer", "l2"]

_COMPARABLE = ("lamp", "taylor", "obs", "random")
"""Criteria whose numbers can be compared between layers as they are."""


def l1(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sums of magnitudes."""
    return torch.stack([r.double().abs().sum(1) for r in rows]).sum(0)


def l2(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Euclidean norms."""
    return torch.stack([r.double().square().sum(1) for r in rows]).sum(0).sqrt()


def fpgm(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sums of distances to all others: small near the geometric median (He et al. 2019)."""
    return torch.stack([torch.cdist(r, r).sum(1) for r in rows]).sum(0)


def lamp(energies: torch.Tensor) -> torch.Tensor:
    """Each energy's share of those not smaller than itself (Lee et al. 2021)."""
    order = energies.argsort(stable=True)
    ranked = energies[order]
    left = ranked.flip(0).cumsum(0).flip(0)
    shares = torch.where(left > 0, ranked / left, torch.zeros_like(left))
    return torch.empty_like(shares).index_copy_(0, order, shares)


_BY_ROWS: dict[str, Callable[[Sequence[torch.Tensor]], torch.Tensor]] = {
    "l1": l1,
    "l2": l2,
    "fpgm": fpgm,
    "lamp": lambda rows: lamp(l2(rows).square()),
}


@dataclass(frozen=True)
class Scorer:
    """Scores layers and weights by one criterion.

    Attributes:
        program: whose weights are scored.
        criterion: one of `CRITERIA`, or a function of a `LayerView`.
        seed: of `random`.
        sensitivities: for `taylor`, by batch the weights times their gradients.
        surgeons: for `obs`, the weights that read channels.
    """

    program: Program
    criterion: str | Criterion
    seed: int = 0
    sensitivities: Sequence[Mapping[str, torch.Tensor]] = ()
    surgeons: Mapping[str, Surgeon] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The criterion's."""
        return (
            self.criterion if isinstance(self.criterion, str) else getattr(self.criterion, "__name__", "own")
        )

    @property
    def is_comparable(self) -> bool:
        """Whether importances of two layers can be compared as they are."""
        return self.criterion in _COMPARABLE

    def layer(self, layer: Layer) -> torch.Tensor | None:
        """The importance of each group, f64[groups]; None if the layer has nothing to judge by.

        Raises:
            InputError: a user's function gives something else, or an importance is NaN.
        """
        if callable(self.criterion):
            found = self._own(self.criterion, self._view(layer), len(layer.labels))
        elif self.criterion == "bn-scale":
            scales = [self._slices(m).abs().sum(1) for m in layer.members if m.scales]
            if not scales:
                return None
            found = torch.stack(scales).sum(0)
        elif self.criterion == "taylor":
            readers = [m for m in layer.members if not m.makes] or layer.makers
            batches = [sum(self._slices(m, b).sum(1) for m in readers) for b in self.sensitivities]
            found = torch.stack([torch.as_tensor(b).abs() for b in batches]).mean(0)
        elif self.criterion == "obs":
            cut = [(self.surgeons[m.weight], m.index) for m in layer.members if self._can_cut(m)]
            if not cut:
                return None
            found = costs_of(cut)
        elif self.criterion == "random":
            found = self._random(layer.name, len(layer.labels))
        else:
            found = _BY_ROWS[self.criterion]([self._slices(m) for m in layer.makers])
        return _without_nan(layer.name, found)

    def elements(self, weight: str) -> torch.Tensor:
        """The importance of each element of a weight, f64 of its shape.

        Raises:
            InputError: as `layer`.
        """
        tensor = self.program.weights[weight].detach().cpu().double()
        if callable(self.criterion):
            view = LayerView(weight, (tensor.reshape(-1, 1),), ())
            found = self._own(self.criterion, view, tensor.numel())
        elif self.criterion == "taylor":
            found = torch.stack([b[weight].cpu().double().abs() for b in self.sensitivities]).mean(0)
        elif self.criterion == "random":
            found = self._random(weight, tensor.numel())
        elif self.criterion == "lamp":
            found = lamp(tensor.flatten().square())
        else:
            found = tensor.abs()
        return _without_nan(weight, found.reshape(tensor.shape))

    def _can_cut(self, member: Member) -> bool:
        known = self.surgeons.get(member.weight)
        return known is not None and not member.makes and channel_dim(known.product) == member.dim

    def _view(self, layer: Layer) -> LayerView:
        rows = tuple(self._slices(m) for m in layer.makers)
        return LayerView(layer.name, rows, tuple(self._slices(m) for m in layer.members if m.scales))

    def _slices(self, member: Member, tensors: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """What each group holds of a weight, f64[groups, elements]."""
        tensor = (self.program.weights if tensors is None else tensors)[member.weight].detach().cpu().double()
        rows = tensor.movedim(member.dim, 0)
        return rows[torch.from_numpy(member.index.copy())].flatten(1)

    def _random(self, name: str, count: int) -> torch.Tensor:
        """The same numbers for the same seed and name, whatever other layers there are."""
        generator = torch.Generator().manual_seed(self.seed + zlib.crc32(name.encode()))
        return torch.rand(count, generator=generator, dtype=torch.float64)

    def _own(self, criterion: Criterion, view: LayerView, count: int) -> torch.Tensor:
        """What a user's function says."""
        try:
            value = criterion(view)
        except Exception as error:  # whatever the user's code raises is told in one line
            said = str(error).strip().split("\n")[0]
            raise InputError(
                f"the criterion {self.name} fails for {view.name}: {type(error).__name__}: {said}"
            ) from error
        try:
            found = torch.as_tensor(value, dtype=torch.float64).cpu()
        except (TypeError, ValueError, RuntimeError):
            found = torch.empty(0)
        if found.numel() != count:
            raise InputError(
                f"the criterion {self.name} gives {_shape(value)} for {view.name}; expected {count} numbers, one a group"
            )
        return found.reshape(-1)


def _shape(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__


def _without_nan(name: str, found: torch.Tensor) -> torch.Tensor:
    if found.isnan().any():
        raise InputError(
            f"the importance of {int(found.isnan().sum())} of {found.numel()} groups of {name} is NaN: "
            "its weights, its gradients or the criterion's numbers are"
        )
    return found
