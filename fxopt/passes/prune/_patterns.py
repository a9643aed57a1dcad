"""Which weights a user's patterns name."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

from fxopt.errors import InputError, nearest

__all__ = ["check_patterns", "is_named"]


def is_named(name: str, patterns: Iterable[str]) -> bool:
    """Whether a weight's name, or the path of a module that it stands in, fits a pattern."""
    parts = name.split(".")
    paths = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns for path in paths)


def check_patterns(patterns: Sequence[str], names: Mapping[str, object]) -> None:
    """Whether each pattern names something.

    Raises:
        InputError: one fits no weight.
    """
    for pattern in patterns:
        if not any(is_named(name, [pattern]) for name in names):
            modules = {name.rpartition(".")[0] for name in names} | set(names)
            close = nearest(pattern, sorted(modules))
            raise InputError(
                f"ignore: {pattern!r} fits no weight" + (f"; did you mean {close!r}?" if close else "")
            )
