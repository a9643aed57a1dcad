"""What the check of each pass costs: `optimize` of a CNN of a million parameters with it and without, in turns.

python -m benchmarks.bench_check_each

Seconds are those of the processor, of this process and of those that it starts, with trace, lowering and the
verification of the file.
"""

import itertools
import resource
import statistics
import tempfile
from pathlib import Path

import torch
from torch import nn

import fxopt

ROUNDS = 3
CHANNELS = (3, 64, 64, 128, 128, 256, 256)


def network() -> nn.Module:
    """Six convolutions with batch norms and a linear layer: 1,148,874 parameters."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for narrow, wide in itertools.pairwise(CHANNELS):
        layers += [nn.Conv2d(narrow, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)).eval()


def processor_seconds() -> float:
    """Of this process and of those that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def seconds(model: nn.Module, *, check_each: bool) -> float:
    """Processor seconds of one `optimize` to an ONNX file."""
    example = (torch.randn(2, 3, 32, 32),)
    with tempfile.TemporaryDirectory() as folder:
        start = processor_seconds()
        fxopt.optimize(
            model,
            example,
            target="onnx",
            path=Path(folder) / "m.onnx",
            dynamic_shapes=[{0: "batch"}],
            check_each=check_each,
        )
        return processor_seconds() - start


def main() -> None:
    torch.set_num_threads(1)
    model = network()
    ratios = []
    for turn in range(ROUNDS + 1):
        plain, checked = (seconds(model, check_each=each) for each in (False, True))
        if turn:  # the first one pays for imports and caches
            ratios.append(checked / plain)
            print(f"{plain:.2f} s without, {checked:.2f} s with the checks: {ratios[-1]:.2f} times")
    print(f"median {statistics.median(ratios):.2f} times")


if __name__ == "__main__":
    main()
