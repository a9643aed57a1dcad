"""The zoo on every target: traced, rewritten by O1, lowered, its file verified, static and with a dynamic batch."""

import pytest

from fxopt.lowering import lower
from fxopt.pipeline import PassManager
from fxopt.report import Verdict, VerifyReport
from tests import zoo
from tests.traced import traced

TARGETS = ("eager", "torchscript", "onnx")
FAST = ("mlp", "lstm", "tied_encoder", "digits")


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in zoo.names()]
)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_model_on_a_target(name: str, dynamic: bool, target: str):
    original = traced(name, dynamic)
    program = PassManager.parse("O1").run(original).program
    artifact = lower(program, target, reference=original)
    assert isinstance(artifact.report, VerifyReport)
    assert artifact.report.verdict is Verdict.EQUIVALENT
