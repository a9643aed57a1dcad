"""`--distill FILE.py:LOADERS`: what the pipeline made is trained to do as the model does.

LOADERS takes nothing and returns the data, or (data, validation), or a dict of `fxopt.distill`'s arguments
with the data as "data".

>>> sorted(_arguments({"data": [1], "epochs": 2}))
['data', 'epochs']
>>> _arguments(([(1, 2)], [(3, 4)]))
{'data': [(1, 2)], 'validation': [(3, 4)]}
"""

import contextlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fxopt.errors import InputError
from fxopt.factories import read_function, split_factory

if TYPE_CHECKING:
    from fxopt.optimizer import Metric, Retrain
    from fxopt.program import Program

__all__ = ["read_retraining", "retraining"]


def read_retraining(text: str, metric: "Metric | None", *, shown: bool | None = None) -> "Retrain":
    """What trains, by the user's loaders.

    Args:
        text: FILE.py:LOADERS.
        metric: of which the best is kept.
        shown: a progress bar; by default on a terminal.

    Raises:
        InputError: it is no FILE.py:LOADERS.
        UserCodeError: it fails.
    """
    place = split_factory(text)
    if place is None:
        raise InputError(f"--distill {text}: expected FILE.py:FUNCTION, which returns the data")
    with contextlib.redirect_stdout(sys.stderr):
        given = read_function(*place)()
    return retraining(given, metric, shown=shown)


def retraining(given: object, metric: "Metric | None" = None, *, shown: bool | None = None) -> "Retrain":
    """A function of teacher and student for `fxopt.optimize(..., retrain=)`.

    Args:
        given: what the loaders returned.
        metric: of which the best is kept.
        shown: a progress bar; by default on a terminal.

    Raises:
        InputError: it holds no data.
    """
    options = {"metric": metric, "progress": shown, **_arguments(given)}
    data = options.pop("data")

    def retrain(teacher: "Program", student: "Program") -> "Program":
        import fxopt

        return fxopt.distill(teacher, student, data, **options)

    return retrain


def _arguments(given: object) -> dict[str, Any]:
    if isinstance(given, Mapping):
        if "data" not in given:
            raise InputError(
                f"the loaders' dict lacks 'data'; it has {', '.join(map(str, given)) or 'nothing'}"
            )
        return {str(name): value for name, value in given.items()}
    # A tuple of two batches is data too: its items are tuples or tensors.
    if isinstance(given, tuple) and len(given) == 2 and not any(map(_is_item, given)):
        return {"data": given[0], "validation": given[1]}
    return {"data": given}


def _is_item(value: object) -> bool:
    import torch

    return isinstance(value, (tuple, torch.Tensor, Mapping))
