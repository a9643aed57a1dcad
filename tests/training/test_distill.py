"""A student learns what a teacher says, whatever the teacher is."""

from pathlib import Path

import pytest
import torch
from torch import nn

import fxopt
from tests.training.taught import agreement, pair, same_weights

OPTIONS = {"epochs": 12, "learning_rate": 0.02}


@pytest.mark.parametrize("labels", [True, False])
def test_a_student_learns(labels: bool) -> None:
    teacher, student, data = pair()
    items = data if labels else [item[:1] for item in data]
    before = agreement(teacher, student)
    weights = {n: w.clone() for n, w in student.weights.items()}
    taught = fxopt.distill(teacher, student, items, **OPTIONS)
    assert agreement(teacher, taught) > max(0.85, before)
    assert all(torch.equal(w, weights[n]) for n, w in student.weights.items())
    assert taught.history[-1].startswith("distill(epochs=12, learning_rate=0.02")
    assert all(isinstance(w, nn.Parameter) for w in taught.weights.values())


def test_teachers_of_every_kind(tmp_path: Path) -> None:
    teacher, student, data = pair()
    program = fxopt.trace(teacher, (data[0][0],), dynamic_shapes=({0: "batch"},))
    path = tmp_path / "teacher.pt"
    script = fxopt.lower(program, "torchscript", path=path)
    onnx = fxopt.lower(program, "onnx")
    taught = [
        fxopt.distill(kind, student, data, epochs=2)
        for kind in (teacher, program, script, onnx, str(path), lambda x: teacher(x))
    ]
    first = taught[0]
    x = data[0][0]
    for other in taught[1:]:
        torch.testing.assert_close(other(x), first(x), rtol=1e-3, atol=1e-4)


def test_the_teacher_is_as_it_was() -> None:
    teacher, student, data = pair()
    teacher.train()
    teacher[1].eval()
    before = {n: w.clone() for n, w in teacher.state_dict().items()}
    fxopt.distill(teacher, student, data, epochs=1, features={"0": "0"})
    assert [m.training for m in teacher.modules()] == [True, True, False, True]
    assert all(torch.equal(w, before[n]) for n, w in teacher.state_dict().items())
    assert not teacher[0]._forward_hooks


def test_a_loss_of_the_users() -> None:
    teacher, student, data = pair()
    seen: list[tuple[object, object]] = []

    def loss(output: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        seen.append((output.shape, said.shape))
        return (output - said).abs().mean()

    taught = fxopt.distill(teacher, student, data, loss=loss, alpha=1.0, **OPTIONS)
    assert set(seen) == {(torch.Size([32, 3]), torch.Size([32, 3]))}
    assert agreement(teacher, taught) > 0.85


def test_the_seed_decides() -> None:
    teacher, student, data = pair()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*(torch.cat(c) for c in zip(*data, strict=True))), 32, shuffle=True
    )
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = fxopt.distill(teacher, student, loader, epochs=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert same_weights(first, fxopt.distill(teacher, student, loader, epochs=2))
    assert not same_weights(first, fxopt.distill(teacher, student, loader, epochs=2, seed=1))


def test_the_result_lowers_and_verifies() -> None:
    teacher, student, data = pair()
    taught = fxopt.distill(teacher, student, data, epochs=1)
    for target in ("eager", "torchscript", "onnx"):
        artifact = fxopt.lower(fxopt.run_pipeline(taught, "O1"), target)
        assert fxopt.verify(taught, artifact).ok


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "hinge"}, "loss is 'hinge'; expected 'kl', 'mse' or a function"),
        ({"temperature": 0.0}, "temperature is 0.0; expected a number above 0"),
        ({"alpha": 1.5}, "alpha is 1.5; expected a part from 0 to 1"),
        ({"epoch": 3}, "unknown option 'epoch'; did you mean 'epochs'?"),
        ({"features": "0"}, "features is '0'; expected a list of module paths"),
        ({"features": ["9"]}, "no call of the program stands in a module '9'"),
        ({"features": {"0": "7"}}, "the teacher has no module '7'"),
        ({"features": {"3": "0"}}, None),
        ({"freeze": ["9.*"]}, "no weight is named '9.*'; they are 0.weight"),
        ({"freeze": ["*"]}, "no weight of the program trains"),
        ({"device": "cuda:77"}, "the device 'cuda:77' can't be used"),
    ],
)
def test_mistakes(change: dict[str, object], message: str | None) -> None:
    teacher, student, data = pair()
    if message is None:
        fxopt.distill(teacher, student, data, epochs=1, **change)  # type: ignore[arg-type]  # drawn by name
        return
    with pytest.raises(fxopt.InputError) as caught:
        fxopt.distill(teacher, student, data, **{"epochs": 1, **change})  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_teacher_and_student_that_disagree() -> None:
    _, student, data = pair()
    wide = nn.Linear(6, 4)
    with pytest.raises(
        fxopt.InputError, match=r"output 0 of the teacher has shape \(32, 4\), the student's \(32, 3\)"
    ):
        fxopt.distill(wide, student, data)
    with pytest.raises(fxopt.InputError, match="the teacher returns 2 tensors of floats, the student 1"):
        fxopt.distill(lambda x: (x, x), student, data)
    with pytest.raises(fxopt.InputError, match=r"the teacher failed.*RuntimeError: mat1 and mat2"):
        fxopt.distill(nn.Linear(5, 3), student, data)
    with pytest.raises(fxopt.InputError, match="the teacher is a int; expected a module"):
        fxopt.distill(3, student, data)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(fxopt.InputError, match="data is empty: there is nothing to train on"):
        fxopt.distill(nn.Linear(6, 3), student, [])
    with pytest.raises(fxopt.InputError, match="distill takes a Program, got a Linear"):
        fxopt.distill(wide, wide, data)  # type: ignore[arg-type]  # the mistake
