"""The zoo as ONNX files: the same function at several batch sizes, as few nodes as can be expected."""

import pytest
import torch

from fxopt.frontend import trace
from fxopt.lowering.onnx.target import OnnxTarget
from tests import zoo
from tests.lowering.onnx.harness import assert_same, opened, resized

NODES = {
    "mlp": 4, "lstm": 10, "tied_encoder": 80, "unet": 72, "digits": 11, "bert": 98, "gpt2": 133, "llama": 185,
    "vit": 82, "convnext": 71, "squeezenet": 65, "shufflenetv2": 230, "mobilenetv2": 155, "resnet10": 41,
    "minilm": 226,
}  # fmt: skip
"""Of the unoptimised program with a dynamic batch, at opset 20. A rule that makes more has lost something."""


def verify(name: str, *, dynamic: bool, opset: int = 20) -> None:
    module, args = zoo.model(name)
    program = trace(module, args, dynamic_shapes=zoo.dynamic_batch(args) if dynamic else None)
    emitted = OnnxTarget().emit(program, opset=opset, optimize=False)
    artifact = opened(emitted)
    for batch in (None, 1, 3) if dynamic else (None,):
        inputs = list(args) if batch is None else resized(args, batch)
        for got, expected in zip(artifact.run_flat(inputs), program.run_flat(inputs), strict=True):
            assert_same(got, expected)
    if dynamic and opset == 20:
        from tests.lowering.onnx.harness import op_types

        assert len(op_types(emitted)) <= NODES[name]


@pytest.mark.parametrize("name", zoo.names())
def test_dynamic_batch(name):
    verify(name, dynamic=True)


@pytest.mark.parametrize("name", ["mlp", "digits", "resnet10", "bert", "lstm", "llama"])
def test_fixed_batch(name):
    verify(name, dynamic=False)


@pytest.mark.parametrize("opset", [18, 19, 21, 22, 23])
@pytest.mark.parametrize("name", ["unet", "bert", "tied_encoder"])
def test_other_opsets(name, opset):
    verify(name, dynamic=True, opset=opset)


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("name", ["bert", "tied_encoder", "llama"])
def test_dynamic_batch_and_length(name, opset):
    module, args = zoo.model(name)
    program = trace(module, args, dynamic_shapes=tuple({0: "batch", 1: "length"} for _ in args))
    emitted = OnnxTarget().emit(program, opset=opset)
    generator = torch.Generator().manual_seed(0)
    for content in filter(None, (emitted, emitted.fallback)):
        artifact = opened(content)
        for shape in ((2, 12), (1, 5), (3, 1), (4, 9)):
            # Ids, and a mask with rows that see nothing.
            inputs = [torch.randint(0, 2 if i else 50, shape, generator=generator) for i in range(len(args))]
            for got, expected in zip(artifact.run_flat(inputs), program.run_flat(inputs), strict=True):
                assert_same(got, expected)


def test_the_trained_digits_keep_their_accuracy():
    module, args = zoo.model("digits")
    _, _, images, labels = zoo.digits_data()
    program = trace(module, args, dynamic_shapes=zoo.dynamic_batch(args))
    artifact = opened(OnnxTarget().emit(program))
    with torch.no_grad():
        right = int((module(images).argmax(1) == labels).sum())
    found = artifact(images)
    assert isinstance(found, torch.Tensor)
    assert int((found.argmax(1) == labels).sum()) == right
