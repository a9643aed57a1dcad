"""torch's functional API on every target, static and with a dynamic batch, as a user would bring it."""

import pytest

from fxopt.frontend import trace
from fxopt.lowering import lower
from fxopt.pipeline import PassManager
from fxopt.report import Verdict, VerifyReport
from tests.functional_models import MODELS

pytestmark = pytest.mark.filterwarnings(
    "ignore:the model goes another way",  # with a batch of 1, for one
    "ignore:.*degrees of freedom",
    "ignore:nn.functional.upsample is deprecated",
)


SLOW = ("linear_algebra", "special_functions", "interpolate")


@pytest.mark.parametrize(
    "dynamic", [pytest.param(False, id="static", marks=pytest.mark.slow), pytest.param(True, id="dynamic")]
)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in MODELS]
)
def test_a_family_of_functions_on_every_target(name: str, dynamic: bool):
    model = MODELS[name]
    if dynamic and not model.dynamic:
        pytest.skip("its batch can't vary")
    module, inputs = model.build()
    sizes = [{0: "batch"} for _ in inputs]
    shapes = tuple(sizes) if model.module else {f"inputs_{i}": size for i, size in enumerate(sizes)}
    original = trace(module, inputs, dynamic_shapes=shapes if dynamic else None)
    program = PassManager.parse("O1").run(original).program
    for target, opset in (("eager", None), ("torchscript", None), ("onnx", None), ("onnx", 18)):
        report = lower(program, target, reference=original, opset=opset).report
        assert isinstance(report, VerifyReport)
        assert report.verdict is Verdict.EQUIVALENT, f"{target}: {report.reason}"
