"""A module as one side of a comparison: as it is, without tracing.

Every run starts from the state that the module had: what a call assigns to attributes or writes to buffers is put
back, also where its code reaches a buffer by another way than its name (a closure).

>>> import torch
>>> from fxopt.verification.subjects import open_signature
>>> class Counter(torch.nn.Module):
...     def __init__(self):
...         super().__init__()
...         self.register_buffer("calls", torch.zeros(()))
...     def forward(self, x):
...         self.calls += 1
...         return x + self.calls
>>> x = torch.zeros(2)
>>> subject = module_subject(Counter(), open_signature((x,), result=x))
>>> subject.run([x]), subject.run([x])
([tensor([1., 1.])], [tensor([1., 1.])])
>>> subject.notes()
["the model changes its own 'calls'; every run starts from what it is now, and what it becomes is not compared"]
"""

import contextlib
import copy
import functools
import inspect
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxopt.draws import same_draws
from fxopt.frontend.untouched import Snapshot
from fxopt.program import STATE, Signature
from fxopt.verification.doubling import as_double
from fxopt.verification.evaluator import float64_kernels, moved
from fxopt.verification.interception import Moving, Ordering, Widening, default_float64
from fxopt.verification.precision import coarsest
from fxopt.verification.sampling import arguments_of
from fxopt.verification.subjects import PERTURBED_RUNS, Subject, varied_runs

__all__ = ["call_problem", "module_subject"]


def call_problem(module: nn.Module, signature: Signature) -> str:
    """Why a module can't be called as the signature says, by number and names; empty if it can.

    >>> from fxopt.verification.subjects import open_signature
    >>> call_problem(torch.nn.ReLU(), open_signature((torch.ones(1), torch.ones(1))))
    'ReLU takes (input: torch.Tensor), the other side 2 arguments: input0, input1'
    """
    args, kwargs = pytree.tree_unflatten([s.name for s in signature.inputs], signature.input_tree)
    own = inspect.signature(module.forward)
    try:
        own.bind(*args, **{k: v for k, v in kwargs.items() if not k.startswith(STATE)})
    except TypeError:
        count = len(args) + len(kwargs)
        names = ", ".join(s.name for s in signature.inputs)
        taken = str(own).split(" -> ")[0]
        arguments = "1 argument" if count == 1 else f"{count} arguments"
        return f"{type(module).__name__} takes {taken}, the other side {arguments}: {names}"
    return ""


def module_subject(module: nn.Module, signature: Signature) -> Subject:
    """A module as it is, without tracing; its float64 twin is a deep copy.

    Args:
        module: run in eval mode and without gradients; flags, attributes and buffers are restored after each run.
        signature: what it takes and returns: a program's, an artifact's, or `open_signature`'s.
    """
    side = _Module(module, signature)
    return Subject(
        signature,
        run=side.run,
        double=side.double,
        name=type(module).__name__,
        perturbed=side.perturbed,
        precision=functools.cache(side.precision),
        repeats=False,
        notes=side.notes,
    )


class _Module:
    """The runs of a module."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        self.module, self.signature = module, signature
        self.changed: dict[str, None] = {}
        """What calls changed, in order."""

    def run(self, tensors: list[torch.Tensor]) -> list[object]:
        """In its own precision."""
        with self._restored(self.module, noted=True):
            return _call(self.module, self.signature, tensors)

    def double(self, tensors: list[torch.Tensor]) -> list[object]:
        """In float64, dtypes that its code names included.

        Raises:
            NoFloat64Error: an op has no float64 form or kernel.
        """
        twin = self._twin
        wide = [as_double(t) for t in tensors]
        # A closure of the twin's still reaches the module's own tensors.
        with (
            self._restored(self.module),
            self._restored(twin),
            float64_kernels(),
            default_float64(),
            Widening(),
        ):
            return _call(twin, self.signature, wide)

    def perturbed(self, tensors: list[torch.Tensor]) -> list[Sequence[object]]:
        """Runs with other rounding: other kernels, and every op's result moved; and one with ties in order."""
        runs = list(varied_runs(self.run, tensors))
        try:
            shifted = copy.deepcopy(self.module)
        except RuntimeError:  # tensors with a history can't be copied: its weights stay where they are
            shifted = self.module
        with contextlib.suppress(RuntimeError, NotImplementedError):  # a mode that an op does not run under
            for seed in range(PERTURBED_RUNS):
                if shifted is not self.module:
                    self._move_weights(shifted, seed)
                with self._restored(self.module), self._restored(shifted), Moving(seed):
                    runs.append(_call(shifted, self.signature, [t.clone() for t in tensors]))
            with self._restored(self.module), Ordering() as ordering:
                ordered = _call(self.module, self.signature, [t.clone() for t in tensors])
            if ordering.used:
                runs.append(ordered)
        return runs

    def precision(self) -> list[torch.dtype | None]:
        """For each output the narrowest float dtype of the parameters and buffers, if there are any."""
        own = coarsest(t.dtype for t in (*self.module.parameters(), *self.module.buffers()))
        return [own] * len(self.signature.computed_outputs) if own is not None else []

    def notes(self) -> list[str]:
        """That it changes state of its own."""
        if not self.changed:
            return []
        names = ", ".join(map(repr, self.changed))
        return [
            f"the model changes its own {names}; every run starts from what it is now, "
            "and what it becomes is not compared"
        ]

    @functools.cached_property
    def _twin(self) -> nn.Module:
        return copy.deepcopy(self.module).double()

    def _move_weights(self, shifted: nn.Module, seed: int) -> None:
        """Gives a copy the module's weights, each moved by rounding."""
        generator = torch.Generator().manual_seed(seed)
        own = {id(t): t for t in (*self.module.parameters(), *self.module.buffers())}
        other = {id(t): t for t in (*shifted.parameters(), *shifted.buffers())}
        with torch.no_grad():
            for source, copied in zip(own.values(), other.values(), strict=True):
                value = moved(source, generator)
                if value is not source and isinstance(value, torch.Tensor):
                    copied.copy_(value)

    @contextlib.contextmanager
    def _restored(self, module: nn.Module, *, noted: bool = False) -> Iterator[None]:
        """The module in eval mode; afterwards as it was."""
        snapshot = Snapshot(module)
        try:
            for part in module.modules():
                part.training = False
            yield
            if noted:
                self.changed |= dict.fromkeys(snapshot.changed())
        finally:
            snapshot.restore()


def _call(module: nn.Module, signature: Signature, tensors: list[torch.Tensor]) -> list[object]:
    written = signature.written_inputs()
    given = [t.clone() for t in tensors] if written else tensors
    named = dict(zip((s.name for s in signature.tensor_inputs), given, strict=True))
    args, kwargs = arguments_of(signature, given)
    # A signature that was traced with `state=True` takes and returns buffers, behind the model's own.
    states = {k.removeprefix(STATE): kwargs.pop(k) for k in list(kwargs) if k.startswith(STATE)}
    states = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in states.items()}
    with torch.no_grad(), same_draws():
        result = (
            torch.func.functional_call(module, states, args, kwargs)  # type: ignore[arg-type]  # tensors, by name
            if states
            else module(*args, **kwargs)
        )
    becomes = (*states.values(), *(named[name] for name in written))
    return signature.flatten_outputs((result, *becomes) if becomes else result)
