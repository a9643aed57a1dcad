"""Full collections are put off while passes run, and come back whatever happens."""

import gc
from collections.abc import Iterator

import pytest
import torch

from fxopt.pipeline import Pass, PassManager
from fxopt.pipeline.collector import full_collections_put_off
from fxopt.rewriting import Rewriter
from tests.passes.helpers import program, rand


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[tuple[int, int, int]]:
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)


def test_runs_within_one_another_end_with_the_outermost(thresholds: tuple[int, int, int]) -> None:
    first, second = full_collections_put_off(), full_collections_put_off()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # runs of two threads need not be nested
    assert gc.get_threshold()[2] > thresholds[2]
    second.__exit__(None, None, None)
    assert gc.get_threshold() == thresholds


def test_the_user_s_own_thresholds_come_back_after_an_error() -> None:
    gc.set_threshold(123, 4, 5)
    with pytest.raises(ValueError, match="no"), full_collections_put_off():
        raise ValueError("no")
    assert gc.get_threshold() == (123, 4, 5)


def test_a_disabled_collector_stays_disabled() -> None:
    gc.disable()
    try:
        with full_collections_put_off():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


SEEN: list[int] = []


class LookAtTheCollector(Pass):
    """Notes the threshold."""

    def run(self, rewriter: Rewriter) -> None:
        SEEN.append(gc.get_threshold()[2])


class LookWithData(LookAtTheCollector):
    """Runs programs on data, whose memory may wait for a collection."""

    needs_calibration = True


def test_passes_run_so_unless_they_run_on_data(thresholds: tuple[int, int, int]) -> None:
    SEEN.clear()
    relu = program(lambda x: torch.relu(x), rand(2, 3))
    PassManager.of([LookAtTheCollector()]).run(relu)
    PassManager.of([LookWithData()]).run(relu, calibration=[rand(2, 3)])
    assert SEEN[0] > thresholds[2]
    assert SEEN[1] == thresholds[2]
    assert gc.get_threshold() == thresholds
