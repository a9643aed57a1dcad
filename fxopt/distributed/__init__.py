"""A data set through an artifact on several devices and processes, and stages of a plan in a process each.

`run` shares the data among replicas; `torchrun ... -m fxopt.distributed FOLDER` runs the stages that a plan was lowered to.
"""

from fxopt.distributed.inference import Results, run

__all__ = ["Results", "run"]
