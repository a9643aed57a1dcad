"""The targets that come with fxopt."""

from fxopt.lowering.target import register_target

__all__ = ["register"]


def register() -> None:
    """Registers them; their own dependencies are imported when they lower or open something."""
    from fxopt.lowering.eager.target import EagerTarget
    from fxopt.lowering.onnx.target import OnnxTarget
    from fxopt.lowering.onnx.variants import MobileTarget, OnnxRuntimeTarget, TensorRtTarget
    from fxopt.lowering.torchscript.target import TorchScriptTarget

    variants = (OnnxRuntimeTarget(), TensorRtTarget(), MobileTarget())
    for target in (EagerTarget(), OnnxTarget(), TorchScriptTarget(), *variants):
        register_target(target)
