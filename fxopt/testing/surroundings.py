"""What is around a search: where hypothesis keeps its files, and what a terminal shows meanwhile.

>>> with storage() as database, watched("my-pass", 10, shown=False) as show:
...     show({"programs": 1, "fired": 1})
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir, storage_directory
from hypothesis.database import ExampleDatabase

from fxopt.training import on_terminal, stderr_console

__all__ = ["storage", "watched"]


@contextlib.contextmanager
def storage() -> Iterator[ExampleDatabase | None]:
    """The database of failing examples while hypothesis runs.

    Under pytest, or where there is a folder for it already, it is the profile's. A script's own folder gets no
    `.hypothesis`: what hypothesis keeps goes to a temporary folder, and failing examples are told, not kept.
    """
    home = storage_directory(intent_to_write=False).path
    if "PYTEST_VERSION" in os.environ or home != Path.cwd() / ".hypothesis" or home.exists():
        yield settings.get_profile(settings.get_current_profile_name()).database
        return
    with tempfile.TemporaryDirectory(prefix="fxopt-hypothesis-") as folder:
        set_hypothesis_home_dir(folder)
        try:
            yield None
        finally:
            set_hypothesis_home_dir(None)


@contextlib.contextmanager
def watched(
    name: str, examples: int, *, shown: bool | None = None
) -> Iterator[Callable[[Mapping[str, int]], None]]:
    """Shows how far a search is on a moving line.

    Args:
        name: of the pass.
        examples: how many programs there will be.
        shown: whether; by default on a terminal.
    """
    if not (on_terminal() if shown is None else shown):
        yield lambda counts: None
        return
    with stderr_console().status(f"check {name}") as status:
        yield lambda counts: status.update(
            f"check {name}: program {counts['programs']} of {examples}, it changed {counts['fired']}"
        )
