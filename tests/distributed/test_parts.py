"""Results as bytes and back, whatever memory they share; lists of tensors between neighbours."""

import torch

from fxopt.distributed.data import Piece
from fxopt.distributed.parts import packed, unpacked
from fxopt.distributed.wire import _bytes


def test_results_that_share_memory() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    pieces = [
        Piece(0, 3, (x, x, x[1:], x.mT, x.view(-1))),
        Piece(3, 6, (x, torch.ones(3, 0), torch.ones(3, 0), 7)),
        Piece(6, 7, None, "no"),
    ]
    found = unpacked(packed(pieces))
    assert [(p.start, p.stop, p.reason) for p in found] == [(0, 3, ""), (3, 6, ""), (6, 7, "no")]
    assert found[2].outputs is None
    for piece, other in zip(pieces[:2], found[:2], strict=True):
        assert piece.outputs is not None
        assert other.outputs is not None
        for one, read in zip(piece.outputs, other.outputs, strict=True):
            same = (
                torch.equal(one, read)
                if isinstance(one, torch.Tensor) and isinstance(read, torch.Tensor)
                else one == read
            )
            assert same


def test_bytes_are_those_of_the_elements_in_order() -> None:
    x = torch.arange(6, dtype=torch.int16).reshape(2, 3)
    assert _bytes(x).data_ptr() == x.data_ptr()
    assert _bytes(x.mT).view(torch.int16).tolist() == [0, 3, 1, 4, 2, 5]
    assert _bytes(x[:, 1]).view(torch.int16).tolist() == [1, 4]
    assert _bytes(torch.tensor(5, dtype=torch.int16)).tolist() == [5, 0]
