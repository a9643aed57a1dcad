"""The loop: what is kept, how it stops, how it goes on."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import fxopt
from fxopt.training.loop import BEST, CHECKPOINT
from tests.training.taught import agreement, pair, same_weights

ROOT = Path(__file__).parents[2]


def cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(output, target)


def test_the_best_epoch_is_kept() -> None:
    _teacher, student, data = pair()
    scores = iter([0.1, 0.7, 0.9, 0.3])
    seen: list[torch.Tensor] = []

    def metric(run: Callable[..., object]) -> float:
        seen.append(run(data[0][0]))  # type: ignore[arg-type]  # a tensor
        return next(scores)

    best = fxopt.finetune(student, data, loss=cross_entropy, epochs=3, metric=metric)
    assert torch.equal(best(data[0][0]), seen[2])  # type: ignore[arg-type]  # a tensor
    assert not torch.equal(seen[2], seen[3])


def test_the_start_is_kept_if_training_makes_it_worse() -> None:
    _, student, data = pair()
    kept = fxopt.finetune(
        student, data, loss=cross_entropy, epochs=2, learning_rate=5.0, validation=data, schedule="constant"
    )
    assert same_weights(kept, student)


def test_the_least_validation_loss_is_kept() -> None:
    _, student, data = pair()

    def loss_of(program: fxopt.Program) -> float:
        return sum(float(cross_entropy(program(x), y)) for x, y in data)  # type: ignore[arg-type]  # tensors

    kept = fxopt.finetune(student, data, loss=cross_entropy, epochs=6, validation=data)
    assert loss_of(kept) < loss_of(student)


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", "Adam", "Rprop", "LBFGS"])
def test_pruned_weights_stay_zero_under_any_optimizer(optimizer: str) -> None:
    _teacher, student, data = pair()
    zeros = {}
    for name, weight in student.weights.items():
        with torch.no_grad():
            weight[::2] = 0.0
        zeros[name] = weight == 0
    makers = {
        "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        "LBFGS": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=3),
    }
    chosen = makers.get(optimizer, getattr(torch.optim, optimizer))
    tuned = fxopt.finetune(student, data, loss=cross_entropy, epochs=3, learning_rate=0.01, optimizer=chosen)
    for name, weight in tuned.weights.items():
        assert torch.equal(weight == 0, zeros[name]), name
        assert not torch.equal(weight, student.weights[name]), name
    free = fxopt.finetune(student, data, loss=cross_entropy, epochs=1, keep_zeros=False)
    assert any(bool((w[zeros[n]] != 0).any()) for n, w in free.weights.items())


def test_a_weight_of_zeros_has_not_learned_yet() -> None:
    _, student, data = pair()
    with torch.no_grad():
        student.weights["3.bias"].zero_()
    tuned = fxopt.finetune(student, data, loss=cross_entropy, epochs=1)
    assert bool((tuned.weights["3.bias"] != 0).all())


def test_frozen_weights_stay() -> None:
    _, student, data = pair()
    tuned = fxopt.finetune(student, data, loss=cross_entropy, epochs=1, freeze=["0.*"])
    changed = {n for n, w in tuned.weights.items() if not torch.equal(w, student.weights[n])}
    assert changed == {"3.weight", "3.bias"}
    assert all(w.requires_grad for w in tuned.weights.values())


def norm_net() -> tuple[fxopt.Program, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).eval()
    x = torch.randn(32, 4)
    program = fxopt.trace(model, (x[:4],), dynamic_shapes=({0: "batch"},))
    return program, [(x, torch.randint(2, (32,)))]


def test_statistics_are_frozen_unless_asked() -> None:
    program, data = norm_net()
    for mode, moves in (("frozen", False), ("update", True)):
        tuned = fxopt.finetune(program, data, loss=cross_entropy, epochs=2, batch_norm=mode)  # type: ignore[arg-type]
        for name in ("1.running_mean", "1.running_var"):
            assert torch.equal(tuned.weights[name], program.weights[name]) is not moves
        assert not torch.equal(tuned.weights["1.weight"], program.weights["1.weight"])
        # What it is after training is as it was traced: no dropout, its statistics.
        assert torch.equal(tuned(data[0][0]), tuned(data[0][0]))  # type: ignore[arg-type]  # tensors


def test_dropout_drops_if_asked() -> None:
    program, data = norm_net()
    outputs: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for dropout, seen in outputs.items():

        def loss(output: torch.Tensor, target: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(output.detach())
            return cross_entropy(output, target)

        fxopt.finetune(program, data * 2, loss=loss, epochs=1, dropout=dropout, learning_rate=0.0)
    assert torch.equal(*outputs[False])
    assert not torch.equal(*outputs[True])


def test_a_loss_that_is_no_number_stops_with_the_best(tmp_path: Path) -> None:
    _, student, data = pair()
    calls = 0

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return cross_entropy(output, target) * (float("nan") if calls == 20 else 1.0)

    with pytest.raises(fxopt.TrainingError) as caught:
        fxopt.finetune(student, data, loss=loss, epochs=4, checkpoint=tmp_path)
    text = str(caught.value)
    assert text.startswith("finetune: the loss is nan (task) at epoch 3, batch 3; try a lower learning_rate")
    assert str(tmp_path / CHECKPOINT) in text
    assert "\n" not in text
    kept = fxopt.load(tmp_path / BEST)
    assert isinstance(caught.value.program, fxopt.Program)
    assert isinstance(kept, fxopt.Program)
    assert same_weights(caught.value.program, kept)
    assert all(bool(torch.isfinite(w).all()) for w in kept.weights.values())


def test_weights_that_blow_up_are_not_kept() -> None:
    _, student, data = pair()
    with pytest.raises(fxopt.TrainingError, match=r"is no longer finite|the loss is"):
        fxopt.finetune(
            student, data, loss=lambda o, t: o.sum(), epochs=2, learning_rate=1e38, optimizer=torch.optim.SGD,
            schedule="constant",
        )  # fmt: skip


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests themselves run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_keeps_the_best_so_far() -> None:
    teacher, student, data = pair()
    calls = 0

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return cross_entropy(output, target)

    before = signal.getsignal(signal.SIGINT)
    tuned = fxopt.finetune(student, data, loss=loss, epochs=50, metric=lambda run: agreement(teacher, run))
    assert calls == 20, "the step is finished, no other is begun"
    assert signal.getsignal(signal.SIGINT) is before
    assert agreement(teacher, tuned) >= agreement(teacher, student)
    again = fxopt.finetune(student, data, loss=cross_entropy, epochs=50)
    assert not same_weights(tuned, again)


SCRIPT = """
import os, signal, sys
import torch, fxopt
from tests.training.taught import pair
from tests.training.test_loop import cross_entropy, loader_of, Score

torch.set_num_threads(1)
folder, kill = sys.argv[1], int(sys.argv[2])
teacher, student, data = pair()
calls = 0

def metric(run):
    return Score(data)(run)

def killing(output, target):
    global calls
    calls += 1
    if calls == kill:
        os.kill(os.getpid(), signal.SIGKILL)
    return cross_entropy(output, target)

tuned = fxopt.finetune(student, loader_of(data), loss=killing, epochs=4, learning_rate=0.01, metric=metric,
                       checkpoint=folder + "/run", checkpoint_steps=3)
tuned.save(folder + "/done.fxopt")
"""


class Score:
    def __init__(self, data: list[tuple[torch.Tensor, ...]]) -> None:
        self.data = data

    def __call__(self, run: Callable[..., object]) -> float:
        return -sum(float(cross_entropy(run(x), y)) for x, y in self.data)  # type: ignore[arg-type]  # tensors


def loader_of(data: list[tuple[torch.Tensor, ...]]) -> object:
    """Shuffled, with noise drawn for each item, and a generator of its own."""
    whole = torch.utils.data.TensorDataset(*(torch.cat(column) for column in zip(*data, strict=True)))

    def noisy(items: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        x, y = (torch.stack(column) for column in zip(*items, strict=True))
        return x + 0.1 * torch.randn_like(x), y

    generator = torch.Generator().manual_seed(5)
    return torch.utils.data.DataLoader(whole, 32, shuffle=True, generator=generator, collate_fn=noisy)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_at_the_same_weights(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))

    def run(kill: int) -> int:
        command = [sys.executable, str(script), str(tmp_path), str(kill)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=False).returncode

    # In the middle of the first epoch, then, counted anew from step 3, of the third.
    assert run(6) == -signal.SIGKILL
    assert run(17) == -signal.SIGKILL
    assert not (tmp_path / "done.fxopt").exists()
    assert run(0) == 0
    resumed = fxopt.load(tmp_path / "done.fxopt")
    _, student, data = pair()
    straight = fxopt.finetune(
        student, loader_of(data), loss=cross_entropy, epochs=4, learning_rate=0.01, metric=Score(data)
    )  # type: ignore[arg-type]
    assert isinstance(resumed, fxopt.Program)
    assert same_weights(resumed, straight)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    _, student, data = pair()
    calls = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return cross_entropy(output, target)

    first = fxopt.finetune(student, data, loss=loss, epochs=2, checkpoint=tmp_path)
    assert len(calls) == 16
    assert same_weights(first, fxopt.finetune(student, data, loss=loss, epochs=2, checkpoint=tmp_path))
    assert len(calls) == 16
    with pytest.raises(fxopt.ArtifactError, match="is of another run: its epochs is 2, this one has 3"):
        fxopt.finetune(student, data, loss=loss, epochs=3, checkpoint=tmp_path)


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    _, student, data = pair()
    fxopt.finetune(student, data, loss=cross_entropy, epochs=1, checkpoint=tmp_path)
    path = tmp_path / CHECKPOINT
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(fxopt.ArtifactError, match="can't read"):
        fxopt.finetune(student, data, loss=cross_entropy, epochs=1, checkpoint=tmp_path)


def failing(run: object) -> float:
    raise ValueError("no test set")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": failing}, "metric failed at test_loop.py:"),
        ({"metric": failing}, "ValueError: no test set"),
        ({"metric": lambda run: "high"}, "metric returned a str; expected a number"),
        ({"metric": lambda run: float("nan")}, "is nan at epoch 1"),
        ({"metric": 3}, "metric is 3; expected a function that scores a callable"),
        ({"log": print}, "log is <built-in function print>; expected a folder for TensorBoard"),
        ({"epochs": 0}, "epochs is 0; expected a whole number from 1"),
        ({"loss": 3}, "loss is 3; expected a function of output and target"),
        (
            {"loss": lambda o, t: o},
            "loss returned a tensor of shape (32, 3); expected a tensor of one number",
        ),
        ({"loss": lambda o, t: o @ o}, "loss failed at test_loop.py:"),
        ({"optimizer": lambda p: 3}, "optimizer made a int; expected a torch.optim.Optimizer"),
        ({"schedule": "linear"}, "schedule is 'linear'; expected 'cosine', 'constant' or a function"),
        ({"regularizer": "lasso"}, "unknown regularizer 'lasso'; did you mean 'group-lasso'?"),
        ({"regularizer": "bn-l1"}, "the program has no BatchNorm with a scale"),
        ({"strength": -1}, "strength is -1; expected a number from 0"),
        ({"validation": []}, "validation is empty"),
        ({"data": []}, "data is empty: there is nothing to train on"),
        ({"data": torch.zeros(3)}, "data is a Tensor; expected batches"),
        ({"data": [(torch.zeros(2, 6),)]}, "an item of data has no target"),
        (
            {"data": [(torch.zeros(2, 6), 1, 2)]},
            "batch 0 of data has 3 entries; expected (input) or (input, target)",
        ),
        ({"data": [(torch.zeros(2, 5), torch.zeros(2))]}, "has size 5 at axis 1, expected 6"),
    ],
)
def test_mistakes(options: dict[str, object], message: str) -> None:
    _, student, data = pair()
    given = {"data": data, "loss": cross_entropy, "epochs": 1, **options}
    with pytest.raises(fxopt.InputError) as caught:
        fxopt.finetune(student, **given)  # type: ignore[arg-type]  # drawn by name
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_that_can_be_read_once_is_kept() -> None:
    _, student, data = pair()
    once = fxopt.finetune(student, iter(data), loss=cross_entropy, epochs=3)
    assert same_weights(once, fxopt.finetune(student, data, loss=cross_entropy, epochs=3))


def test_items_by_name() -> None:
    _, student, data = pair()
    named = [{"input": x, "labels": y} for x, y in data]
    first = fxopt.finetune(student, named, loss=cross_entropy, epochs=1)
    assert same_weights(first, fxopt.finetune(student, data, loss=cross_entropy, epochs=1))
