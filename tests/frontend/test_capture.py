import gc
import logging
import warnings
import weakref

import pytest
import torch
from torch import nn

from fxopt.errors import TraceError
from fxopt.frontend import trace
from fxopt.frontend.capture import _model_frame, capture, quiet_torch
from fxopt.frontend.inputs import example_inputs
from tests.frontend.good_models import noise


def test_torch_is_quiet_inside_and_as_before_after(caplog: pytest.LogCaptureFixture):
    logger, loud = logging.getLogger("torch.a.test"), logging.getLogger("torch.a.loud.test")
    loud.setLevel(logging.DEBUG)
    with quiet_torch():
        logger.error("hidden")
        loud.debug("somebody asked for this")
        logging.getLogger("mine").error("shown")
        warnings.warn("hidden", stacklevel=1)
    logger.error("back")
    assert [r.getMessage() for r in caplog.records if r.levelno > logging.DEBUG] == ["shown", "back"]
    assert "somebody asked for this" in caplog.text or loud.level == logging.DEBUG
    loud.setLevel(logging.NOTSET)


def test_nested_quiet():
    logger = logging.getLogger("torch.a.test")
    with quiet_torch():
        with quiet_torch():
            pass
        assert logger.disabled
    assert not logger.disabled


class Keywords(nn.Module):
    def forward(self, x, **more):
        return x + more["y"]


def test_nameless_keywords_can_be_dynamic():
    model = Keywords()
    example = example_inputs(
        model.forward, (noise(2, 3),), {"y": noise(2, 3)}, {"x": {0: "n"}, "y": {0: "n"}}
    )
    exported = capture(model, example)
    shapes = [n.meta["val"].shape for n in exported.graph.nodes if n.op == "placeholder"]
    assert all(isinstance(shape[0], torch.SymInt) for shape in shapes)
    assert "forward" not in vars(model)


def test_what_a_model_says_to_its_user_is_not_swallowed(capsys: pytest.CaptureFixture[str]):
    class Talks(nn.Module):
        def forward(self, x):
            print("tracing me")
            return x + 1

    model = Talks()
    capture(model, example_inputs(model.forward, (noise(2),), None, None))
    assert "tracing me" in capsys.readouterr().out


def test_an_error_keeps_its_cause():
    class Fails(nn.Module):
        def forward(self, x):
            raise OSError("no disk")

    model = Fails()
    with pytest.raises(TraceError, match="OSError: no disk") as caught:
        capture(model, example_inputs(model.forward, (noise(2),), None, None))
    assert isinstance(caught.value.__cause__, OSError)


def test_looking_for_a_frame_keeps_nothing_alive():
    """Else torch takes a model's constants for tensors that leaked out of it."""

    def look() -> weakref.ref[torch.Tensor]:
        tensor = torch.zeros(1)
        assert _model_frame(None) is not None
        return weakref.ref(tensor)

    gc.disable()
    try:
        assert look()() is None
    finally:
        gc.enable()


class Trimmed(nn.Module):
    def forward(self, x, mask):
        return x * mask[:, -x.shape[1] :]


def test_sizes_of_one_name_are_equal_from_the_start():
    shapes = {"x": {1: "n"}, "mask": {1: "n"}}
    program = trace(Trimmed(), (noise(2, 5), noise(2, 5)), dynamic_shapes=shapes)
    assert program(noise(2, 9), noise(2, 9)).shape == (2, 9)


def test_a_size_that_is_counted_to_is_named_by_its_line():
    class Loop(nn.Module):
        def forward(self, x, y):
            return [x[:, i] + y[:, i] for i in range(x.shape[1])]

    shapes = {"x": {1: "n"}, "y": {1: "n"}}
    with pytest.raises(
        TraceError, match=r"'n' .* is fixed at 5 by the model at .*test_capture.py:\d+ \(return "
    ):
        trace(Loop(), (noise(2, 5), noise(2, 5)), dynamic_shapes=shapes)


class Converting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        self.linear = self.linear.to(torch.float32).float()
        return self.linear(x)


def test_a_module_converted_in_forward_to_what_it_is():
    model = Converting().eval()
    assert trace(model, (noise(2, 3),)).weights.keys() == {"linear.weight", "linear.bias"}
    with pytest.raises(TraceError, match=r"self\.linear = self\.linear\.to"):
        trace(model.double(), (noise(2, 3).double(),))
