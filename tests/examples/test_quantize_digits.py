"""The example of networks in few bits, in a short form."""

import importlib
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_example(monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    found = importlib.import_module("quantize_digits").main(epochs=2)
    assert found["float"] > 0.9
    assert found["int8"] > found["float"] - 0.02
    assert found["2 bits, distilled"] > max(found["2 bits"], found["float"] - 0.05)
    assert "4 bits, gptq" in capsys.readouterr().out
