"""The files in `tests/data`, as a version of fxopt wrote them; every later one must open them.

`python -m tests.data_files` writes those of this version anew. It is for a new format only: what stands under
the name of an earlier format is never written again.
"""

import json
from pathlib import Path

import torch
from torch import nn

import fxopt

FOLDER = Path(__file__).parent / "data" / "format-1"
FILES = ("program.fxopt", "eager.fxopt", "script.pt", "model.onnx")


class Kept(nn.Module):
    """What a file can hold: a tied weight, a buffer, a dynamic size, containers, a constant, a number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("offset", torch.tensor([0.5, -1.0]))

    def forward(self, image: torch.Tensor, mask: torch.Tensor, scale: float = 1.0) -> dict[str, object]:
        """Features and a score of images f32[batch, 1, 4, 4] under a mask bool[batch, 4]."""
        x = torch.relu(self.norm(self.conv(image))) * scale
        rows = self.second(self.first(x.mean(1).mean(1))).masked_fill(mask, float("-inf"))
        return {
            "rows": (torch.softmax(rows, 1), x.shape[0]),
            "sum": x.sum((2, 3)) + self.offset,
            "kind": "kept",
        }


def example() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs that need no generator, which may change."""
    image = torch.arange(48.0).reshape(3, 1, 4, 4) / 48
    mask = torch.arange(12).reshape(3, 4) % 3 == 0
    return image, mask


def write() -> None:
    """Writes the files and what they return for the example."""
    torch.manual_seed(0)
    model = Kept().eval()
    image, mask = example()
    shapes = {"image": {0: "batch"}, "mask": {0: "batch"}}
    program = fxopt.trace(model, (image, mask, 2.0), dynamic_shapes=shapes)
    FOLDER.mkdir(parents=True, exist_ok=True)
    program.save(str(FOLDER / "program.fxopt"))
    for name, target in (("eager.fxopt", "eager"), ("script.pt", "torchscript"), ("model.onnx", "onnx")):
        fxopt.lower(program, target, path=FOLDER / name)
    result = program(image, mask, 2.0)
    rows, count = result["rows"]  # type: ignore[index]
    expected = {"rows": rows.tolist(), "count": count, "sum": result["sum"].tolist()}  # type: ignore[index]
    (FOLDER / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
