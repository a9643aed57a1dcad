"""Results as bytes and back, whatever memory they share, and what is kept in memory."""

import torch

from fxopt.distributed.data import Piece
from fxopt.distributed.parts import Memory, packed, unpacked


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


def test_a_small_view_does_not_keep_a_large_tensor() -> None:
    parts, x = Memory(), torch.rand(8, 4)
    parts.put(0, [Piece(0, 8, (x[:, 0], x, 3)), Piece(8, 9, None, "no")])
    first, other = parts.pieces(0)
    assert first.outputs is not None
    view, whole, number = first.outputs
    assert isinstance(view, torch.Tensor)
    assert isinstance(whole, torch.Tensor)
    assert view.tolist() == x[:, 0].tolist()
    assert view.untyped_storage().nbytes() == 8 * 4
    assert whole.data_ptr() == x.data_ptr()
    assert number == 3
    assert (other.outputs, other.reason) == (None, "no")
