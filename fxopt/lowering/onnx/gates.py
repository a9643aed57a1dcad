"""What a model must pass before anything is written: ONNX's own checker and strict shape inference."""

import onnx

from fxopt.errors import LoweringError

__all__ = ["check_model"]


def check_model(model: onnx.ModelProto) -> None:
    """Checks a model.

    Raises:
        LoweringError: ONNX's checker or its strict shape inference refuses it: the fault of a rule.
    """
    for what, check in (("checker", _check), ("strict shape inference", _infer)):
        try:
            check(model)
        except Exception as error:
            first = " ".join(str(error).split())[:300]
            raise LoweringError(f"ONNX's {what} refuses the lowered model: {first}") from error


def _check(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)


def _infer(model: onnx.ModelProto) -> None:
    try:
        onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError:
        # onnx 1.23 takes the elements of any vector for sizes: it sees an "invalid rank" in x[:, None] * y.
        onnx.shape_inference.infer_shapes(model, strict_mode=True)
