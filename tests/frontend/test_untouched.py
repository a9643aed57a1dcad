import pytest
import torch
from torch import nn

from fxopt.frontend.untouched import Snapshot, inference_mode


class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.BatchNorm1d(3)
        self.count, self.word, self.log, self.table, self.seen = 0, "a", [1], {"k": 1}, {1}
        self.cache = None


def change(model: Stateful) -> None:
    model.count += 1
    model.word = "b"
    model.log.append(2)
    model.table["new"] = torch.ones(1)
    del model.table["k"]
    model.seen.add(2)
    model.cache = torch.ones(3)
    model.extra = 5
    model.inner.late = torch.ones(1)
    model.inner.register_buffer("more", torch.ones(1))


def test_everything_is_put_back():
    model = Stateful()
    log, table, seen, buffers = model.log, model.table, model.seen, dict(model.inner._buffers)
    snapshot = Snapshot(model)
    change(model)
    assert snapshot.assigned() == ["count", "word", "cache", "extra", "inner.late"]
    snapshot.restore()
    assert (model.count, model.word, model.cache) == (0, "a", None)
    assert (model.log, model.table, model.seen) == ([1], {"k": 1}, {1})
    assert (model.log is log, model.table is table, model.seen is seen) == (True, True, True)
    assert not hasattr(model, "extra")
    assert not hasattr(model.inner, "late")
    assert dict(model.inner._buffers) == buffers
    assert snapshot.assigned() == []


def test_the_same_value_again_is_no_assignment():
    model = Stateful()
    snapshot = Snapshot(model)
    model.word = "".join(["a"])
    model.count = 0
    assert snapshot.assigned() == []
    model.count = False
    assert snapshot.assigned() == ["count"]


def test_modes_inside_and_after_also_if_it_fails():
    model = Stateful()
    model.inner.eval()

    def fail() -> None:
        assert not any(m.training for m in model.modules())
        assert not torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        change(model)
        raise KeyError("inside")

    with (
        torch.autocast("cpu"),
        pytest.warns(UserWarning, match="training mode"),
        pytest.raises(KeyError),
        inference_mode(model),
    ):
        fail()
    assert (model.training, model.inner.training) == (True, False)
    assert model.count == 0
    assert torch.is_grad_enabled()


def test_weights_made_in_inference_mode_are_used_in_it():
    with torch.inference_mode():
        model = nn.Linear(2, 2).eval()
    with inference_mode(model):
        assert torch.is_inference_mode_enabled()
    assert not torch.is_inference_mode_enabled()
