"""The bare file, loaded by torch alone, refuses sizes that the program was not traced for."""

import pytest
import torch
from torch import nn

from fxopt.frontend import trace
from fxopt.lowering import lower

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Branches(nn.Module):
    def forward(self, x, y):
        return x.sum(0) + y if x.shape[1] > 5 else x.mean(0) + y


class Fixed(nn.Module):
    def forward(self, x):
        return x * x.shape[0]


class Doubled(nn.Module):
    def forward(self, x, y):
        return torch.cat([x, x]) + y


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    def bare(module, args, dynamic_shapes=None) -> torch.jit.ScriptModule:
        path = tmp_path_factory.mktemp("guards") / "model.pt"
        lower(trace(module.eval(), args, dynamic_shapes=dynamic_shapes), "torchscript", path=path)
        return torch.jit.load(path)

    return bare


@pytest.mark.filterwarnings("ignore:the model goes another way")
@pytest.mark.parametrize("frozen", [False, True])
def test_a_range_that_the_model_narrows(load, frozen: bool):
    x, y = torch.ones(4, 8), torch.ones(8)
    script = load(Branches(), (x, y), {"x": {0: "b", 1: "n"}, "y": {0: "n"}})
    if frozen:
        script = torch.jit.optimize_for_inference(script.eval())
    assert torch.equal(script(torch.ones(3, 6), torch.ones(6))[0], torch.full((6,), 4.0))
    with pytest.raises(torch.jit.Error, match="the dynamic size n is taken from 6"):
        script(torch.ones(4, 3), torch.ones(3))
    with pytest.raises(torch.jit.Error, match=r"sizes are not those of y: f32\[n\]"):
        script(x, torch.ones(1))
    with pytest.raises(torch.jit.Error, match=r"not the dimensions of x: f32\[b, n\]"):
        script(y, y)


def test_a_fixed_size(load):
    script = load(Fixed(), (torch.ones(4),))
    assert torch.equal(script(torch.ones(4))[0], torch.full((4,), 4.0))
    with pytest.raises(torch.jit.Error, match=r"sizes are not those of x: f32\[4\]"):
        script(torch.ones(3))


def test_a_size_that_follows_from_another(load):
    script = load(Doubled(), (torch.ones(4), torch.ones(8)), {"x": {0: "n"}, "y": {0: "2*n"}})
    assert torch.equal(script(torch.ones(3), torch.ones(6))[0], torch.full((6,), 2.0))
    with pytest.raises(torch.jit.Error, match="sizes are not those of y"):
        script(torch.ones(3), torch.ones(1))
