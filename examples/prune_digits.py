"""A trained CNN loses seven eighths of its parameters: a plan, steps of pruning with distillation in between, a file.

    python examples/prune_digits.py                                   one network, with the plan and the scan
    python examples/prune_digits.py --folds 5 --seeds 5 --members 3   accuracy over folds and seeds; ensembles

Its layers are scored first (which of them can lose how much), then it is pruned by Taylor importance in steps; after
each the whole network teaches what is left. What goes is really gone: the ONNX file is smaller, and verified.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

import fxopt
from fxopt.passes.prune import plan_pruning, prune_in_steps, scan_sensitivity

SHARE = 0.125
"""Of the parameters, that may stay."""


@dataclass(frozen=True)
class Split:
    """Images f32[n, 1, 8, 8] and labels i64[n] to train on and to test on."""

    x: torch.Tensor
    y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor

    def batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(zip(self.x.split(50), self.y.split(50), strict=True))

    def accuracy(self, run: Callable[[torch.Tensor], torch.Tensor]) -> float:
        with torch.no_grad():
            return (run(self.test_x).argmax(1) == self.test_y).float().mean().item()


def splits(folds: int, seed: int = 0) -> list[Split]:
    """scikit-learn's 1,797 8x8 digits; each fold is the test set of one split."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(seed))
    x = torch.tensor(data.images, dtype=torch.float32)[order, None] / 16
    y = torch.tensor(data.target)[order]
    found = []
    for fold in torch.arange(len(y)).chunk(folds):
        rest = torch.ones(len(y), dtype=torch.bool).index_fill(0, fold, False)
        found.append(Split(x[rest], y[rest], x[fold], y[fold]))
    return found


def network(width: int = 16) -> nn.Module:
    """Two convolutions, two linear layers: 38,474 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * width, 4 * width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(4 * width, 10),
    )  # fmt: skip


def trained(split: Split, epochs: int, seed: int) -> fxopt.Program:
    """A network on the training half of a split."""
    torch.manual_seed(seed)
    program = fxopt.trace(network().eval(), (split.x[:2],), dynamic_shapes=[{0: "batch"}])
    return fxopt.finetune(
        fxopt.run_pipeline(program, "clean"), split.batches(), loss=nn.functional.cross_entropy,
        epochs=epochs, learning_rate=2e-3, batch_norm="update", seed=seed, progress=False,
    )  # fmt: skip


def compressed(whole: fxopt.Program, split: Split, epochs: int, steps: int, seed: int) -> fxopt.Program:
    """An eighth of a network, taught by the whole of it after each step."""

    def teach(student: fxopt.Program) -> fxopt.Program:
        return fxopt.distill(
            whole, student, split.batches(), epochs=epochs, learning_rate=2e-3, batch_norm="update",
            dropout=False, seed=seed, progress=False,
        )  # fmt: skip

    return prune_in_steps(
        whole, teach, steps=steps, params=SHARE, criterion="taylor", loss=nn.functional.cross_entropy,
        calibration=split.batches()[:8],
    )  # fmt: skip


def parameters(program: fxopt.Program) -> int:
    return sum(w.numel() for w in program.weights.values() if isinstance(w, nn.Parameter))


def main(epochs: int = 4, steps: int = 3) -> tuple[float, float, fxopt.Program]:
    """Returns the accuracy before and after, and the pruned program."""
    split = splits(5)[0]
    whole = trained(split, 2 * epochs, seed=0)
    print(scan_sensitivity(whole, split.accuracy, ratios=(0.25, 0.5, 0.75)).table())
    loss, some = nn.functional.cross_entropy, split.batches()[:8]
    print(plan_pruning(whole, params=SHARE, criterion="taylor", loss=loss, calibration=some).table())

    small = compressed(whole, split, epochs, steps, seed=0)
    before, after = split.accuracy(whole), split.accuracy(small)
    artifact = fxopt.lower(fxopt.run_pipeline(small, "O1"), "onnx")
    print(f"accuracy {before:.1%} -> {after:.1%}, {artifact.size / 1000:.0f} kB, {artifact.report}")
    return before, after, small


@dataclass(frozen=True)
class Fit:
    """One compressed network of a fold: accuracies, the least factor of parameters, seconds of processor time."""

    before: float
    after: float
    factor: float
    seconds: float


def fitted(split: Split, epochs: int, steps: int, seed: int) -> tuple[Fit, fxopt.Program]:
    """Trains, prunes and distils once."""
    whole = trained(split, 2 * epochs, seed)
    start = time.process_time()
    small = compressed(whole, split, epochs, steps, seed)
    seconds = time.process_time() - start
    factor = parameters(whole) / parameters(small)
    return Fit(split.accuracy(whole), split.accuracy(small), factor, seconds), small


def cross_validated(epochs: int, steps: int, folds: int, seeds: int) -> list[list[Fit]]:
    """All folds of each seed; prints a line a seed and the median."""
    found = []
    for seed in range(seeds):
        fits = [fitted(split, epochs, steps, seed)[0] for split in splits(folds, seed)]
        before, after = (statistics.mean(getattr(f, n) for f in fits) for n in ("before", "after"))
        print(
            f"seed {seed}: accuracy {before:.2%} -> {after:.2%}, {min(f.factor for f in fits):.1f}x fewer "
            f"parameters, at most {max(f.seconds for f in fits):.0f} s a fit",
            flush=True,
        )
        found.append(fits)
    print(f"median of {seeds} seeds, {folds} folds: {100 * median_loss(found):.2f} points lost")
    return found


def median_loss(found: list[list[Fit]]) -> float:
    """Accuracy lost: the mean over folds, the median over seeds."""
    return statistics.median(statistics.mean(f.before - f.after for f in fits) for fits in found)


def ensembles(epochs: int, steps: int, members: int, seeds: int) -> list[tuple[list[float], float]]:
    """For each seed the accuracies of compressed networks on one split, and that of all of them as one program."""
    found = []
    for seed in range(seeds):
        split = splits(5, seed)[0]
        nets = [fitted(split, epochs, steps, 100 * seed + i)[1] for i in range(members)]
        together = fxopt.ensemble(nets, reduce="mean-probabilities")
        found.append(([split.accuracy(n) for n in nets], split.accuracy(together)))
        alone = ", ".join(f"{a:.2%}" for a in found[-1][0])
        print(f"seed {seed}: {alone}; together {found[-1][1]:.2%}", flush=True)
    gain = statistics.median(together - max(alone) for alone, together in found)
    print(f"median of {seeds} seeds: {100 * gain:+.2f} points over the best one")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=4, help="after each step of pruning")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--members", type=int, default=0, help="of an ensemble")
    given = parser.parse_args()
    if given.folds:
        cross_validated(given.epochs, given.steps, given.folds, given.seeds)
    if given.members:
        ensembles(given.epochs, given.steps, given.members, given.seeds)
    if not given.folds and not given.members:
        main(given.epochs, given.steps)
