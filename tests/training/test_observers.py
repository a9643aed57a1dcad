"""What TensorBoard is given: losses, rate, score, histograms, parameters and FLOPs after each pruning."""

import sys
from pathlib import Path

import pytest

import fxopt
from fxopt.analysis import Cost
from fxopt.passes.prune import prune_in_steps
from fxopt.training import TensorBoard
from tests.training.taught import pair
from tests.training.test_loop import Score, cross_entropy


def test_pruning_and_training_in_turns_is_one_curve(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, student, data = pair()
    board = TensorBoard(tmp_path)
    sizes: list[tuple[int, int]] = []

    def train(program: fxopt.Program) -> fxopt.Program:
        flops = Cost.compute(program).at().flops
        sizes.append((sum(w.numel() for w in program.weights.values()), flops))
        return fxopt.finetune(
            program, data, loss=cross_entropy, epochs=2, metric=Score(data), log=board, progress=False
        )

    prune_in_steps(student, train, steps=2, ratio=0.5)
    log = events.EventAccumulator(str(tmp_path), size_guidance={"scalars": 0, "histograms": 0}).Reload()
    steps = 2 * len(data)

    def scalars(tag: str) -> list[tuple[int, float]]:
        return [(e.step, e.value) for e in log.Scalars(tag)]

    assert scalars("program/parameters") == [(0, sizes[0][0]), (steps, sizes[1][0])]
    assert scalars("program/flops") == [(0, sizes[0][1]), (steps, sizes[1][1])]
    assert sizes[1][0] < sizes[0][0] and sizes[1][1] < sizes[0][1]
    assert [step for step, _ in scalars("train/loss")] == list(range(1, 2 * steps + 1))
    assert scalars("loss/task")[0][1] == pytest.approx(scalars("train/loss")[0][1])
    assert max(rate for _, rate in scalars("train/learning rate")) == pytest.approx(1e-3)
    scores = [step for step, _ in scalars("score/metric")]
    assert scores == sorted(scores) and scores[-1] == 2 * steps
    histograms = {tag for tag in log.Tags()["histograms"] if tag.startswith("weights/")}
    assert histograms == {f"weights/{name}" for name in student.weights}
    last = log.Histograms("weights/0.weight")[-1].histogram_value
    assert last.num == 6 * 4, "half of the 8 hidden units are left"


def test_without_tensorboard_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(fxopt.InputError, match=r"log= needs tensorboard: pip install 'fxopt\[tensorboard\]'"):
        TensorBoard(tmp_path)
