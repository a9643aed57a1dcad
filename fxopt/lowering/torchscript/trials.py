"""A file's own check of the machine that it runs on: integer kernels are tried once, at its first call.

TorchScript can't ask what the machine has, and takes what kernels there are; those that saturate would give wrong
results in silence.
"""

from dataclasses import dataclass

import torch

from fxopt.lowering.kernels.packing import pack, probe

__all__ = ["Trial", "trial_lines", "trial_value"]


@dataclass(frozen=True)
class Trial:
    """What a module holds to try a kind of kernel: packed weights, and whether it was tried."""

    kind: str
    done: bool


def trial_value(trial: Trial) -> torch.ScriptObject | bool:
    """What the attribute holds when the file is written."""
    if trial.done:
        return False
    tried = probe(trial.kind)
    return pack(tried.packed, tried.weights)


def trial_lines(kind: str, weights: str, done: str) -> list[str]:
    """Statements that raise where a kind of kernel saturates.

    Args:
        kind: of the kernel.
        weights: the attribute of its packed weights.
        done: the attribute that says that it was tried.
    """
    tried = probe(kind)
    ones = f"torch.ops.aten.quantize_per_tensor(torch.ones({tried.shape}), {1 / 255!r}, 0, torch.quint8)"
    result = f"torch.ops.quantized.{kind}({ones}, self.{weights}, {tried.scale!r}, 0)"
    why = "this machine's integer kernels saturate: they need AVX512-VNNI"
    return [
        f"if not self.{done}:",
        f'    assert bool(torch.all(torch.int_repr({result}) == {tried.wanted})), "{why}"',
        f"    self.{done} = True",
    ]
