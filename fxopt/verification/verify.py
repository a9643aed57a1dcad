"""`verify_runs`: whether a candidate does what a reference does, on inputs drawn from the signature or given.

Each input is run on both sides, on copies. The numbers and dtypes of inputs and outputs come first, then
what happened (an exception on one side only is a difference, and so is an input that one side writes to),
then shapes, then values by the oracle of the contract. Sizes that the reference itself refuses are passed
over and counted, and larger ones tried.

>>> import torch
>>> from fxopt.frontend import trace
>>> from fxopt.verification import module_subject, subject_of
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.GELU()).eval()
>>> program = trace(model, (torch.zeros(3, 4),), dynamic_shapes=[{0: "batch"}])
>>> verify_runs(subject_of(program), module_subject(model, program.signature)).verdict.value
'equivalent'
>>> verify_runs(subject_of(program), module_subject(model[0], program.signature)).verdict.value
'different'
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator

from fxopt.program import TensorSpec
from fxopt.report import Verdict, VerifyReport
from fxopt.verification.comparison import Comparison
from fxopt.verification.sampling import Sample, given_samples, sample_inputs
from fxopt.verification.sizes import SizeSet, dynamic_symbols, size_sets
from fxopt.verification.subjects import Run, Subject, subject_in_floats

__all__ = ["inputs_difference", "verify_runs"]

CONTRACTS = ("exact", "equivalent", "approximate")
_STARTS = (8, 32, 64, 128, 224)
"""Where sizes begin if the reference refuses the small ones: kernels, pools and strides need room."""
_ENOUGH = 2
"""Sets of sizes above 1 to run at."""


def verify_runs(
    reference: Subject,
    candidate: Subject,
    *,
    inputs: Iterable[object] | None = None,
    contract: str = "equivalent",
    seed: int = 0,
    algebra: Run | None = None,
) -> VerifyReport:
    """Compares two subjects.

    Args:
        reference: the original.
        candidate: what claims to do the same.
        inputs: argument tuples to compare on; by default drawn from the reference's signature.
        contract: "exact" (the same bits), "equivalent" (by the oracles), or "approximate" (shapes and
            dtypes only; the verdict is undecided, and the reason says how far the values are apart).
        seed: of the drawn inputs.
        algebra: the candidate's float64 form, rewritten from the reference's and judged against that.

    Returns:
        Verdict, reason, worst ratio, results by output, and the inputs that show a difference.

    Raises:
        InputError: `inputs` that do not fit the signature, or a signature that no inputs can be drawn for.
        ValueError: an unknown contract.
    """
    start = time.perf_counter()
    if contract not in CONTRACTS:
        raise ValueError(f"unknown contract {contract!r}: expected exact, equivalent or approximate")
    mismatch = inputs_difference(reference, candidate)
    if mismatch:
        return VerifyReport(Verdict.DIFFERENT, mismatch, seconds=time.perf_counter() - start)
    # Where integers stand for floats on a side, both take and give those floats.
    reference, candidate = subject_in_floats(reference), subject_in_floats(candidate)
    comparison = Comparison(reference, candidate, contract, algebra)
    samples = given_samples(reference.signature, inputs) if inputs is not None else _drawn(comparison, seed)
    for sample in samples:
        comparison.try_sample(sample)
        if comparison.done:
            break
    return dataclasses.replace(comparison.report(), seconds=time.perf_counter() - start)


def _drawn(comparison: Comparison, seed: int) -> Iterator[Sample]:
    """Drawn samples; where the reference refused sizes, more at those it was traced at, then larger ones."""
    reference = comparison.reference
    yield from sample_inputs(reference.signature, seed=seed)
    for sizes in _further_sizes(reference):
        if len(comparison.sizes) >= _ENOUGH:
            return
        yield from sample_inputs(reference.signature, seed=seed, sizes=[sizes])


def _further_sizes(reference: Subject) -> Iterator[SizeSet]:
    symbols = dynamic_symbols(reference.signature)
    tried = list(size_sets(reference.signature))
    if not symbols or len(tried) < _ENOUGH:
        return
    known = reference.example_sizes
    if all(s.name in known for s in symbols):
        yield {s.name: known[s.name] for s in symbols}
        yield {s.name: known[s.name] + 1 for s in symbols if s.max is None or known[s.name] < s.max} | {
            s.name: known[s.name] for s in symbols if s.max is not None and known[s.name] >= s.max
        }
    for start in _STARTS:
        for sizes in size_sets(reference.signature, start=start):
            if sizes not in tried:
                tried.append(sizes)
                yield sizes


def inputs_difference(reference: Subject, candidate: Subject) -> str:
    """How the tensors that the sides take differ in number, dtype, rank or fixed size; empty if they don't.

    Integers that stand for floats count as floats.
    """
    old, new = (side.signature.in_floats().tensor_inputs for side in (reference, candidate))
    if len(old) != len(new):
        return f"{candidate.name} takes {_listed(new)}, {reference.name} takes {_listed(old)}"
    for a, b in zip(old, new, strict=True):
        fixed = any(
            isinstance(p, int) and isinstance(q, int) and p != q
            for p, q in zip(a.shape, b.shape, strict=False)
        )
        if fixed or a.dtype != b.dtype or len(a.shape) != len(b.shape):
            return f"{candidate.name} takes {b}, {reference.name} takes {a}"
    return ""


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    count = "1 tensor" if len(specs) == 1 else f"{len(specs)} tensors"
    return f"{count} ({'; '.join(map(str, specs))})" if specs else "no tensors"
