"""A trained CNN loses seven eighths of its parameters: a plan, steps of pruning with training in between, a file.

    python examples/prune_digits.py

Its layers are scored first (which of them can lose how much), then it is pruned by Taylor importance in three
steps. What goes is really gone: the ONNX file is smaller, and verified.
"""

import torch
from torch import nn

import fxopt
from fxopt.passes.prune import plan_pruning, prune_in_steps, scan_sensitivity


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """scikit-learn's 8x8 digits: images and labels to train on, and to test on."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images, dtype=torch.float32)[order, None] / 16
    y = torch.tensor(data.target)[order]
    return x[:1400], y[:1400], x[1400:], y[1400:]


def network(width: int = 16) -> nn.Module:
    """Two convolutions, two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * width, 4 * width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(4 * width, 10),
    )  # fmt: skip


def main(epochs: int = 4, steps: int = 3) -> tuple[float, float, fxopt.Program]:
    """Returns the accuracy before and after, and the pruned program."""
    torch.manual_seed(0)
    x, y, test_x, test_y = digits()
    data = list(zip(x.split(50), y.split(50), strict=True))
    loss = nn.functional.cross_entropy

    def accuracy(run) -> float:
        return (run(test_x).argmax(1) == test_y).float().mean().item()

    def train(program: fxopt.Program) -> fxopt.Program:
        return fxopt.finetune(
            program, data, loss=loss, epochs=epochs, learning_rate=2e-3, batch_norm="update", progress=False
        )

    program = fxopt.trace(network().eval(), (x[:2],), dynamic_shapes=[{0: "batch"}])
    whole = train(fxopt.run_pipeline(program, "clean"))
    print(scan_sensitivity(whole, accuracy, ratios=(0.25, 0.5, 0.75)).table())
    print(plan_pruning(whole, params=0.125, criterion="taylor", loss=loss, calibration=data[:8]).table())

    small = prune_in_steps(
        whole, train, steps=steps, params=0.125, criterion="taylor", loss=loss, calibration=data[:8]
    )
    before, after = accuracy(whole), accuracy(small)
    artifact = fxopt.lower(fxopt.run_pipeline(small, "O1"), "onnx")
    print(f"accuracy {before:.1%} -> {after:.1%}, {artifact.size / 1000:.0f} kB, {artifact.report}")
    return before, after, small


if __name__ == "__main__":
    main()
