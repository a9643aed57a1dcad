import pytest
import torch
from torch import nn

from fxopt.frontend import trace
from tests.frontend.good_models import Function, Function2, noise


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.types = nn.Embedding(50, 4), nn.Embedding(2, 4)

    def forward(self, ids, types):
        return self.words(ids.reshape(-1)) + self.types(types[:, :3].flatten())


def bounds(model: nn.Module, *args: torch.Tensor) -> list[tuple[int | None, int | None]]:
    return [(s.low, s.high) for s in trace(model.eval(), args).signature.tensor_inputs]


def test_an_index_lies_below_the_rows_of_its_table():
    ids = torch.tensor([[3, 7, 1]])
    assert bounds(Embedding(), ids, torch.zeros_like(ids)) == [(0, 49), (0, 1)]


def test_the_smallest_table_counts():
    tables = noise(9, 2), noise(5, 2)
    assert bounds(
        Function(lambda i: tables[0][i.abs()] + tables[1].index_select(0, i)), torch.tensor([1, 2])
    ) == [(0, 4)]


TABLE = noise(9, 5)
IDS = torch.tensor([1, 2])


@pytest.mark.parametrize(
    ("function", "high"),
    [
        (lambda i: TABLE[i], 8),
        (lambda i: TABLE[:, i], 4),
        (lambda i: TABLE[i][:, i], 4),
        (lambda i: TABLE.index_select(1, i), 4),
        (lambda i: TABLE.gather(0, i[None].expand(9, 2)), 8),
        (lambda i: torch.zeros(7).scatter(0, i, 1.0), 6),
        (lambda i: torch.zeros(7).index_put((i,), torch.ones(2)), 6),
        (lambda i: torch.zeros(7).index_copy(0, i, torch.ones(2)), 6),
        (lambda i: nn.functional.one_hot(i, 6), 5),
        (lambda i: TABLE[torch.cat([i, i])], 8),
        (lambda i: TABLE[torch.stack([i, i], 1).flatten()], 8),
        (lambda i: TABLE[torch.where(i > 0, i, 0)], 8),
        (lambda i: TABLE[i.chunk(2)[0]], 8),
        # Not values of the input: what is read with it, and a mask made of it.
        (lambda i: TABLE[torch.arange(40)[i] % 3], 39),
        (lambda i: TABLE[:2] * (i > 0)[:, None], 2),
    ],
)
def test_uses_as_an_index(function, high: int):
    assert bounds(Function(function), IDS) == [(0, high)]


@pytest.mark.parametrize(
    ("example", "expected"),
    [([1, 1, 1], (0, 1)), ([3, 9], (0, 9)), ([-4, 2], (-4, 2)), ([], (0, 1))],
)
def test_without_a_table_the_examples_values_count(example: list[int], expected: tuple[int, int]):
    assert bounds(Function(lambda x: x * 2), torch.tensor(example, dtype=torch.long)) == [expected]


def test_other_inputs_have_no_bounds():
    mask = torch.tensor([True, False])
    assert bounds(Function2(lambda x, m: x.masked_fill(m, 0)), noise(3, 2), mask) == [
        (None, None),
        (None, None),
    ]


def test_an_exported_program_has_no_example_to_read():
    exported = torch.export.export(Function(lambda x: x * 2).eval(), (torch.tensor([5, 9]),))
    [spec] = trace(exported).signature.tensor_inputs
    assert (spec.low, spec.high) == (0, 1)


def test_a_number_is_indexed_as_a_vector_of_one_element():
    number = torch.tensor(3.0)
    assert bounds(Function(lambda i: number.index_select(0, i)), torch.tensor([0])) == [(0, 0)]
