from pathlib import Path

import pytest
import torch
from torch import nn

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


class Named(nn.Module):
    """Subtracts, which shows a mixed order, scales, and returns containers."""

    def forward(
        self, x: torch.Tensor, y: torch.Tensor | None = None, scale: float = 1.0, *, flag: bool = True
    ) -> dict[str, object]:
        assert y is not None
        return {"d": x - 2 * y * scale, "rest": (x + 1, None)}


def named() -> QuickArtifact:
    dynamic = {"x": {0: "batch"}, "y": {0: "batch"}}
    call = {"y": torch.zeros(3, 2), "scale": 1.0, "flag": True}
    made = lower(
        trace(Named().eval(), (torch.ones(3, 2),), call, dynamic_shapes=dynamic), "eager", verify=False
    )
    assert isinstance(made, QuickArtifact)
    return made


def test_calls_by_name_are_checked_once_a_kind(monkeypatch: pytest.MonkeyPatch):
    made = named()
    checks = count_checks(made, monkeypatch)
    for batch in (2, 4, 2, 4):
        x, y = torch.randn(batch, 2), torch.randn(batch, 2)
        calls = ((x,), {"y": y}), ((x, y), {}), ((), {"y": y, "x": x}), ((x, y, 1.0), {"flag": True})
        for args, kwargs in calls:
            result = made(*args, **kwargs)
            assert list(result) == ["d", "rest"]  # type: ignore[call-overload]
            assert torch.equal(result["d"], x - y * 2)  # type: ignore[index]
            assert torch.equal(result["rest"][0], x + 1)  # type: ignore[index]
            assert result["rest"][1] is None  # type: ignore[index]
    assert len(checks) == 8


def test_one_tensor_in_two_places_does_not_mix_up_later_calls():
    made = named()
    x, y = torch.randn(3, 2), torch.randn(3, 2)
    for first, second in ((x, x), (x, y), (y, x), (x, x)):
        assert torch.equal(made(first, second)["d"], first - second * 2)  # type: ignore[index]


def test_mistakes_by_name_are_refused_each_time():
    made = named()
    x = torch.randn(3, 2)
    made(x, y=x.clone())
    for _ in range(2):
        for wrong in (
            {"y": torch.zeros(4, 2)},
            {"y": x.double()},
            {"z": x},
            {"y": x, "flag": 1},
            {"y": 3},
            {},
        ):
            with pytest.raises(InputError):
                made(x, **wrong)


def test_constants_are_checked_each_time():
    program = trace(Call(lambda x, k: x * k), (torch.ones(2), 4))
    made = lower(program, "eager", verify=False)
    made(torch.ones(2), 4)
    with pytest.raises(InputError, match="fixed at 4"):
        made(torch.ones(2), 5)
