"""A side of a comparison, seen from here: the process that measures it.

>>> described([Slot("x", "float32"), Slot("mask", "int64")])
'x float32, mask int64'
"""

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType

import torch

from fxopt.errors import InputError
from fxopt.lowering.remote import RemoteError, Worker
from fxopt.lowering.tensors import pack, unpack
from fxopt.lowering.wire import Header, Packed, Value
from fxopt.measure.clock import Lap
from fxopt.measure.subjects import Slot

__all__ = ["Side", "described", "placed"]


class Side:
    """A model or file in a process of its own. A context manager, which ends the process.

    Attributes:
        name: `FILE.py:FACTORY`, or a path.
        kind: what it turned out to be.
        slots: its tensor inputs; None if it does not say.
        example: the inputs it came with, by name; empty for a file.
        weight_bytes: of a model in memory.
        load_seconds: how long it took to open, once the runtime was there.
        calls: how often it was timed.
    """

    def __init__(self, name: str, *, threads: int) -> None:
        """Starts the process, which imports the runtime meanwhile; `open` comes next."""
        self.name, self.threads, self.calls = name, threads, 0
        self.kind, self.weight_bytes, self.load_seconds = "", 0, 0.0
        self.slots: list[Slot] | None = None
        self.example: dict[str, torch.Tensor] = {}
        self._worker = Worker(name, module="fxopt.measure.worker", threads=threads)

    def open(self, *, trust: bool, plugins: Sequence[str] = ()) -> None:
        """Opens it, after the plugins that it may need.

        Raises:
            InputError: it can't be opened.
        """
        header: Header = {"do": "open", "threads": self.threads, "trust": trust, "plugins": list(plugins)}
        reply, values = self._ask(header, [], "opened")
        slots = reply["slots"]
        assert slots is None or isinstance(slots, list)
        self.kind = str(reply["kind"])
        self.slots = None if slots is None else [Slot(**slot) for slot in slots]
        self.load_seconds, self.weight_bytes = _number(reply, "seconds"), int(_number(reply, "size"))
        tensors = [unpack(v) for v in values if isinstance(v, Packed)]
        names = [slot.name for slot in self.slots or ()]
        self.example = dict(zip(names, tensors, strict=True)) if tensors else {}

    def bind(self, inputs: Mapping[str, torch.Tensor]) -> list[list[int]]:
        """Runs it once on the inputs; returns the shapes of its outputs.

        Raises:
            InputError: it does not take them.
        """
        try:
            tensors = placed(inputs, self.slots)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from None
        shapes = self._ask({"do": "bind"}, [pack(t) for t in tensors], "run")[0]["shapes"]
        assert isinstance(shapes, list)
        return shapes

    def time(self, calls: int) -> Lap:
        """Seconds of a call, on average over so many in a row."""
        wall, cpu = self._ask({"do": "time", "calls": calls}, [], "run")[1]
        assert isinstance(wall, float)
        assert isinstance(cpu, float)
        self.calls += calls
        return Lap(wall, cpu)

    def peak_memory(self) -> int:
        """The most bytes that its process had."""
        (most,) = self._ask({"do": "memory"}, [], "run")[1]
        assert isinstance(most, int)
        return most

    def _ask(self, header: Header, values: Sequence[Value], what: str) -> tuple[Header, list[Value]]:
        try:
            reply, results = self._worker.request(header, values)
        except RemoteError as error:
            reason = next(iter(str(error).splitlines()), "")
            raise InputError(f"{self.name} can't be {what}: {reason}") from error
        if "refused" in reply:
            text = str(reply["refused"])
            raise InputError(text if self.name in text else f"{self.name}: {text}")
        return reply, results

    def close(self) -> None:
        """Ends its process."""
        self._worker.close()

    def __enter__(self) -> "Side":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _number(header: Header, key: str) -> float:
    value = header[key]
    assert isinstance(value, (int, float))
    return value


def described(slots: Iterable[Slot]) -> str:
    """The inputs in words."""
    return ", ".join(f"{slot.name} {slot.dtype}".strip() for slot in slots) or "nothing"


def placed(inputs: Mapping[str, torch.Tensor], slots: Sequence[Slot] | None) -> list[torch.Tensor]:
    """The tensors for a side's slots, in its dtypes: by name if all its names are among them, else in order.

    Raises:
        InputError: there are more of them or fewer.
    """
    if slots is None:
        return list(inputs.values())
    if all(slot.name in inputs for slot in slots):
        chosen = [inputs[slot.name] for slot in slots]
    elif len(slots) == len(inputs):
        chosen = list(inputs.values())
    else:
        raise InputError(f"it takes {described(slots)}; given are {', '.join(inputs) or 'none'}")
    return [t.to(getattr(torch, s.dtype)) if s.dtype else t for t, s in zip(chosen, slots, strict=True)]
