"""Why a pipeline did nothing, where it was there to do something.

>>> from fxopt.report import PassReport
>>> why_silent([PassReport("fold-constants")])
'nothing was changed, because the model has nothing for fold-constants to do'
"""

from collections.abc import Sequence

from fxopt.report import PassReport

__all__ = ["why_silent"]

_REASONS = 3
"""How many reasons a note gives."""


def why_silent(passes: Sequence[PassReport]) -> str:
    """Why nothing was changed, or nothing fused, where a pipeline was there to do it; empty if it was."""
    fusing = [p for p in passes if p.name.startswith("fuse-")]
    if passes and not any(p.changed for p in passes):
        what, silent = "nothing was changed", list(passes)
    elif fusing and not any(p.changed for p in fusing):
        what, silent = "nothing was fused", fusing
    else:
        return ""
    reasons = list(
        dict.fromkeys(
            f"{p.name} at {r.where or r.node}: {r.reason}" for p in silent for r in p.refusals if r.node
        )
    )
    if not reasons:
        names = ", ".join(dict.fromkeys(p.name for p in silent))
        return f"{what}, because the model has nothing for {names} to do"
    more = f"; and {len(reasons) - _REASONS} more" if len(reasons) > _REASONS else ""
    return f"{what}, because of {'; '.join(reasons[:_REASONS])}{more}"
