"""Which lines of the mutated files each test runs, and how long it takes: measured once, kept in build/.

A test is measured again when its file or the mutated files have changed. Python's own tracing is used: a function of
another file costs one call, a line of a mutated file one more.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

__all__ = ["CoverageMap", "Lines", "digest", "traced"]

Lines = dict[str, set[int]]
"""Lines by file."""


def digest(paths: Iterable[Path]) -> str:
    """A hash of the content of files."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


@contextmanager
def traced(files: dict[str, str], lines: Lines) -> Iterator[None]:
    """Adds the lines that run to `lines`.

    Args:
        files: from a code's file name to the name that is counted.
        lines: what is added to.
    """
    seen: dict[CodeType, set[int] | None] = {}

    def local(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        found = seen[frame.f_code]
        assert found is not None
        found.add(frame.f_lineno)
        return local

    def calls(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        code = frame.f_code
        if code not in seen:
            name = files.get(code.co_filename)
            seen[code] = None if name is None else lines.setdefault(name, set())
        return None if seen[code] is None else local

    before = sys.gettrace()
    sys.settrace(calls)
    try:
        yield
    finally:
        sys.settrace(before)


class CoverageMap:
    """Lines and seconds by test.

    Args:
        path: where it is kept.
        sources: hash of the mutated files; a map of other sources is not used.
    """

    def __init__(self, path: Path, sources: str) -> None:
        self.path, self.sources = path, sources
        self.tests: dict[str, dict[str, Any]] = {}
        self.modules: list[str] = []
        """What the tests import while they run."""
        self._by_line: dict[tuple[str, int], list[str]] = {}
        self.load()

    def load(self) -> None:
        """Reads what the file holds of the same sources."""
        kept = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.tests = kept["tests"] if kept.get("sources") == self.sources else {}
        self.modules = kept.get("modules", [])
        self._by_line.clear()
        for name, test in self.tests.items():
            for file, lines in test["lines"].items():
                for line in lines:
                    self._by_line.setdefault((file, line), []).append(name)

    def knows(self, name: str, file_digest: str) -> bool:
        """Whether a test was measured as it is now."""
        return name in self.tests and self.tests[name]["digest"] == file_digest

    def measure(self, name: str, file_digest: str, files: dict[str, str], run: Callable[[], object]) -> None:
        """Runs a test and keeps what it ran."""
        lines: Lines = {}
        known = set(sys.modules)
        start = time.process_time()
        with traced(files, lines):
            run()
        self.tests[name] = {
            "digest": file_digest,
            "seconds": round(time.process_time() - start, 4),
            "lines": {f: sorted(n) for f, n in lines.items()},
        }
        new = (m for m in sys.modules if m not in known and not m.startswith(("tests", "__")))
        self.modules = list(dict.fromkeys([*self.modules, *new]))

    def save(self) -> None:
        """Writes the file."""
        self.path.parent.mkdir(exist_ok=True)
        text = json.dumps({"sources": self.sources, "modules": self.modules, "tests": self.tests})
        self.path.with_suffix(".part").write_text(text)
        self.path.with_suffix(".part").replace(self.path)

    def covering(self, file: str, line: int) -> list[str]:
        """The tests that run a line."""
        return self._by_line.get((file, line), [])

    def seconds(self, name: str) -> float:
        """What a test took, with tracing."""
        return float(self.tests[name]["seconds"])
