"""fxopt: a compiler for PyTorch inference. Its public names, each loaded when it is first used.

>>> import fxopt
>>> "trace" in dir(fxopt)
True
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fxopt import testing
    from fxopt.api import distill, ensemble, finetune, load, lower, optimize, run_pipeline, trace, verify
    from fxopt.distributed import Results, run
    from fxopt.errors import (
        ArtifactError,
        FxoptError,
        InputError,
        LoweringError,
        PassError,
        PipelineError,
        TraceError,
        TrainingError,
        VerificationError,
    )
    from fxopt.lowering import Artifact, Target, lowering_rule, register_target
    from fxopt.ops import OpInfo, register_op
    from fxopt.passes.partition import Device, PartitionPlan
    from fxopt.passes.partition._use import partition
    from fxopt.passes.prune import PrunePlan, plan_pruning
    from fxopt.passes.quantize import Placement, placement_of, register_placement
    from fxopt.pipeline import Contract, Pass, PassManager, RewritePass, register_pass
    from fxopt.program import Program
    from fxopt.report import Report
    from fxopt.rewriting import Const, Rewriter, Rule

__all__ = [
    "Artifact",
    "ArtifactError",
    "Const",
    "Contract",
    "Device",
    "FxoptError",
    "InputError",
    "LoweringError",
    "OpInfo",
    "PartitionPlan",
    "Pass",
    "PassError",
    "PassManager",
    "PipelineError",
    "Placement",
    "Program",
    "PrunePlan",
    "Report",
    "Results",
    "RewritePass",
    "Rewriter",
    "Rule",
    "Target",
    "TraceError",
    "TrainingError",
    "VerificationError",
    "__version__",
    "distill",
    "ensemble",
    "finetune",
    "load",
    "lower",
    "lowering_rule",
    "optimize",
    "partition",
    "placement_of",
    "plan_pruning",
    "register_op",
    "register_pass",
    "register_placement",
    "register_target",
    "run",
    "run_pipeline",
    "testing",
    "trace",
    "verify",
]

# Where each name lives: torch is imported by the first use of a name that needs it, not by `import fxopt`.
_HOMES = {
    "api": (
        "distill",
        "ensemble",
        "finetune",
        "load",
        "lower",
        "optimize",
        "run_pipeline",
        "trace",
        "verify",
    ),
    "distributed": ("Results", "run"),
    "errors": (
        "ArtifactError",
        "FxoptError",
        "InputError",
        "LoweringError",
        "PassError",
        "PipelineError",
        "TraceError",
        "TrainingError",
        "VerificationError",
    ),
    "lowering": ("Artifact", "Target", "lowering_rule", "register_target"),
    "ops": ("OpInfo", "register_op"),
    "passes.partition": ("Device", "PartitionPlan", "partition"),
    "passes.prune": ("PrunePlan", "plan_pruning"),
    "passes.quantize": ("Placement", "placement_of", "register_placement"),
    "pipeline": ("Contract", "Pass", "PassManager", "RewritePass", "register_pass"),
    "program": ("Program",),
    "report": ("Report",),
    "rewriting": ("Const", "Rewriter", "Rule"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "testing":
        return importlib.import_module("fxopt.testing")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'fxopt' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"fxopt.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
