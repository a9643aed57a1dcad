"""The bars for torch's operator database, the record of it, and the page made from the record."""

import warnings

import pytest

from tests.lowering.coverage import STATE, TABLE, exported, numbers, outcome, recorded, refused, table
from tests.lowering.opdb import entries


def test_the_page_is_what_the_record_gives() -> None:
    assert TABLE.read_text() == table(recorded()), "python -m tests.lowering.coverage writes it anew"


def test_the_record_reaches_the_bars() -> None:
    """All that is not refused by design is traced; the targets' bars are over everything that torch.export takes."""
    rows, done = recorded(), numbers(recorded())
    every = len(exported(rows))
    assert every > 650
    assert done[STATE] + sum(refused(rows).values()) == every
    assert sum(refused(rows).values()) <= 11
    assert done["eager"] == done[STATE] >= 0.98 * every
    assert done["torchscript"] >= 0.95 * every
    assert done["onnx"] >= 0.80 * every


_SAMPLED = (
    "add",
    "nn.functional.conv2d",
    "linalg.inv",
    "fft.fft",
    "bernoulli",
    "svd",
    "empty",
    "item",
    "to_sparse",
)


@pytest.mark.parametrize(
    "some", [pytest.param(_SAMPLED, id="some"), pytest.param((), id="all", marks=pytest.mark.slow)]
)
def test_entries_are_as_recorded(some: tuple[str, ...]) -> None:
    """No result is wrong, nothing but an FxoptError ends a run, and each entry is lowered as it was."""
    known, changed = recorded(), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for entry in entries(some):
            row = outcome(entry)
            if row != known.get(entry.name):
                changed[entry.name] = (known.get(entry.name), row)
    assert not changed
