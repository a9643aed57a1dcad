from pathlib import Path

import pytest
import torch

from fxopt.errors import InputError
from fxopt.frontend import trace
from fxopt.lowering import lower
from fxopt.lowering.quick import QuickArtifact
from tests.lowering.cases import CASES, Call
from tests.traced import traced


def artifact(name: str = "mlp") -> QuickArtifact:
    made = lower(traced(name, True), "eager", verify=False)
    assert isinstance(made, QuickArtifact)
    return made


def count_checks(made: QuickArtifact, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    checks: list[object] = []
    original = type(made.signature).flatten_inputs

    def counting(self: object, args: tuple[object, ...], kwargs: dict[str, object] | None = None) -> object:
        checks.append(args)
        return original(self, args, kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(type(made.signature), "flatten_inputs", counting)
    return checks


def test_a_kind_of_call_is_checked_once(monkeypatch: pytest.MonkeyPatch):
    made = artifact()
    checks = count_checks(made, monkeypatch)
    for batch in (2, 3, 2, 3, 2):
        x = torch.randn(batch, 64)
        assert torch.equal(made(x), traced("mlp", True).graph_module(x)[0])  # type: ignore[arg-type]
    assert len(checks) == 2


def test_what_was_refused_is_refused_again():
    made = artifact()
    made(torch.zeros(2, 64))
    for _ in range(3):
        for wrong in (torch.zeros(2, 65), torch.zeros(2, 64, dtype=torch.float64), torch.zeros(64), 3, None):
            with pytest.raises(InputError):
                made(wrong)
        with pytest.raises(InputError):
            made(torch.zeros(2, 64), torch.zeros(2, 64))
        with pytest.raises(InputError):
            made()


def test_names_are_taken_too():
    made = artifact()
    x = torch.randn(2, 64)
    assert torch.equal(made(input=x), made(x))  # type: ignore[arg-type]


def test_only_so_many_kinds_are_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fxopt.lowering.quick._MOST", 3)
    made = artifact()
    for batch in range(2, 9):
        assert made(torch.zeros(batch, 64)).shape == (batch, 10)  # type: ignore[attr-defined]
    assert len(made._taken) == 3


def test_an_array_is_no_tensor():
    made = artifact()
    made(torch.zeros(2, 64))
    with pytest.raises(InputError):
        made(torch.zeros(2, 64).numpy())


@pytest.mark.parametrize("name", ["outputs", "dropout", "nothing", "no input"])
def test_containers_come_back_each_time(name: str, tmp_path: Path):
    module, args, shapes = CASES[name]
    program = trace(module, args, dynamic_shapes=shapes)
    made = lower(program, "torchscript", verify=False)
    expected = str(program(*args))
    for _ in range(3):
        assert str(made(*args)) == expected


def test_constants_are_checked_each_time():
    program = trace(Call(lambda x, k: x * k), (torch.ones(2), 4))
    made = lower(program, "eager", verify=False)
    made(torch.ones(2), 4)
    with pytest.raises(InputError, match="fixed at 4"):
        made(torch.ones(2), 5)
