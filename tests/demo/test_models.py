"""The demo's models are really trained and really measured."""

import pytest
import torch

from fxopt.demo.models import DemoModel, digits, minilm


@pytest.fixture(scope="module")
def cnn() -> DemoModel:
    return digits()


def test_the_cnn_has_learned(cnn: DemoModel):
    assert cnn.least > 0.95
    assert cnn.measure(cnn.model) == cnn.least


def test_a_worse_cnn_measures_worse(cnn: DemoModel):
    assert cnn.measure(lambda x: torch.zeros(len(x), 10)) < 0.2


def test_training_leaves_the_callers_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    digits()
    assert torch.equal(torch.rand(1), expected)


def test_the_encoder_has_its_real_weights():
    demo = minilm()
    assert sum(p.numel() for p in demo.model.parameters()) == 22_713_216
    assert demo.measure(demo.model) == pytest.approx(1.0, abs=1e-5)
    ids, mask = demo.args
    assert not torch.equal(demo.model(ids, mask), demo.model(ids, torch.ones_like(mask)))  # padding matters
