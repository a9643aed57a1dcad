"""Calls that the signature takes and an op does not."""

import pytest
import torch
from torch import nn

from fxopt import InputError, lower, trace


class Rows(nn.Module):
    def forward(self, x):
        return x.reshape(3, -1) * 2


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 2)

    def forward(self, index):
        return self.table(index)


SIZES = r"(program Rows|artifact) can't be run with n = 5: .*(invalid for input of size 20|cannot be reshaped)[^\n]*$"
VALUES = r"(program Table|artifact) can't be run on these values: [^\n]*(index out of range|out of data bounds)[^\n]*$"


@pytest.mark.parametrize("target", [None, "eager", "torchscript", "onnx"])
def test_one_line_says_which_sizes_or_that_values_are_not_taken(target: str | None):
    rows = trace(Rows(), (torch.randn(6, 4),), dynamic_shapes={"x": {0: "n"}})
    table = trace(Table(), (torch.tensor([1, 2]),))
    called = [rows, table] if target is None else [lower(rows, target), lower(table, target)]
    assert called[0](torch.randn(9, 4)).shape == (3, 12)
    with pytest.raises(InputError, match=SIZES):
        called[0](torch.randn(5, 4))
    with pytest.raises(InputError, match=VALUES):
        called[1](torch.tensor([9, 2]))
