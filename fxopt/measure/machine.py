"""What a measurement was made on: processor, load, versions.

>>> this_machine().cores >= 1
True
"""

import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path

from fxopt.report import JsonData

__all__ = ["Machine", "peak_memory", "this_machine"]

_PACKAGES = ("fxopt", "torch", "onnxruntime", "onnx", "onnxscript", "onnxsim", "numpy")


@dataclass(frozen=True)
class Machine(JsonData):
    """A machine and its software; it says nothing of whose it is."""

    processor: str
    cores: int
    system: str
    python: str
    versions: dict[str, str] = field(default_factory=dict)
    load: float = 0.0
    """Processes that wanted to run, over the last minute."""

    @property
    def busy(self) -> bool:
        """Whether others want most of it."""
        return self.load > 0.5 * self.cores


def this_machine() -> Machine:
    """The machine, as it is now."""
    return Machine(
        _processor(),
        os.cpu_count() or 1,
        f"{platform.system()} {platform.machine()}",
        platform.python_version(),
        {name: version for name in _PACKAGES if (version := _version(name))},
        os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def peak_memory() -> int:
    """The most bytes of memory that this process has had; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return _peak_by_usage()
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(line.split()[1]) * 1024


def _peak_by_usage() -> int:
    """As getrusage says, where there is no /proc. A child can inherit its parent's figure on Linux."""
    try:
        import resource
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
