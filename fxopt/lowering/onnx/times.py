"""The times of a file's kernels in onnxruntime, by its profile."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from fxopt.lowering.times import ROUNDS, NodeTime, medians

__all__ = ["kernel_times"]

_SUFFIX = "_kernel_time"


def kernel_times(path: str, inputs: Mapping[str, np.ndarray], calls: frozenset[str]) -> list[NodeTime]:
    """Runs a file on one thread.

    Args:
        path: the file.
        inputs: by name.
        calls: of the program: a kernel's name begins with that of its call.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(ROUNDS):
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return medians(_laps(events, calls))


def _laps(events: object, calls: frozenset[str]) -> Iterator[tuple[str, str, str, float]]:
    assert isinstance(events, list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_SUFFIX):
            call = name.split("/")[0]
            kernel = str(event["args"]["op_name"])
            yield name, call if call in calls else "", kernel, event["dur"] / 1e6
