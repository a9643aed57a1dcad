"""`Subject`: one side of a comparison, as callables on flat tensors; it knows no file and no target.

>>> import torch
>>> from fxopt.frontend import trace
>>> subject = subject_of(trace(torch.nn.Linear(4, 2).eval(), (torch.zeros(3, 4),)))
>>> [tuple(y.shape) for y in subject.run([torch.zeros(3, 4)])]
[(3, 2)]
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import InputError
from fxopt.program import ConstantSpec, Program, ScalarSpec, Signature, Spec, TensorSpec
from fxopt.verification.doubling import as_double, double_program
from fxopt.verification.evaluator import (
    evaluate,
    evaluate_beside_steps,
    evaluate_double,
    evaluate_in_order,
    evaluate_perturbed,
)
from fxopt.verification.precision import coarsest, output_precisions

__all__ = [
    "PERTURBED_RUNS",
    "Run",
    "Subject",
    "open_signature",
    "subject_in_floats",
    "subject_of",
    "varied_runs",
]

Run = Callable[[list[torch.Tensor]], Sequence[object]]
"""Tensors of `signature.tensor_inputs` -> the computed outputs in order (`signature.computed_outputs`)."""

_Several = Callable[[list[torch.Tensor]], Sequence[Sequence[object]]]
"""Tensors as for `Run` -> the outputs of several runs."""

PERTURBED_RUNS = 8
"""Run only where a first look finds a difference; of two equal logits each is chosen in some of them."""


@dataclass(frozen=True)
class Subject:
    """A model, program or artifact that can be run and compared."""

    signature: Signature
    run: Run
    """In its own precision."""
    double: Run | None = None
    """The same function in float64, on tensors of the signature's dtypes; may raise where there is none."""
    name: str = "model"
    perturbed: "_Several | None" = None
    """Its outputs under legitimate variations of rounding; None: `varied_runs` of it."""
    perturbed_double: "_Several | None" = None
    """The outputs of `double` under variations of float64's rounding; None: there are none."""
    example_sizes: Mapping[str, int] = field(default_factory=dict)
    """Dynamic sizes that it is known to take."""
    precision: Callable[[], Sequence[torch.dtype | None]] | None = None
    """The narrowest float dtype that rounds on the way to each output; None: the narrowest of the inputs."""

    repeats: bool = True
    """It gives the same for the same inputs, whatever ran before; what does not promise that is tried first."""
    notes: Callable[[], Sequence[str]] | None = None
    """What is to be said of its runs, asked for when they are done."""

    def precision_of(self, index: int) -> torch.dtype | None:
        """The narrowest float dtype on the way to a computed output, as far as it is known."""
        known = self.precision() if self.precision is not None else ()
        if known:
            return known[index] if index < len(known) else None
        return coarsest(spec.dtype for spec in self.signature.tensor_inputs)

    def variations(self, tensors: list[torch.Tensor]) -> list[Sequence[object]]:
        """The outputs of `perturbed`, or of `varied_runs` where the subject has none of its own."""
        return list(self.perturbed(tensors) if self.perturbed is not None else varied_runs(self.run, tensors))


def subject_of(program: Program) -> Subject:
    """A program under the reference evaluator. Its float64 twin is made when it is first asked for."""

    @functools.cache
    def twin() -> Program:
        return double_program(program)

    return Subject(
        program.signature,
        run=lambda tensors: evaluate(program, tensors),
        double=lambda tensors: evaluate_double(twin(), tensors),
        perturbed=lambda tensors: _perturbed(program, tensors),
        perturbed_double=lambda tensors: _perturbed(twin(), [as_double(t) for t in tensors]),
        name=program.name,
        example_sizes=_example_sizes(program),
        precision=functools.cache(lambda: output_precisions(program)),
    )


def subject_in_floats(subject: Subject) -> Subject:
    """A subject as one that takes and gives the floats that its integers stand for; itself if it has none."""
    own = subject.signature
    if not (own.integer_inputs or own.integer_outputs):
        return subject

    def run(tensors: list[torch.Tensor]) -> Sequence[object]:
        return own.outputs_in_floats(subject.run(own.inputs_in_integers(tensors)))

    def several(of: _Several | None, dtype: torch.dtype = torch.float32) -> _Several | None:
        if of is None:
            return None
        return lambda ts: [own.outputs_in_floats(r, dtype) for r in of(own.inputs_in_integers(ts))]

    double = subject.double
    return dataclasses.replace(
        subject,
        signature=own.in_floats(),
        run=run,
        double=None
        if double is None
        else lambda ts: own.outputs_in_floats(double(own.inputs_in_integers(ts)), torch.float64),
        perturbed=several(subject.perturbed),
        perturbed_double=several(subject.perturbed_double, torch.float64),
    )


def _perturbed(program: Program, tensors: list[torch.Tensor]) -> list[Sequence[object]]:
    """Runs with other rounding, one with ties settled by index, two with values near a step beyond it.

    A run of moved values that leaves an op's domain is left out.
    """
    runs: list[Sequence[object]] = []
    for seed in range(PERTURBED_RUNS):
        runs += _attempt(functools.partial(evaluate_perturbed, program, seed=seed), tensors)
    special = (
        evaluate_in_order(program, tensors),
        evaluate_beside_steps(program, tensors, up=True),
        evaluate_beside_steps(program, tensors, up=False),
    )
    return [*runs, *(outputs for outputs in special if outputs is not None)]


def open_signature(
    args: tuple[object, ...], kwargs: Mapping[str, object] | None = None, result: object = None
) -> Signature:
    """A signature that takes calls of the structure of an example, at any sizes.

    Args:
        args: example positional arguments, any pytree.
        kwargs: example keyword arguments.
        result: what the example returned, any pytree; names and dtypes of the outputs follow from it.

    Raises:
        InputError: a leaf is no tensor and no literal.
    """
    leaves, tree = pytree.tree_flatten((tuple(args), dict(kwargs or {})))
    results, result_tree = pytree.tree_flatten(result)
    inputs = tuple(_open_spec(leaf, f"input{i}") for i, leaf in enumerate(leaves))
    outputs = tuple(
        _open_output(leaf, f"output{i}" if len(results) > 1 else "output") for i, leaf in enumerate(results)
    )
    return Signature(inputs, outputs, tree, result_tree)


def _open_output(leaf: object, name: str) -> Spec:
    if isinstance(leaf, (bool, int, float)):
        return ScalarSpec(name, type(leaf).__name__)
    return _open_spec(leaf, name)


def _open_spec(leaf: object, name: str) -> Spec:
    if leaf is None or isinstance(leaf, (bool, int, float, str)):
        return ConstantSpec(name, leaf)
    if not isinstance(leaf, torch.Tensor):
        raise InputError(
            f"{name} is a {type(leaf).__name__}: expected tensors, numbers, strings or None in any containers"
        )
    shape = tuple(f"{name}_{axis}" for axis in range(leaf.dim()))
    if leaf.dtype.is_floating_point or leaf.dtype.is_complex or leaf.dtype is torch.bool or not leaf.numel():
        return TensorSpec(name, leaf.dtype, shape, str(leaf.device))
    return TensorSpec(name, leaf.dtype, shape, str(leaf.device), int(leaf.min()), int(leaf.max()))


def varied_runs(run: Run, tensors: list[torch.Tensor]) -> Iterator[Sequence[object]]:
    """Runs that may round in another way and are right all the same.

    Once more, without oneDNN, with another number of threads, with 4-d inputs in channels-last order. A
    variation that the subject refuses is left out.
    """
    fresh = [t.clone() for t in tensors]
    yield run(fresh)
    for environment in (_without_onednn, _other_threads):
        with environment():
            yield from _attempt(run, [t.clone() for t in tensors])
    if any(t.dim() == 4 for t in tensors):
        strided = [t.clone(memory_format=torch.channels_last) if t.dim() == 4 else t.clone() for t in tensors]
        yield from _attempt(run, strided)


def _attempt(run: Run, tensors: list[torch.Tensor]) -> list[Sequence[object]]:
    try:
        return [run(tensors)]
    except RuntimeError:
        # `view` of a channels-last tensor, an op that exists in oneDNN only, a probability below 0: it shows nothing
        return []


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    # The other flags are left alone: setting TF32, as the defaults do, warns where there is no Intel GPU.
    with torch.backends.mkldnn.flags(enabled=False, deterministic=None, allow_tf32=None, fp32_precision=None):
        yield


@contextlib.contextmanager
def _other_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _example_sizes(program: Program) -> dict[str, int]:
    """The sizes of the example that the program was traced at: its symbols' hints."""
    sizes: dict[str, int] = {}
    for node, spec in zip(program.placeholders(), program.signature.tensor_inputs, strict=True):
        value = node.meta.get("val")
        shape: tuple[object, ...] = tuple(value.shape) if isinstance(value, torch.Tensor) else ()
        for dim, size in zip(spec.shape, shape, strict=False):
            if (
                isinstance(dim, str)
                and dim.isidentifier()
                and isinstance(size, torch.SymInt)
                and size.node.has_hint()
            ):
                sizes.setdefault(dim, int(size.node.hint))
    return sizes
