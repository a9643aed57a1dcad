"""The targets that come with fxopt."""

from fxopt.lowering.target import register_target

__all__ = ["register"]


def register() -> None:
    """Registers them; their own dependencies are imported when they lower or open something."""
    from fxopt.lowering.eager.target import EagerTarget
    from fxopt.lowering.onnx.target import OnnxTarget
    from fxopt.lowering.torchscript.target import TorchScriptTarget

    for target in (EagerTarget(), OnnxTarget(), TorchScriptTarget()):
        register_target(target)
