"""`CrashReproducer`: a pass that fails leaves a folder with what repeats it.

The folder holds the program as it was before the pass (`program.fxopt`), the pipeline from that pass on
(`pipeline.txt`), calibration data where there was some, the error with its traceback (`error.txt`) and a
script: `python FOLDER/reproduce.py` repeats the failure. `Reproduction` is what stands in such a folder; other
failures than a pass's are written by it too.

>>> CrashReproducer("crashes").folder
PosixPath('crashes')
"""

import hashlib
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fxopt import __version__
from fxopt.errors import FxoptError, PassError, VerificationError
from fxopt.pipeline.base import Pass
from fxopt.pipeline.instruments import Failure, Instrument
from fxopt.pipeline.text import Size
from fxopt.program import Program

__all__ = ["CrashReproducer", "Reproduction"]

_MOST_BATCHES = 64
"""Of calibration data; what fails with more is rarely about the data."""

_LOAD_BATCHES = """
stored = load_file(HERE / "calibration.safetensors")
batches = {}
for key in sorted(stored, key=lambda k: tuple(map(int, k.split(".")))):
    batches.setdefault(key.split(".")[0], []).append(stored[key])
calibration = [tuple(tensors) for tensors in batches.values()]
"""


@dataclass(frozen=True)
class Reproduction:
    """What repeats a failure."""

    name: str
    """What the folder is named after."""
    program: Program
    pipeline: str
    error: BaseException
    passes: Sequence[Pass] = ()
    """Those of the pipeline: what is not of fxopt is registered by the script."""
    calibration: object = None
    call: str = "fxopt.run_pipeline(program, pipeline, instruments=instruments)"
    """What fails, as Python over `program`, `pipeline`, `calibration` and `instruments`, which a pipeline is run with."""

    def write(self, parent: str | os.PathLike[str]) -> Path:
        """Writes the folder, whole or not at all; the same failure again replaces it.

        Returns:
            The folder, named after `name` and a hash of program and pipeline.

        Raises:
            OSError: it can't be written.
            ArtifactError: the program can't be written.
        """
        digest = hashlib.sha256(f"{self.program}\n{self.pipeline}".encode(errors="replace")).hexdigest()[:8]
        final = Path(parent) / f"{self.name}-{digest}"
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=parent))
        try:
            self._fill(temporary)
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return final

    def _fill(self, folder: Path) -> None:
        self.program.save(str(folder / "program.fxopt"))
        has_data = _write_calibration(folder, self.calibration)
        texts = {
            "error.txt": "".join(traceback.format_exception(self.error)),
            "pipeline.txt": self.pipeline + "\n",
            "reproduce.py": self._script(has_data=has_data),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")

    def _script(self, *, has_data: bool) -> str:
        said = " ".join(f"{type(self.error).__name__}: {self.error}".split())
        said = said.replace('"', "'").replace("\\", "/")
        lines = [
            f'"""Repeats a failure of {self.name} (fxopt {__version__}, torch {torch.__version__}).',
            "",
            f'{said}\n"""',
            "",
            "from pathlib import Path",
            "",
            *(["from safetensors.torch import load_file", ""] if has_data else []),
            "import fxopt",
            "from fxopt.pipeline import CrashReproducer, load_plugin",
            "",
            "HERE = Path(__file__).parent",
            *dict.fromkeys(line for item in self.passes for line in _registration(item)),
            _LOAD_BATCHES.strip() if has_data else "calibration = None",
            'program = fxopt.load(HERE / "program.fxopt")',
            'pipeline = (HERE / "pipeline.txt").read_text(encoding="utf-8")',
            "instruments = [CrashReproducer(again=True)]  # this folder is enough",
            self.call,
            'print("it runs through: the failure does not show here")',
        ]
        return "\n".join(lines) + "\n"


class CrashReproducer(Instrument):
    """Writes a reproducer when a pass fails: it crashed, broke a rule of the framework, or changed the function.

    Costs nothing as long as all goes well: the passes before the failing one are run again for it.

    Args:
        folder: where its folder is made; by default a new one of the system's folder for temporary files.
        most_bytes: nothing is written for a program with more weights than this.
        again: a failure that has its folder is being repeated: nothing is written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        most_bytes: int | None = None,
        again: bool = False,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.most_bytes = most_bytes
        self.again = again
        self.written: Path | None = None

    def failed(self, failure: Failure) -> str | None:
        """Writes the folder; says how to repeat the failure, or why that could not be written."""
        error = failure.error
        asked = isinstance(error, FxoptError) and not isinstance(error, (PassError, VerificationError))
        if asked or self.again:
            return None  # a mistake in what was asked for, or known
        try:
            program = failure.before()
            self._check_size(program)
            options = ", instruments=instruments"
            options += ", calibration=calibration" if failure.calibration is not None else ""
            options += ", check_each=True" if isinstance(error, VerificationError) else ""
            self.written = Reproduction(
                failure.item.pass_name(),
                program,
                failure.rest,
                error,
                failure.passes,
                failure.calibration,
                f"fxopt.run_pipeline(program, pipeline{options})",
            ).write(self.folder or tempfile.mkdtemp(prefix="fxopt-crash-"))
        except (OSError, FxoptError) as problem:
            return f"no reproducer was written: {problem}"
        return f"repeat it with: python {self.written / 'reproduce.py'}"

    def _check_size(self, program: Program) -> None:
        size = sum(t.numel() * t.element_size() for t in program.weights.values())
        if self.most_bytes is not None and size > self.most_bytes:
            raise PassError(
                f"the weights are more than {Size(self.most_bytes)}; for one of any size, give "
                "instruments=[fxopt.pipeline.CrashReproducer(FOLDER)]"
            )


def _write_calibration(folder: Path, calibration: object) -> bool:
    """The tensors of the first batches; False if there are none."""
    tensors = dict(_batches(calibration)) if isinstance(calibration, Iterable) else {}
    if tensors:
        from safetensors.torch import save_file

        save_file(tensors, folder / "calibration.safetensors")
    return bool(tensors)


def _batches(calibration: Iterable[object]) -> Iterator[tuple[str, torch.Tensor]]:
    for i, batch in zip(range(_MOST_BATCHES), calibration, strict=False):
        for j, item in enumerate(batch if isinstance(batch, (list, tuple)) else [batch]):
            if isinstance(item, torch.Tensor):
                yield f"{i}.{j}", item.detach().cpu().contiguous().clone()


def _registration(item: Pass) -> Iterator[str]:
    """What makes a pass known to the pipeline text that names it; nothing for a built-in one."""
    cls = type(item)
    if cls.__module__.startswith("fxopt."):
        return
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if "<locals>" in cls.__qualname__ or file is None:
        yield (
            f"# {item.pass_name()} is {cls.__module__}.{cls.__qualname__}, "
            "which no import reaches: register it here"
        )
    else:
        yield f"fxopt.register_pass(load_plugin({str(Path(file).resolve())!r}).{cls.__qualname__})"
