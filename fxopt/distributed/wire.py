"""Lists of tensors between neighbours, their dtypes and sizes in front: batches of any size go through.

A list may be a text instead: why there are no tensors.

`torch.distributed.pipelining` fixes the shapes at the first batch and gives wrong rows where a later one is of
another size (pytorch/pytorch#159942), so each message here says what it holds.
"""

from collections import deque
from collections.abc import Sequence

import torch
import torch.distributed as dist

__all__ = ["Receiver", "Sender"]

_DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.uint16, torch.uint32, torch.uint64,
)  # fmt: skip
_END, _TEXT = -1, -2


_AHEAD = 4
"""Lists under way: so many batches may one process be ahead of the next, which evens out what delays either."""


class Sender:
    """Sends lists of tensors to another rank; what is under way is kept until it has gone.

    Args:
        rank: to whom.
        group: over which; the default one if none is given.
    """

    def __init__(self, rank: int, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.group = rank, group
        self._under_way: deque[list[tuple[dist.Work | None, torch.Tensor]]] = deque()

    def send(self, tensors: Sequence[torch.Tensor]) -> None:
        """Begins to send; waits until at most a few lists are under way."""
        self.wait(_AHEAD - 1)
        self._under_way.append([])
        header = [n for t in tensors for n in (_DTYPES.index(t.dtype), t.dim(), *t.shape)]
        self._post(torch.tensor([len(tensors), len(header)]))
        if header:
            self._post(torch.tensor(header))
        for tensor in tensors:
            if tensor.numel():
                self._post(_bytes(tensor))

    def send_text(self, text: str) -> None:
        """Begins to send a text in a list's place."""
        self.wait(_AHEAD - 1)
        self._under_way.append([])
        content = text.encode()
        self._post(torch.tensor([_TEXT, len(content)]))
        if content:
            self._post(torch.frombuffer(bytearray(content), dtype=torch.uint8))

    def end(self) -> None:
        """Says that nothing more comes."""
        self._under_way.append([])
        self._post(torch.tensor([_END, 0]))
        self.wait()

    def _post(self, tensor: torch.Tensor) -> None:
        self._under_way[-1].append((dist.isend(tensor, self.rank, group=self.group), tensor))

    def wait(self, left: int = 0) -> None:
        """Until at most so many lists are left under way."""
        while len(self._under_way) > left:
            for work, _ in self._under_way[0]:
                if work is not None:
                    work.wait()
            self._under_way.popleft()


class Receiver:
    """Receives what a `Sender` of another rank sends.

    Args:
        rank: from whom.
        group: over which; the default one if none is given.
    """

    def __init__(self, rank: int, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.group = rank, group

    def receive(self) -> list[torch.Tensor] | str | None:
        """The next list, or the text in its place; None at the end."""
        count, length = self._numbers(2)
        if count == _END:
            return None
        if count == _TEXT:
            return self._bytes(length).decode()
        header = iter(self._numbers(length) if length else [])
        return [self._tensor(_DTYPES[code], [next(header) for _ in range(next(header))]) for code in header]

    def _numbers(self, count: int) -> list[int]:
        numbers = torch.empty(count, dtype=torch.int64)
        dist.recv(numbers, self.rank, group=self.group)
        return [int(n) for n in numbers]

    def _bytes(self, count: int) -> bytes:
        content = torch.empty(count, dtype=torch.uint8)
        if count:
            dist.recv(content, self.rank, group=self.group)
        return content.numpy().tobytes()

    def _tensor(self, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        if tensor.numel():
            dist.recv(tensor.view(-1).view(torch.uint8), self.rank, group=self.group)
        return tensor


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The elements in order, as bytes: the tensor's own memory where they lie so."""
    return tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
