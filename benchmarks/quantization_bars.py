"""The bars that quantized files are held to, and what was measured.

>>> figures = {"resnet18": {"sides": {"fxopt int8 onnx": {"size": 11.8e6}}}}
>>> [bar.met for bar in bars(figures)]
[True]
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Bar", "bars", "count"]

Sides = Mapping[str, dict]
_OURS, _THEIRS = "fxopt {} onnx", "onnxruntime {}"


@dataclass(frozen=True)
class Bar:
    """One line of what is asked for.

    Attributes:
        model: of `bench_quantization.CASES`.
        what: is measured, of fxopt's ONNX file where it does not say otherwise.
        sign: "at least" or "at most".
        bar: the number.
        measured: the same.
        unit: after both, of which the numbers of decimals are those of `bar`.
    """

    model: str
    what: str
    sign: str
    bar: float
    measured: float
    unit: str

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.measured >= self.bar if self.sign == "at least" else self.measured <= self.bar

    def cells(self) -> list[str]:
        """A line of a table."""
        digits = {"dB": 1, "": 4, "x": 2, "MB": 2}[self.unit]
        asked, found = (f"{v:.{digits}f} {self.unit}".strip() for v in (self.bar, self.measured))
        return [self.model, self.what, f"{self.sign} {asked}", found, "yes" if self.met else "no"]


def _more_signal(scheme: str, ours: str = "") -> Callable[[Sides], float]:
    ours = ours or _OURS.format(scheme)
    return lambda s: float(s[ours]["sqnr"] - s[_THEIRS.format(scheme)]["sqnr"])


def _as_fast(scheme: str, ours: str = "") -> Callable[[Sides], float]:
    ours = ours or _OURS.format(scheme)
    return lambda s: float(s[_THEIRS.format(scheme)]["cpu"]["median"] / s[ours]["cpu"]["median"])


def _speed(side: str, of: str) -> Callable[[Sides], float]:
    return lambda s: float(s[side]["speed"][of]["value"])


def _size(side: str) -> Callable[[Sides], float]:
    return lambda s: float(s[side]["size"]) / 1e6


def _cosine(side: str) -> Callable[[Sides], float]:
    return lambda s: float(s[side]["cosine"])


_MIXED, _STAGE = "fxopt int8 mixed", "fxopt int8, first stage float"
_ROWS = "fxopt int8-dynamic by rows, smooth, gptq"
_MORE, _FAST = "signal to noise beyond onnxruntime's {}", "speed to onnxruntime's {}"
_BARS: tuple[tuple[str, str, str, float, str, Callable[[Sides], float]], ...] = (
    ("resnet18", _FAST.format("int8"), "at least", 1.0, "x", _as_fast("int8")),
    ("resnet18", _MORE.format("int8"), "at least", 1.0, "dB", _more_signal("int8")),
    ("resnet18", "file of int8", "at most", 11.9, "MB", _size("fxopt int8 onnx")),
    ("resnet18", "speed of int8 in eager to the model", "at least", 4.0, "x", _speed("fxopt int8 eager", "model")),
    (
        "resnet18", "speed of int8 in TorchScript to the model", "at least", 4.0, "x",
        _speed("fxopt int8 torchscript", "model"),
    ),
    ("resnet18-mixed", _MORE.format("int8"), "at least", 3.0, "dB", _more_signal("int8", _MIXED)),
    ("resnet18-mixed", _FAST.format("int8"), "at least", 0.9, "x", _as_fast("int8", _MIXED)),
    ("mobilenetv2", _FAST.format("int8"), "at least", 1.0, "x", _as_fast("int8")),
    ("mobilenetv2", _MORE.format("int8"), "at least", 4.0, "dB", _more_signal("int8")),
    ("mobilenetv2-layers", f"first stage in float: {_FAST.format('int8')}", "at least", 1.0, "x", _as_fast("int8", _STAGE)),
    ("mobilenetv2-layers", f"first stage in float: {_MORE.format('int8')}", "at least", 4.0, "dB", _more_signal("int8", _STAGE)),
    ("minilm", "cosine of int8", "at least", 0.995, "", _cosine("fxopt int8 onnx")),
    ("minilm", "speed of int8 to float ONNX", "at least", 2.0, "x", _speed("fxopt int8 onnx", "float onnx")),
    ("minilm", "cosine of int8-dynamic", "at least", 0.9995, "", _cosine("fxopt int8-dynamic onnx")),
    ("minilm", _FAST.format("int8-dynamic"), "at least", 1.0, "x", _as_fast("int8-dynamic")),
    ("minilm", _MORE.format("int8-dynamic"), "at least", 0.0, "dB", _more_signal("int8-dynamic")),
    ("minilm-rows", "cosine of int8-dynamic by rows, smooth, gptq", "at least", 0.9995, "", _cosine(_ROWS)),
    ("minilm-rows", _FAST.format("int8-dynamic"), "at least", 1.0, "x", _as_fast("int8-dynamic", _ROWS)),
    ("minilm-rows", _MORE.format("int8-dynamic"), "at least", 0.0, "dB", _more_signal("int8-dynamic", _ROWS)),
    ("minilm-int4", "file of int4-weights", "at most", 14.5, "MB", _size("fxopt int4-weights")),
    ("minilm-int4", "cosine of int4-weights", "at least", 0.985, "", _cosine("fxopt int4-weights")),
    ("minilm", "file of int8", "at most", 23.5, "MB", _size("fxopt int8 onnx")),
)  # fmt: skip


def count(models: Iterable[str]) -> int:
    """How many bars some parts have."""
    return sum(row[0] in set(models) for row in _BARS)


def bars(models: Mapping[str, Mapping[str, Sides]]) -> Iterator[Bar]:
    """All bars of which the figures are there, in order."""
    for model, what, sign, bar, unit, measured in _BARS:
        try:
            found = measured(models[model]["sides"])
        except KeyError:
            continue
        yield Bar(model, what, sign, bar, found, unit)
