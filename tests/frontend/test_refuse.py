import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxopt.errors import TraceError
from fxopt.frontend.refuse import check_captured, is_training
from tests.frontend.good_models import Function, noise


def graph(function, *args: torch.Tensor) -> torch.fx.Graph:
    return torch.export.export(Function(function).eval(), args or (noise(1, 2, 4, 8),)).graph


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: F.dropout(x, 0.0, training=True),
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: F.instance_norm(x),
        lambda x: F.rrelu(x),
        lambda x: x.sort()[0],
        lambda x: torch.view_as_complex(x.reshape(-1, 2)).abs(),
    ],
)
def test_inference_passes(function):
    check_captured(graph(function))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: F.dropout2d(x, 0.5), "training op aten.feature_dropout"),
        (lambda x: F.alpha_dropout(x, 0.5, training=True), "training op aten.alpha_dropout"),
        (lambda x: F.rrelu(x, training=True), "training op aten.rrelu"),
        (lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5), "random numbers (aten.scaled_dot"),
        (lambda x: F.gumbel_softmax(x), "random numbers (aten.exponential_"),
        (lambda x: torch.normal(x, 1.0), "random numbers (aten.normal"),
        (lambda x: x + torch.randint(0, 5, (1,)), "random numbers (aten.randint"),
        (
            lambda x: F.instance_norm(x, torch.zeros(2), torch.ones(2)),
            "training op aten.instance_norm",
        ),
    ],
)
def test_the_rest_is_refused(function, says: str):
    with pytest.raises(TraceError) as caught:
        check_captured(graph(function))
    assert says in str(caught.value)


@pytest.mark.parametrize(("dropout", "trains"), [(0.0, False), (0.5, True)])
def test_an_lstm_that_trains_without_dropout_computes_the_same(dropout: float, trains: bool):
    weights = list(nn.LSTM(8, 4).parameters())
    states = [torch.zeros(1, 3, 4)] * 2
    made = graph(
        lambda x: torch.lstm(x, states, weights, True, 1, dropout, True, False, False)[0], noise(2, 3, 8)
    )
    [call] = [n for n in made.nodes if n.target is torch.ops.aten.lstm.input]
    assert is_training(call) is trains
