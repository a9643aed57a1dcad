"""Keeps what torch's shape functions complain of out of the log, where the exception says it all.

>>> with quiet():
...     pass
"""

import contextlib
import logging
from collections.abc import Iterator

__all__ = ["quiet"]


class _Switch(logging.Filter):
    """Switched by a counter: setting a logger's level empties the caches of all loggers."""

    depth = 0

    def filter(self, record: logging.LogRecord) -> bool:
        return self.depth == 0


_SWITCH = _Switch()
for _name in ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes"):
    logging.getLogger(_name).addFilter(_SWITCH)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, torch's shape functions complain by exception only."""
    _SWITCH.depth += 1
    try:
        yield
    finally:
        _SWITCH.depth -= 1
