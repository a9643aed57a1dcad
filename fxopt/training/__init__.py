"""Training of programs: `finetune` on a task, `distill` from a teacher; both give a Program back."""

from fxopt.training.distill import distill
from fxopt.training.finetune import finetune
from fxopt.training.observers import TensorBoard, on_terminal, stderr_console
from fxopt.training.settings import Options, Settings

__all__ = ["Options", "Settings", "TensorBoard", "distill", "finetune", "on_terminal", "stderr_console"]
