"""By which scheme each call is rounded: one for all, others for the layers that a pattern names.

>>> Schemes("int8", ("head.*=float", "embedding=int4-weights")).used() == {"int8", "int4-weights"}
True
"""

from collections.abc import Iterable
from typing import Literal, get_args

from torch.fx import Node

from fxopt.errors import PipelineError, nearest
from fxopt.passes.quantize._left_out import left_out

__all__ = ["FLOAT", "Scheme", "Schemes"]

Scheme = Literal["int8", "int8-dynamic", "int8-weights", "int4-weights"]
FLOAT = "float"
_KNOWN = (*get_args(Scheme), FLOAT)


class Schemes:
    """The scheme of each call.

    Args:
        usual: that of calls that nothing else is said of.
        layers: `PATTERN=SCHEME` each, of module paths and op names, `*` for any letters; the first that fits counts.
        ignore: patterns of calls that stay in float, whatever `layers` says.

    Raises:
        PipelineError: a part of `layers` is no pattern with a scheme.
    """

    def __init__(self, usual: str, layers: Iterable[str] = (), ignore: tuple[str, ...] = ()) -> None:
        self.usual, self._ignore = usual, ignore
        self._layers = tuple(map(_split, layers))

    def used(self) -> frozenset[str]:
        """The schemes that round something, if the patterns fit anything."""
        return frozenset({self.usual, *(s for _, s in self._layers)} - {FLOAT})

    def of(self, node: Node) -> str:
        """The scheme of a call, "float" if it is left as it is."""
        if left_out(node, self._ignore):
            return FLOAT
        return next((s for p, s in self._layers if left_out(node, (p,))), self.usual)

    def concern(self, node: Node, *schemes: str) -> bool:
        """Whether one of some schemes rounds a call, or would if it were not left in float."""
        found = self.of(node)
        return (self.usual if found == FLOAT else found) in schemes

    def left_out(self, node: Node) -> str:
        """Why a call stays in float; "" if it does not."""
        asked = (p for p, s in self._layers if s == FLOAT and left_out(node, (p,)))
        if self.of(node) != FLOAT:
            return ""
        return left_out(node, self._ignore) or f"it matches {next(asked)}={FLOAT}"


def _split(text: str) -> tuple[str, str]:
    """`features.*=float` as pattern and scheme."""
    pattern, _, scheme = text.rpartition("=")
    if not pattern or scheme not in _KNOWN:
        close = nearest(scheme, _KNOWN)
        hint = f"did you mean {close!r}?" if close else f"schemes are {', '.join(_KNOWN)}"
        raise PipelineError(f"layers holds {text!r}; expected PATTERN=SCHEME, such as 'head.*=float': {hint}")
    return pattern, scheme
