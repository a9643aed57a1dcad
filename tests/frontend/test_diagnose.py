import pytest
import torch
from torch import nn

from fxopt.errors import TraceError
from fxopt.frontend import trace
from fxopt.frontend.diagnose import first_line, trace_error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("bad\nmore"), "ValueError: bad"),
        (KeyError("k"), "KeyError: 'k'"),
        (StopIteration(), "StopIteration"),
        (RuntimeError("\n\n  indented  \n"), "RuntimeError: indented"),
        (
            AttributeError("'FakeTensor' object has no attribute 'x'"),
            "AttributeError: 'Tensor' object has no attribute 'x'",
        ),
        (RuntimeError("Constraints violated (n)! see logs\n  - n is 4\n"), "RuntimeError: n is 4"),
    ],
)
def test_the_first_line(error: Exception, expected: str):
    assert first_line(error) == expected


def test_long_texts_are_cut():
    assert len(first_line(ValueError("x" * 999))) < 330


def caught(cause: Exception, *, wrapped: bool = False) -> TraceError:
    def model():
        raise cause

    try:
        try:
            model()
        except Exception as error:
            if not wrapped:
                raise
            raise RuntimeError("something of torch's") from error
    except Exception as error:  # the chain as a tracer sees it
        return trace_error(error)


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_place_and_words_of_the_first_cause(wrapped: bool):
    line = caught.__code__.co_firstlineno + 2
    assert str(caught(ValueError("bad"), wrapped=wrapped)) == (
        f"the model can't be traced at {__file__}:{line} (raise cause): ValueError: bad"
    )


def test_a_users_word_numpy_is_no_numpy_in_forward():
    assert "numpy file is missing" in str(caught(OSError("the numpy file is missing")))


def test_a_ring_of_causes_ends():
    error = ValueError("a")
    error.__context__ = other = KeyError("b")
    other.__context__ = error
    assert "KeyError: 'b'" in str(trace_error(error)) or "ValueError: a" in str(trace_error(error))


def test_what_the_caller_was_handling_is_not_the_cause():
    with pytest.raises(KeyError) as caught:
        {}["the caller's own"]
    outside = caught.value
    error = ValueError("bad")
    error.__context__ = outside
    assert "ValueError: bad" in str(trace_error(error, outside))
    assert "KeyError" in str(trace_error(error))


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(4, 3, batch_first=True)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0]


def test_packed_sequences_are_named():
    with pytest.raises(TraceError, match=r"test_diagnose.py.*lengths of a packed sequence.*mask its result"):
        trace(Packed().eval(), (torch.randn(3, 5, 4), torch.tensor([5, 3, 2])))


def test_a_layer_of_torch_is_named_where_nobody_else_is_on_the_stack():
    layer = nn.AdaptiveLogSoftmaxWithLoss(4, 9, [2, 5], div_value=1.0)
    with pytest.raises(TraceError, match=r"nn/modules/adaptive.py:\d+ .*depends on the values"):
        trace(layer.eval(), (torch.randn(3, 4), torch.tensor([1, 3, 8])))


class SomeCache:
    def __init__(self, keys: torch.Tensor) -> None:
        self.keys = keys


class Opaque:
    pass


@pytest.mark.parametrize(("made", "advice"), [(lambda x: SomeCache(x), True), (lambda x: Opaque(), False)])
def test_a_class_that_torch_cannot_look_into(made, advice: bool):
    class Returns(nn.Module):
        def forward(self, x):
            return x, made(x)

    with pytest.raises(
        TraceError, match=r"returns an? \w+, which torch can't look into: return tensors"
    ) as caught:
        trace(Returns().eval(), (torch.randn(3, 4),))
    assert str(caught.value).endswith("call the model with use_cache=False") is advice
