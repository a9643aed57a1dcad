"""What a run of one side came to: outputs or an exception, the inputs that it wrote to, and whether it repeats.

>>> from fxopt.frontend import trace
>>> from fxopt.verification.sampling import sample_inputs
>>> from fxopt.verification.subjects import subject_of
>>> subject = subject_of(trace(torch.nn.ReLU().eval(), (torch.zeros(3),)))
>>> sample = sample_inputs(subject.signature)[0]
>>> outcome = outcome_of(subject, sample)
>>> len(outcome.outputs), outcome.written, outcome.error
(1, (), '')
>>> repeat_difference(subject, subject, sample, outcome)
''
"""

from dataclasses import dataclass, field

import torch

from fxopt.draws import other_draws, same_draws
from fxopt.frontend.difference import difference
from fxopt.verification.measure import bits, plain_tensor
from fxopt.verification.sampling import Sample
from fxopt.verification.subjects import Subject

__all__ = ["Outcome", "first_line", "outcome_of", "repeat_difference"]


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    outputs: list[object] = field(default_factory=list)
    error: str = ""
    written: tuple[str, ...] = ()
    """The inputs that it wrote to."""


def outcome_of(subject: Subject, sample: Sample) -> Outcome:
    """A run on copies of the inputs.

    Raises:
        ImportError, MemoryError: it can't be run here, which says nothing of what it computes.
    """
    tensors = [t.clone() for t in sample.tensors]
    try:
        with same_draws():
            outputs = list(subject.run(tensors))
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # whatever a model raises is what it does with these inputs
        return Outcome(error=first_line(error))
    names = [s.name for s in subject.signature.tensor_inputs]
    written = [
        n
        for n, now, before in zip(names, tensors, sample.tensors, strict=True)
        if not _same_bits(now, before)
    ]
    return Outcome(outputs, written=tuple(written))


def repeat_difference(subject: Subject, other: Subject, sample: Sample, before: Outcome) -> str:
    """How a side that does not promise to repeat differs by more than rounding when it is run again; empty if not.

    Random numbers are no matter where the other side draws them too.
    """
    if subject.repeats:
        return ""
    found = _changed(before, outcome_of(subject, sample))
    if not found:
        with other_draws():
            found = _changed(before, outcome_of(subject, sample))
            again = outcome_of(other, sample) if found else before
        if found and _changed(outcome_of(other, sample), again):
            return ""
    return found and (
        f"{subject.name} returns something else when it is run again on the same inputs ({found}): "
        "it depends on state outside its modules, or on random numbers"
    )


def _changed(before: Outcome, again: Outcome) -> str:
    if again.error or len(again.outputs) != len(before.outputs):
        return again.error or "another number of outputs"
    return next(filter(None, map(difference, before.outputs, again.outputs)), "")


def first_line(error: Exception) -> str:
    """Of its message; the exception's name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(bits(plain_tensor(a)), bits(plain_tensor(b)))
    )
