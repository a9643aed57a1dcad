import warnings

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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) if self.training else x


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
    model.inner.running_mean.add_(2)


def test_everything_is_put_back():
    model = Stateful()
    log, table, seen, buffers = model.log, model.table, model.seen, dict(model.inner._buffers)
    snapshot = Snapshot(model)
    change(model)
    assert snapshot.changed() == [
        *("count", "word", "log", "table", "seen", "cache", "extra"),
        *("inner.late", "inner.running_mean", "inner.more"),
    ]
    snapshot.restore()
    assert (model.count, model.word, model.cache) == (0, "a", None)
    assert (model.log, model.table, model.seen) == ([1], {"k": 1}, {1})
    assert (model.log is log, model.table is table, model.seen is seen) == (True, True, True)
    assert not hasattr(model, "extra")
    assert not hasattr(model.inner, "late")
    assert {k: id(b) for k, b in model.inner.named_buffers()} == {k: id(b) for k, b in buffers.items()}
    assert torch.equal(model.inner.running_mean, torch.zeros(3))
    assert snapshot.changed() == []


def test_the_same_value_again_is_no_assignment():
    model = Stateful()
    snapshot = Snapshot(model)
    model.word = "".join(["a"])
    model.count = 0
    assert snapshot.changed() == []
    model.count = False
    assert snapshot.changed() == ["count"]


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


def test_what_containers_hold_is_put_back_at_any_depth():
    model = nn.Module()
    model.caches = [{"keys": torch.zeros(2), "lengths": [1]}]
    keys = model.caches[0]["keys"]
    snapshot = Snapshot(model)
    keys.add_(1)
    assert snapshot.changed() == ["caches"]
    model.caches[0]["lengths"][0] = 5
    model.caches[0]["more"] = 1
    snapshot.restore()
    assert snapshot.changed() == []
    assert model.caches == [{"keys": keys, "lengths": [1]}]
    assert torch.equal(keys, torch.zeros(2))


@pytest.mark.parametrize("inference", [False, True])
def test_a_tensor_of_another_size_and_one_with_nan_are_put_back(inference: bool):
    with torch.inference_mode(inference):
        kept = torch.tensor([1.0, torch.nan])
    model = nn.Module()
    model.register_buffer("b", kept)
    snapshot = Snapshot(model)
    assert snapshot.changed() == []
    with torch.inference_mode(inference):
        kept[0] = 3
    assert snapshot.changed() == ["b"]
    snapshot.restore()
    assert snapshot.changed() == []
    if not inference:
        kept.resize_(5)
        snapshot.restore()
        assert kept.shape == (2,)
    assert float(kept[0]) == 1


class Own(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, training=self.training)


@pytest.mark.parametrize(
    ("module", "warns"),
    [
        (nn.Linear(3, 3), False),
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU()), False),
        (nn.LSTM(3, 3, num_layers=2), False),
        (nn.Dropout(0.0), False),
        (nn.LSTM(3, 3, num_layers=2, dropout=0.1), True),
        (nn.Sequential(nn.Linear(3, 3), nn.Dropout()), True),
        (nn.Sequential(nn.BatchNorm1d(3)), True),
        (Own(), True),
    ],
)
def test_training_mode_is_told_where_it_computes_something_else(module: nn.Module, warns: bool):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with inference_mode(module):
            assert not module.training
    assert len(caught) == warns
    assert module.training
