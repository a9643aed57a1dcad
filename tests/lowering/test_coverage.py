"""The bars for torch's operator database, the record of it, and the page made from the record."""

import warnings

import pytest

from tests.lowering.coverage import TABLE, counted, outcome, recorded, shares, table
from tests.lowering.opdb import entries


def test_the_page_is_what_the_record_gives() -> None:
    assert TABLE.read_text() == table(recorded()), "python -m tests.lowering.coverage writes it anew"


def test_the_record_reaches_the_bars() -> None:
    part = shares(recorded())
    assert len(counted(recorded())) > 550
    assert part["trace"] >= 0.98
    assert part["eager"] >= 0.98
    assert part["torchscript"] >= 0.95
    assert part["onnx"] >= 0.80


_SAMPLED = ("add", "nn.functional.conv2d", "linalg.inv", "lgamma", "fft.fft", "bernoulli", "svd", "histogram")


@pytest.mark.parametrize(
    "some", [pytest.param(_SAMPLED, id="some"), pytest.param((), id="all", marks=pytest.mark.slow)]
)
def test_entries_are_as_recorded(some: tuple[str, ...]) -> None:
    """No result is wrong, nothing but an FxoptError ends a run, and each entry is lowered as it was."""
    known, changed = recorded(), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for entry in entries():
            if some and entry.name not in some:
                continue
            row = outcome(entry)
            if row != known.get(entry.name) and "empty" not in entry.name:
                changed[entry.name] = (known.get(entry.name), row)
    assert not changed
