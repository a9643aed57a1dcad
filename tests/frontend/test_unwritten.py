"""Memory that a model leaves open is fine where the model writes all of it, and refused always where it does not."""

import pytest
import torch

from fxopt.errors import TraceError
from fxopt.frontend import trace
from fxopt.frontend.unwritten import filled, unwritten
from tests.frontend.good_models import Function, noise


def returned(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def half_written(x: torch.Tensor) -> torch.Tensor:
    y = x.new_empty(4, 3)
    y[:2] = x[:2]
    return y


def written(x: torch.Tensor) -> torch.Tensor:
    y = torch.empty(4, 3)
    y[:2], y[2:] = x[:2], x[2:] * 2
    return y


@pytest.mark.parametrize("function", [returned, half_written])
def test_a_result_that_depends_on_it_is_refused(function):
    """Even where memory happens to hold zeros, as a program has them."""
    with pytest.raises(TraceError, match=r"memory that it does not write \(test_unwritten\.py:\d+\)"):
        trace(Function(function).eval(), (torch.zeros(4, 3),))


def test_what_is_written_is_taken():
    program = trace(Function(written).eval(), (noise(4, 3),))
    assert unwritten(program) is not None
    assert torch.equal(program(noise(4, 3)), written(noise(4, 3)))


def test_every_factory_is_filled():
    x = torch.zeros(2)
    with filled():
        made = [torch.empty(2), torch.empty_like(x), torch.empty_strided((2,), (1,)), x.new_empty(2)]
        made += [torch.empty_permuted((2,), (0,)), x.new_empty_strided((2,), (1,))]
    assert all(bool((m == 1).all()) for m in made)
