"""Lists of tensors between neighbours: every dtype, any sizes, texts in their place."""

from collections import deque
from types import SimpleNamespace

import pytest
import torch

from fxopt.distributed import wire
from fxopt.distributed.wire import Receiver, Sender, _bytes


@pytest.fixture(autouse=True)
def messages(monkeypatch: pytest.MonkeyPatch) -> "deque[torch.Tensor]":
    """What is under way, in place of two processes: sent to 1, received from 0, over the group "own"."""
    found: deque[torch.Tensor] = deque()

    def isend(tensor: torch.Tensor, rank: int, *, group: object) -> SimpleNamespace:
        assert (rank, group) == (1, "own")
        found.append(tensor)
        return SimpleNamespace(wait=lambda: None)

    def recv(tensor: torch.Tensor, rank: int, *, group: object) -> None:
        assert (rank, group) == (0, "own")
        tensor.copy_(found.popleft())

    monkeypatch.setattr(wire, "dist", SimpleNamespace(isend=isend, recv=recv))
    return found


def ends() -> tuple[Sender, Receiver]:
    return Sender(1, "own"), Receiver(0, "own")  # type: ignore[arg-type]  # any group


@pytest.mark.parametrize("dtype", wire._DTYPES)
def test_each_dtype(dtype: torch.dtype) -> None:
    sender, receiver = ends()
    x = torch.arange(6).reshape(2, 3).to(dtype)
    sender.send([x, x[:0], x[0, 0]])
    found = receiver.receive()
    assert isinstance(found, list)
    assert [(t.dtype, t.shape) for t in found] == [(dtype, (2, 3)), (dtype, (0, 3)), (dtype, ())]
    assert _bytes(found[0]).tolist() == _bytes(x).tolist()


def test_lists_texts_and_the_end_come_in_order(messages: "deque[torch.Tensor]") -> None:
    sender, receiver = ends()
    sender.send_text("ü")
    sender.send([])
    sender.send_text("")
    sender.end()
    assert [receiver.receive() for _ in range(4)] == ["ü", [], "", None]
    assert not messages


def test_views_that_conjugate_or_negate() -> None:
    sender, receiver = ends()
    x = torch.tensor([1 + 2j, 3 - 4j])
    sender.send([x.conj(), torch._neg_view(torch.tensor([2.0, -4.0]))])
    found = receiver.receive()
    assert isinstance(found, list)
    assert [t.tolist() for t in found] == [[1 - 2j, 3 + 4j], [-2.0, 4.0]]


def test_bytes_are_those_of_the_elements_in_order() -> None:
    x = torch.arange(6, dtype=torch.int16).reshape(2, 3)
    assert _bytes(x).data_ptr() == x.data_ptr()
    assert _bytes(x.mT).view(torch.int16).tolist() == [0, 3, 1, 4, 2, 5]
    assert _bytes(x[:, 1]).view(torch.int16).tolist() == [1, 4]
    assert _bytes(torch.tensor(5, dtype=torch.int16)).tolist() == [5, 0]
