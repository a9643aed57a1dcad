"""Models of many libraries on every target, as a user would bring them: traced, rewritten by O1, lowered, verified."""

import inspect

import pytest

from fxopt.frontend import trace
from fxopt.lowering import lower
from fxopt.pipeline import PassManager
from tests.catalogue import CASES

FAST = ("distilbert", "t5")
SLOW = (
    "roberta", "electra", "albert", "mpnet", "deberta-v2", "modernbert", "xlnet", "bert-answers", "clip-text",
    "gpt-neo", "gptj", "opt", "bloom", "falcon", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi",
    "phi3", "glm", "openai-gpt", "bart", "pegasus", "whisper", "deit", "beit", "swin", "swinv2", "convnext",
    "segformer", "mobilevit", "mobilenet-v2", "dinov2", "hiera", "detr", "clip", "owlvit", "videomae", "wav2vec2",
    "hubert", "wavlm", "ast", "patchtst", "cv-mobilenetv3_small_w7d20", "cv-seresnet10", "cv-regnetx002",
    "flaubert", "fnet", "mamba2", "cv-squeezeresnet_v1_1", "cv-ghostnet", "cv-shufflenet_g3_wd4", "cv-darknet_tiny",
    "deberta", "encodec",
)  # fmt: skip


def _sizes(name: str, forward) -> dict[str, object]:
    """The case's dynamic sizes, by the model's own argument names."""
    case = CASES[name]
    return (
        {next(iter(inspect.signature(forward).parameters)): {0: "batch"}}
        if case.group == "cnn"
        else case.dynamic
    )


@pytest.mark.filterwarnings("ignore:the model (goes another way|treats)")  # some do, and say so
@pytest.mark.parametrize("name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_a_model_on_every_target(name: str):
    module, args, kwargs = CASES[name].build()
    original = trace(module, args, kwargs, dynamic_shapes=_sizes(name, module.forward))
    program = PassManager.parse("O1").run(original).program
    for target in ("eager", "torchscript", "onnx"):
        report = lower(program, target, reference=original).report
        assert report.ok, f"{target}: {report.reason}"
