"""What opens a file in a worker process, by kind of worker.

A runner maps a path to a function from packed tensors to packed results. Each kind imports its own runtime
and nothing else (onnx no torch, torchscript torch alone), so that a file which needs more is found out.
"""

from collections.abc import Callable, Sequence

from fxopt.lowering.wire import Packed, Value

__all__ = ["KINDS", "Run", "open_run", "prepare"]

Run = Callable[[Sequence[Packed]], list[Value]]
KINDS = ("eager", "onnx", "onnx-as-written", "onnxsim", "torchscript")


def prepare(kind: str) -> None:
    """Imports the kind's runtime and sets it to one thread, without gradients."""
    if kind in ("onnx", "onnx-as-written"):
        return  # the session that opens a file is made with one thread
    if kind == "onnxsim":
        from fxopt.lowering.onnx.simplifier import prepare as prepare_onnxsim

        prepare_onnxsim()
        return
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)


def open_run(kind: str, path: str, entry: str = "") -> Run:
    """Opens a file.

    Args:
        kind: one of `KINDS`.
        path: the file.
        entry: which of its entry points, if it has several.

    Raises:
        Exception: what the runtime raises for a file that it can't open.
    """
    openers = {
        "eager": _open_eager,
        "onnx": _open_onnx,
        "onnx-as-written": _open_onnx_as_written,
        "onnxsim": _open_onnxsim,
        "torchscript": _open_torchscript,
    }
    return openers[kind](path, entry)


def _open_onnx(path: str, _entry: str) -> Run:
    from fxopt.lowering.onnx.run import open_run as open_onnx

    return open_onnx(path)


def _open_onnx_as_written(path: str, _entry: str) -> Run:
    from fxopt.lowering.onnx.run import open_run as open_onnx

    return open_onnx(path, as_written=True)


def _open_onnxsim(path: str, _entry: str) -> Run:
    from fxopt.lowering.onnx.simplifier import open_run as open_onnxsim

    return open_onnxsim(path)


def _open_torchscript(path: str, entry: str) -> Run:
    import warnings

    import torch

    from fxopt.draws import rewind_draws
    from fxopt.lowering.tensors import pack, unpack

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        module = torch.jit.load(path, map_location="cpu")
    function = getattr(module, entry or "forward")

    def run(inputs: Sequence[Packed]) -> list[Value]:
        rewind_draws()
        return [pack(v) for v in function(*map(unpack, inputs))]

    return run


def _open_eager(path: str, entry: str) -> Run:
    from fxopt.draws import rewind_draws
    from fxopt.lowering.eager.target import EagerTarget
    from fxopt.lowering.tensors import pack, unpack

    target = EagerTarget()
    artifact = target.open_entry(path, entry) if entry else target.open(path)

    def run(inputs: Sequence[Packed]) -> list[Value]:
        rewind_draws()
        return [pack(v) for v in artifact.run_flat(list(map(unpack, inputs)))]

    return run
