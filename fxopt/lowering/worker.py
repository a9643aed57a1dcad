"""The fresh process that runs files: `python -m fxopt.lowering.worker onnx`.

It answers framed requests on standard input (`fxopt.lowering.wire`) until the stream closes: `open` a file,
`run` it on the frame's tensors, `close` it. What a runtime prints goes to standard error, since standard
output carries the frames. A failure is an answer, not the end: the next request is served.
"""

import os
import sys
from typing import BinaryIO

from fxopt.lowering.runners import KINDS, Run, open_run, prepare
from fxopt.lowering.wire import Header, Value, read_frame, write_frame

__all__ = ["main", "serve"]


def _answer(
    kind: str, files: dict[int, Run], header: Header, values: list[Value]
) -> tuple[Header, list[Value]]:
    number = header["file"]
    assert isinstance(number, int)
    match header["do"]:
        case "open":
            files[number] = open_run(kind, str(header["path"]))
        case "run":
            return {}, files[number](values)  # type: ignore[arg-type]  # inputs are tensors: the caller's signature said so
        case "close":
            files.pop(number, None)
    return {}, []


def serve(kind: str, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers requests until their stream ends."""
    files: dict[int, Run] = {}
    while True:
        try:
            header, values = read_frame(requests)
        except EOFError:
            return
        try:
            reply, results = _answer(kind, files, header, values)
        except Exception as error:  # whatever the runtime raises is the answer
            reply, results = (
                {"error": str(error).strip() or type(error).__name__, "type": type(error).__name__},
                [],
            )
        write_frame(replies, reply, results)


def main(kind: str) -> None:
    """Takes standard output for the frames and serves."""
    if kind not in KINDS:
        raise SystemExit(f"expected one of {', '.join(KINDS)}, got {kind!r}")
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    prepare(kind)
    serve(kind, sys.stdin.buffer, replies)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
