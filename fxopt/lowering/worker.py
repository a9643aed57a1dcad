"""The fresh process that runs files: `python -m fxopt.lowering.worker onnx`.

It answers framed requests on standard input (`fxopt.lowering.wire`) until the stream closes: `open` a file,
`run` it on the frame's tensors, `close` it. What a runtime prints goes to standard error, since standard
output carries the frames. A failure is an answer, not the end: the next request is served.
"""

import functools
import os
import sys
from collections.abc import Callable
from typing import BinaryIO

from fxopt.lowering.runners import KINDS, Run, open_run, prepare
from fxopt.lowering.wire import Header, Value, read_frame, write_frame

__all__ = ["Answer", "main", "serve", "take_standard_output"]

Answer = Callable[[Header, list[Value]], tuple[Header, list[Value]]]
"""A request's header and values to those of its answer; what it raises is the answer else."""


def _answer(
    kind: str, files: dict[int, Run], header: Header, values: list[Value]
) -> tuple[Header, list[Value]]:
    number = header["file"]
    assert isinstance(number, int)
    match header["do"]:
        case "open":
            files[number] = open_run(kind, str(header["path"]), str(header.get("entry", "")))
        case "run":
            return {}, files[number](values)  # type: ignore[arg-type]  # inputs are tensors: the caller's signature said so
        case "close":
            files.pop(number, None)
    return {}, []


def serve(answer: Answer, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers requests until their stream ends."""
    while True:
        try:
            header, values = read_frame(requests)
        except EOFError:
            return
        try:
            reply, results = answer(header, values)
        except Exception as error:  # whatever the runtime raises is the answer
            reply, results = (
                {"error": str(error).strip() or type(error).__name__, "type": type(error).__name__},
                [],
            )
        write_frame(replies, reply, results)


def take_standard_output() -> BinaryIO:
    """Standard output for the frames alone: what else is written to it goes to standard error from now on."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return replies


def main(kind: str) -> None:
    """Takes standard output for the frames and serves."""
    if kind not in KINDS:
        raise SystemExit(f"expected one of {', '.join(KINDS)}, got {kind!r}")
    replies = take_standard_output()
    prepare(kind)
    serve(functools.partial(_answer, kind, {}), sys.stdin.buffer, replies)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
