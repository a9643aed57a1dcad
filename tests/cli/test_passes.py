"""`fxopt passes`."""

import json
from pathlib import Path

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


def test_json(capsys: pytest.CaptureFixture[str]):
    assert main(["passes", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [p["name"] for p in data["passes"]] == list(registry.all())
    assert data["pipelines"]["O1"] == fxopt.PassManager.parse("O1").expand()
    assert main(["passes", "eliminate-identities", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one in data["passes"]
    assert "exact" in [o["name"] for o in one["options"]]


def test_a_plugins_pass_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "import fxopt\n\n@fxopt.register_pass\nclass MineAlone(fxopt.Pass):\n    '''Does nothing of note.'''\n"
        "    def run(self, rewriter):\n        pass\n"
    )
    assert main(["passes", "mine-alone", "--plugin", str(plugin)]) == 0
    assert "Does nothing of note." in capsys.readouterr().out
