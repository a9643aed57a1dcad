"""`fxopt passes`."""

import pytest

import fxopt
from fxopt.cli import main
from fxopt.pipeline import registry


class ScaleByHalf(fxopt.Pass):
    """Scales by a half.

    Before: x. After: x / 2.
    """

    contract = fxopt.Contract.APPROXIMATE
    establishes = frozenset({"halved"})
    needs_calibration = True
    factor: float = 0.5
    """How much is left."""

    def run(self, rewriter: fxopt.Rewriter) -> None: ...


def test_the_catalogue_has_every_pass_and_pipeline(capsys: pytest.CaptureFixture[str]):
    assert main(["passes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, cls in registry.all().items():
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert f" {cls.contract.value} " in line
        assert cls.summary()[:20] in line
    for name in ("O0", "clean", "O1"):
        assert any(line.startswith(f"{name} ") for line in lines)


def test_one_pass_in_full(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_passes", registry.all() | {"scale-by-half": ScaleByHalf})
    assert main(["passes", "scale-by-half"]) == 0
    text = capsys.readouterr().out
    for part in (
        "Scales by a half.",
        "Before: x. After: x / 2.",
        "approximate",
        "halved",
        "needed",
        "How much is left.",
    ):
        assert part in text
    assert "factor  float  0.5" in text


def test_a_named_pipeline_is_written_out(capsys: pytest.CaptureFixture[str]):
    assert main(["passes", "O1"]) == 0
    assert capsys.readouterr().out.strip() == fxopt.PassManager.parse("O1").expand()
