"""Failing programs shrink nearly to the smallest that can be written by hand."""

import pytest
from hypothesis import HealthCheck, find, settings

from fxopt.pipeline import Pass
from fxopt.program import Program
from fxopt.testing import CheckFailure, check_once, programs
from fxopt.testing.check import _fires
from fxopt.testing.motifs import focused
from tests.testing.wrong_passes import (
    BiasDroppedWhenNone,
    BroadcastOtherAxis,
    CancelPermutesWrong,
    DropReluAfterLeaky,
    FoldDroppedBias,
    FoldWrongEps,
    MeanByExampleSize,
    MergeIgnoringArguments,
    SecondUserIgnored,
    SoftmaxOtherAxis,
)

SLACK = 2
BY_HAND: dict[type[Pass], int] = {
    FoldWrongEps: 9,  # x, the weights and bias, four of the norm; the two layers
    FoldDroppedBias: 9,
    BiasDroppedWhenNone: 7,  # x, the weights, three of the norm; the two layers
    SecondUserIgnored: 3,  # x, neg, relu, and neg is an output too
    CancelPermutesWrong: 3,  # x and two permutes
    MergeIgnoringArguments: 3,  # x and two softmaxes
    DropReluAfterLeaky: 3,  # x, leaky relu, relu
    SoftmaxOtherAxis: 2,  # x and its softmax
    MeanByExampleSize: 2,  # x and its mean
    BroadcastOtherAxis: 3,  # x, the weight, their difference
}
"""The nodes of the smallest program that shows the mistake: inputs, weights and calls."""


@pytest.mark.slow
@pytest.mark.parametrize("wrong", BY_HAND, ids=lambda cls: cls.__name__)
def test_a_failing_program_shrinks_to_about_the_smallest(wrong: type[Pass]):
    def fails(program: Program) -> bool:
        try:
            check_once(wrong(), program)
        except CheckFailure:
            return True
        return False

    planted = [focused(motif, lambda program: _fires(wrong(), program)) for motif in wrong().all_motifs()]
    search = settings(
        max_examples=300,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    smallest = find(programs(motifs=planted), fails, settings=search)
    nodes = [n for n in smallest.graph.nodes if n.op != "output"]
    assert len(nodes) <= BY_HAND[wrong] + SLACK, smallest


def test_there_are_ten():
    assert len(BY_HAND) >= 10
