"""Numbers in tensors: made of sizes and constants they are known, else they stay values."""

import pytest
import torch
from torch import nn

from fxopt.errors import TraceError
from fxopt.frontend import trace
from fxopt.frontend.numbers import _MOST
from fxopt.lowering import lower
from tests.frontend.good_models import Function, noise

SIZES = {"x": {0: "rows", 1: "columns"}}


def of_size(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(x.shape[1])


NUMBERS = {
    "add": lambda n, x: n + 3 - 5,
    "add tensors": lambda n, x: n + torch.tensor(x.shape[0]) - 4,
    "rsub": lambda n, x: (100 - n) % 4,
    "rsub tensors": lambda n, x: torch.rsub(torch.tensor(2), n),
    "alpha": lambda n, x: torch.add(n, 2, alpha=3) - 9,
    "sub alpha": lambda n, x: torch.sub(n, torch.tensor(2), alpha=-3) - 8,
    "rsub alpha": lambda n, x: torch.rsub(n, 100, alpha=2) % 5,
    "mul neg": lambda n, x: -(n * -1),
    "half": lambda n, x: n // 2,
    "floor": lambda n, x: torch.div(n, 3, rounding_mode="floor"),
    "trunc": lambda n, x: torch.div(x.shape[1], 3, rounding_mode="trunc"),
    "remainder": lambda n, x: n % 3,
    "maximum": lambda n, x: torch.maximum(n, torch.tensor(x.shape[0])) - 5,
    "minimum": lambda n, x: torch.minimum(n, torch.tensor(x.shape[0])),
    "clamp": lambda n, x: torch.clamp(n - 5, min=2, max=4),
    "clamp low": lambda n, x: torch.clamp_min(n - 6, 3),
    "clamp high": lambda n, x: torch.clamp_max(n, 9),
    "clamp none": lambda n, x: torch.clamp(n, max=9),
    "full": lambda n, x: torch.full((), x.shape[1]) - 1,
    "full like": lambda n, x: torch.full_like(n, x.shape[1]) - 1,
    "copies": lambda n, x: n.clone().detach().to(torch.int64).reshape(()).squeeze() - 1,
    "a constant of floats": lambda n, x: torch.ceil(torch.tensor(7) / 2).to(torch.int64),
    "an element": lambda n, x: torch.tensor([5, 3])[1] + torch.tensor([[4]]).max() - 4,
}


@pytest.mark.filterwarnings("ignore:the model (goes another way|treats)")  # a slice may be cut short
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_made_of_sizes_is_a_size(name: str):
    model = Function(lambda x: x[:, : NUMBERS[name](of_size(x), x)])
    program = trace(model, (noise(6, 8),), dynamic_shapes=SIZES)
    assert set(program.signature.symbols) == {"rows", "columns"}
    for sizes in ((6, 8), (9, 17), (5, 7)):
        x = noise(*sizes)
        torch.testing.assert_close(program(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("holds", "limits"),
    [
        (lambda n: n > 4, "at least 5"),
        (lambda n: n >= 4, "at least 4"),
        (lambda n: n < 12, "at most 11"),
        (lambda n: n <= 12, "at most 12"),
    ],
)
def test_a_branch_on_such_a_number_is_one_on_a_size(holds, limits):
    model = Function(lambda x: x + 1 if holds(of_size(x)) else x - 1)
    sizes = {"x": {1: "columns"}}
    with pytest.warns(UserWarning, match=f"columns is {limits} in this program"):
        trace(model, (noise(6, 8),), dynamic_shapes=sizes)


@pytest.mark.parametrize("holds", [lambda n: n != 3, lambda n: ~(n == 3)])
def test_one_size_that_goes_another_way_is_told(holds):
    model = Function(lambda x: x + 1 if holds(of_size(x)) else x - 1)
    with pytest.raises(TraceError, match=r"fixes a number .* at columns = 3 the program has another"):
        trace(model, (noise(6, 8),), dynamic_shapes={"x": {1: "columns"}})
    torch.testing.assert_close(trace(model, (noise(6, 8),))(noise(6, 8)), noise(6, 8) + 1)


class Strided(nn.Module):
    """An integer buffer and a list in one, as audio models keep them."""

    def __init__(self, write: bool = False) -> None:
        super().__init__()
        self.register_buffer("stride", torch.tensor(2))
        self.register_buffer("sizes", torch.tensor([2, 3]))
        self.plain = torch.tensor(1)
        self.write = write

    def forward(self, x):
        if self.write:
            self.stride.add_(1)
        rows, columns = self.sizes.tolist()
        return x[: rows + self.plain, :: int(self.stride)], x[:, : (x.shape[1] - columns) // self.stride]


@pytest.mark.filterwarnings("ignore:the model (goes another way|treats)")
def test_integer_buffers_are_constants():
    model = Strided().eval()
    program = trace(model, (noise(6, 8),), dynamic_shapes=SIZES)
    for got, expected in zip(program(noise(7, 13)), model(noise(7, 13)), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("state", [False, True])
def test_a_buffer_that_is_written_is_no_constant(state: bool):
    with pytest.raises(TraceError, match=r"test_numbers.py:\d+"):
        trace(Strided(write=True).eval(), (noise(6, 8),), state=state)


def written(x):
    number = of_size(x)
    number.add_(x[0, 0].long())
    return x[:, :number]


def written_through_a_view(x):
    number = of_size(x)
    number.view(1).add_(x[0, 0].long())
    return x[:, :number]


class Weighted(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x):
        return x[:, : (self.weight.sum() > 0).long() + 1]


@pytest.mark.parametrize(
    "model",
    [
        Function(written),
        Function(written_through_a_view),
        Function(lambda x: x[:, : of_size(x) + x[0, 0].long()]),
        Function(lambda x: x[:, : torch.empty((), dtype=torch.int64)]),
        Function(lambda x: x[:, : torch.div(-of_size(x), 3, rounding_mode="trunc") + 8]),
        Function(lambda x: x[:, : (of_size(x) * 0.5).to(torch.int64)]),
        Weighted(torch.ones(4)),
        Weighted(torch.ones(_MOST + 1, dtype=torch.int64)),
    ],
)
def test_other_numbers_are_values(model: nn.Module):
    with pytest.raises(TraceError, match="depends on the values of a tensor"):
        trace(model.eval(), (noise(6, 8),), dynamic_shapes=SIZES)


def test_a_number_that_is_drawn_is_none_of_sizes():
    with pytest.raises(TraceError, match="draws random numbers"):
        trace(Function(lambda x: x[:, : torch.randint(2, 4, ())]), (noise(6, 8),))


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
@pytest.mark.parametrize(
    "compute", [lambda n: torch.div(n, 4, rounding_mode="floor"), lambda n: torch.div(n, 4)]
)
def test_an_op_on_numbers_alone_lowers(target: str, compute):
    program = trace(Function(lambda x: x * compute(x.shape[0])), (noise(6, 8),), dynamic_shapes=SIZES)
    assert lower(program, target).report.ok
    torch.testing.assert_close(program(noise(9, 2)), noise(9, 2) * compute(9))
