"""A model on another device; the CPU stands for it where there is no other."""

import pytest
import torch

import fxopt
from fxopt.errors import InputError
from fxopt.lowering.elsewhere import Elsewhere
from tests.distributed.models import ids, words

DEVICES = [
    "cpu",
    pytest.param("cuda:0", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_go_there_and_come_back(device: str) -> None:
    for model in (words(), fxopt.lower(words(), "eager", verify=False)):
        there = Elsewhere(model, torch.device(device))
        got, expected = there(ids(3)), words()(ids(3))
        assert isinstance(got, dict) and isinstance(expected, dict)
        assert torch.equal(got["twice"], expected["twice"])
        torch.testing.assert_close(got["mean"], expected["mean"])
        assert there.model is not model


def test_what_the_model_does_not_take_is_told_as_ever() -> None:
    there = Elsewhere(fxopt.lower(words(), "eager", verify=False), torch.device("cpu"))
    with pytest.raises(InputError, match=r"can't be run with batch = 1, length = 5: index out of range"):
        there(ids(1) + 50)


def test_what_does_not_move_says_so() -> None:
    with pytest.raises(InputError, match="onnx artifacts run on the CPU"):
        Elsewhere(fxopt.lower(words(), "onnx", verify=False), torch.device("cuda:0"))
