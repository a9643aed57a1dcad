"""Torch's complaints about shapes that are only tried are dropped; others are heard."""

import logging

import pytest

from fxopt.rewriting.quiet import quiet

LOGGER = logging.getLogger("torch.fx.experimental.symbolic_shapes")


def heard(caplog: pytest.LogCaptureFixture) -> bool:
    caplog.clear()
    LOGGER.warning("a complaint")
    return bool(caplog.records)


def test_complaints_are_dropped_inside_and_heard_after(caplog: pytest.LogCaptureFixture):
    LOGGER.addHandler(caplog.handler)
    try:
        with quiet():
            with quiet():
                assert not heard(caplog)
            assert not heard(caplog)
        assert heard(caplog)
        with pytest.raises(ZeroDivisionError), quiet():
            raise ZeroDivisionError
        assert heard(caplog)
    finally:
        LOGGER.removeHandler(caplog.handler)
