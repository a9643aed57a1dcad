"""Named pipelines: `O0`, `clean`, `O1`.

`clean` is exact cleaning that keeps a model trainable: norms, dropout sites and provenance stay. `O1` is every exact or
equivalent rewrite. Precision is never hidden in an O-level.
"""

from collections.abc import Callable

from fxopt.errors import PipelineError
from fxopt.pipeline.text import Named

__all__ = ["NAMED", "expand_named", "register_pipeline"]

NAMED: dict[str, Callable[[dict[str, object]], str]] = {}
"""Pipeline text by name, given the options."""


def register_pipeline(name: str, text: Callable[[dict[str, object]], str]) -> None:
    """Adds a named pipeline; `text` gets the options and returns pipeline text."""
    NAMED[name] = text


def _fixed(text: str) -> Callable[[dict[str, object]], str]:
    def expand(options: dict[str, object]) -> str:
        if options:
            raise PipelineError(f"the named pipeline takes no options, got {', '.join(options)}")
        return text

    return expand


_CLEAN = "fold-constants,eliminate-common-subexpressions,eliminate-dead-code"
_O1 = (
    "fold-constants,eliminate-common-subexpressions,"
    "fuse-conv-bn,fold-constants,eliminate-common-subexpressions,eliminate-dead-code"
)

register_pipeline("O0", _fixed(""))
register_pipeline("clean", _fixed(_CLEAN))
register_pipeline("O1", _fixed(_O1))


def expand_named(step: Named) -> str | None:
    """The text that a named pipeline stands for, None if the name is none."""
    expand = NAMED.get(step.name)
    return None if expand is None else expand(dict(step.options))
