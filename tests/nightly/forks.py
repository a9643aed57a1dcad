"""Runs a mutant: in a fork of a process that has imported everything, or in a fresh one that imports the mutant."""

import gc
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FunctionType

from tests.nightly.mutations import ROOT

__all__ = ["Functions", "allow", "fork", "fresh"]

End = tuple[str, str, float]
"""How a run ended ("survived", "killed", "timeout"), what it said, and its wall seconds."""


def fork(work: Callable[[], str], *, cpu_seconds: float) -> End:
    """Runs `work` in a child: it survives if it returns an empty text, and is killed by any other.

    The limit is processor time, so that a busy machine kills nothing; ten times as much wall time is the end of a child
    that waits for ever.
    """
    start = time.monotonic()
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _child(work, writing, int(cpu_seconds) + 1)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], 60 + 10 * cpu_seconds)
    if not ready:
        os.kill(child, signal.SIGKILL)
    said = os.read(reading, 4096).decode() if ready else ""
    os.close(reading)
    _, status = os.waitpid(child, 0)
    _end_group(child)
    late = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
    end = "timeout" if late else "survived" if status == 0 and not said else "killed"
    return end, said, time.monotonic() - start


def _child(work: Callable[[], str], writing: int, cpu_seconds: int) -> None:
    """Never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        os.write(writing, work().encode()[:4096])
        code = 0
    finally:
        os._exit(code)


def allow(cpu_seconds: float) -> None:
    """Ends this child once it has used so much more processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime + cpu_seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (min(soft, hard), hard))


def _end_group(child: int) -> None:
    """Ends what a child has started and left."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return


class Functions:
    """The live functions of some files, to be given other code.

    Args:
        files: from a code's file name to the name below the root.
    """

    def __init__(self, files: Mapping[str, str]) -> None:
        self._live: dict[tuple[str, str, int], list[FunctionType]] = {}
        for found in gc.get_objects():
            # by type: proxies among all the objects warn when their class is asked for
            if type(found) is FunctionType and found.__code__.co_filename in files:
                code = found.__code__
                key = (files[code.co_filename], code.co_qualname, code.co_firstlineno)
                self._live.setdefault(key, []).append(found)
        gc.freeze()  # the children share these pages

    def changed(self, file: str, source: str) -> list[tuple[FunctionType, CodeType]] | None:
        """The live functions whose code another source changes, with the new code.

        Returns:
            None where code can't be put in place: no such function lives, or it closes over other variables.
        """
        path = ROOT / file
        old, new = (compile(t, str(path), "exec") for t in (path.read_text(encoding="utf-8"), source))
        found: list[tuple[FunctionType, CodeType]] = []
        for before, after, outermost in _changed(old, new, True):
            live = self._live.get((file, before.co_qualname, before.co_firstlineno), [])
            if (outermost and not live) or (live and before.co_freevars != after.co_freevars):
                return None
            found += [(function, after) for function in live]
        return found


def _changed(old: CodeType, new: CodeType, outermost: bool) -> Iterator[tuple[CodeType, CodeType, bool]]:
    """The functions of two codes that differ, and whether each stands in no other function.

    Those within functions count too: what a decorator or a maker of guards returned at import lives on.
    """
    inner = [[c for c in code.co_consts if isinstance(c, CodeType)] for code in (old, new)]
    if len(inner[0]) != len(inner[1]):
        return  # the change took a lambda away
    for before, after in zip(*inner, strict=True):
        if before != after:
            is_function = bool(before.co_flags & CO_OPTIMIZED)
            if is_function:
                yield before, after, outermost
            yield from _changed(before, after, outermost and not is_function)


_LOADER = """
import importlib, importlib.abc, importlib.util, sys

class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, name, path, source):
        self.name, self.path, self.source = name, path, source
    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        exec(compile(self.source, self.path, "exec"), module.__dict__)

name, path, source = sys.argv[1], sys.argv[2], open(sys.argv[3], encoding="utf-8").read()
sys.meta_path.insert(0, Mutated(name, path, source))
importlib.import_module(name)  # before pytest, which would load the file itself for its doctests
import pytest
sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", *sys.argv[4:]]))
"""


def fresh(file: str, source: str, tests: list[str], seconds: float) -> tuple[str, str]:
    """Runs tests in a process of its own that imports the mutant.

    Args:
        file: the mutated file.
        source: what it holds instead.
        tests: node ids, in order.
        seconds: wall time, ten times as much being the limit.
    """
    path = ROOT / "build" / f"mutant-{os.getpid()}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(source, encoding="utf-8")
    name = file.removesuffix(".py").replace("/", ".")
    command = [sys.executable, "-c", _LOADER, name, str(ROOT / file), str(path), *tests]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=10 * seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "timeout", ""
    finally:
        Path(path).unlink(missing_ok=True)
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return ("survived", "") if done.returncode == 0 else ("killed", failed[0] if failed else "")
