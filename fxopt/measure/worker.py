"""The process that measures one side: `python -m fxopt.measure.worker SIDE`.

It imports the side's runtime at once, then answers framed requests (`fxopt.lowering.wire`): `open` the side,
`bind` it to inputs, `time` so many calls of it, `memory`.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

from fxopt.errors import FxoptError, InputError
from fxopt.lowering.wire import Header, Packed, Value
from fxopt.lowering.worker import serve, take_standard_output
from fxopt.measure.clock import seconds_of
from fxopt.measure.machine import peak_memory
from fxopt.measure.subjects import Subject, import_runtime, open_subject

__all__ = ["main"]


class _Stand:
    """The side of this process."""

    def __init__(self, side: str) -> None:
        self.side = side
        self.subject: Subject | None = None
        self.run: Callable[[], object] | None = None

    def answer(self, header: Header, values: list[Value]) -> tuple[Header, list[Value]]:
        """The answer to a request; what fxopt refuses is an answer too, in its own words."""
        try:
            return self._answer(header, values)
        except FxoptError as error:
            return {"refused": str(error)}, []

    def _answer(self, header: Header, values: list[Value]) -> tuple[Header, list[Value]]:
        match header["do"]:
            case "open":
                threads = header["threads"]
                assert isinstance(threads, int)
                self._load_plugins(header["plugins"])
                return self._open(threads, trust=bool(header["trust"]))
            case "bind":
                return self._bind([v for v in values if isinstance(v, Packed)]), []
            case "time":
                assert self.run is not None
                calls = header["calls"]
                assert isinstance(calls, int)
                with _inference():
                    return {}, list(seconds_of(self.run, calls))
            case "memory":
                return {}, [peak_memory()]
        raise ValueError(f"unknown request {header['do']!r}")

    def _load_plugins(self, files: object) -> None:
        """Runs the plugins; an ONNX file's process, which needs none, stays without torch."""
        if files and not self.side.endswith(".onnx"):
            from fxopt.pipeline import load_plugin

            assert isinstance(files, list)
            for file in files:
                load_plugin(str(file))

    def _open(self, threads: int, *, trust: bool) -> tuple[Header, list[Value]]:
        start = time.perf_counter()
        self.subject = subject = open_subject(self.side, threads=threads, trust=trust)
        seconds = time.perf_counter() - start
        slots = None if subject.slots is None else [asdict(slot) for slot in subject.slots]
        header: Header = {"kind": subject.kind, "slots": slots, "seconds": seconds, "size": subject.size}
        return header, list(subject.example)

    def _bind(self, tensors: list[Packed]) -> Header:
        assert self.subject is not None
        self.run = self.subject.bind(tensors)
        with _inference():
            result = self.run()
        leaves = _leaves(result)
        devices = {str(getattr(leaf, "device", "cpu")) for leaf in leaves} - {"cpu"}
        if devices:
            raise InputError(f"it runs on {', '.join(devices)}; what is measured here runs on the CPU")
        return {"shapes": [list(getattr(leaf, "shape", ())) for leaf in leaves]}


def _leaves(result: object) -> list[object]:
    """A result's tensors and arrays, in order."""
    if "torch" not in sys.modules:
        return result if isinstance(result, list) else [result]
    from torch.utils import _pytree as pytree

    return [leaf for leaf in pytree.tree_leaves(result) if hasattr(leaf, "shape")]


@contextlib.contextmanager
def _inference() -> Iterator[None]:
    """No gradients, where this process has torch."""
    if "torch" not in sys.modules:
        yield
        return
    import torch

    with torch.inference_mode():
        yield


def main(side: str) -> None:
    """Takes standard output for the frames and serves."""
    replies = take_standard_output()
    import_runtime(side)
    serve(_Stand(side).answer, sys.stdin.buffer, replies)


if __name__ == "__main__":
    main(sys.argv[1])
