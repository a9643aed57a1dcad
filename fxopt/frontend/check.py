"""The traced program against the model itself: at another size where sizes are dynamic, else at the example.

A size that tracing burned in shows here as a `TraceError`, not as a wrong answer later. One run of each is
enough for most models; one more, at size 1, tells whether the model treats that case apart; and a size at
which something that torch assumed while tracing does not hold is tried where there is one.
"""

import contextlib
import dataclasses
import itertools
import warnings
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxopt.draws import same_draws
from fxopt.errors import TraceError
from fxopt.frontend.diagnose import dtype_advice, first_line
from fxopt.frontend.difference import ROUNDING, SURELY_ROUNDING, difference, rounding_of
from fxopt.frontend.frames import place_of, traceback_frames, warn_caller
from fxopt.frontend.inputs import Example, resized
from fxopt.frontend.sizes import Guard, Sizes, breaking_sizes, broken_guards, other_sizes, size_guards
from fxopt.frontend.untouched import Snapshot
from fxopt.frontend.unwritten import filled, unwritten
from fxopt.ops import is_random, op_key
from fxopt.program.program import Program, origins_of
from fxopt.program.signature import STATE, TensorSpec, evaluate_dim, solve_sizes

__all__ = ["DecidedError", "check_against_model", "check_at"]

_LARGE = 1 << 14
"""A size up to which one more is tried."""
_MARGIN = 30
"""How much more than at the example rounding may make elsewhere."""
_TRIES = 3
"""Sizes to offer a model that refuses some (more positions than it has)."""
_REMEDY = "compute it from x.shape with whole numbers (n // 2), or trace with this size static"


class DecidedError(TraceError):
    """The model takes a branch that the example's sizes decided; `elsewhere` is the call at sizes that decide otherwise."""

    def __init__(self, message: str, elsewhere: Example) -> None:
        super().__init__(message)
        self.elsewhere = elsewhere


def check_at(program: Program, model: nn.Module, example: Example) -> None:
    """Compares the program with the model at one call.

    Raises:
        TraceError: they differ.
    """
    with _comparable():
        _Comparison(program, model, example).at_example()


def check_against_model(program: Program, model: nn.Module, example: Example) -> None:
    """Compares the program with the model; what the model treats apart at size 1 is left to sizes from 2.

    Raises:
        TraceError: they differ, naming the output, the sizes and, where known, the line.
    """
    tensors = [*program.weights.values(), *example.tensors]
    if any(t.is_meta for t in tensors):
        return
    comparison = _Comparison(program, model, example)
    with _comparable():
        apart = comparison.run()
        other_ways = list(comparison.other_ways())
    for way in other_ways:
        warn_caller(way)
    if apart:
        names = ", ".join(apart)
        warn_caller(f"the model treats {names} = 1 apart: the program takes sizes from 2")


@contextlib.contextmanager
def _comparable() -> Iterator[None]:
    """Without the fused encoder path, which rounds otherwise than a trace, and the model's warnings."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


class _Comparison:
    def __init__(self, program: Program, model: nn.Module, example: Example) -> None:
        self.program, self.model, self.example = program, model, example
        self.symbols = program.signature.symbols
        self.specs = program.signature.tensor_inputs[: len(example.tensors)]
        self.unwritten = unwritten(program)
        self.noise: float | None = None
        self.sizes = solve_sizes(self.specs, [t.shape for t in example.tensors])
        names = program.symbol_names
        self.guards = size_guards(program.fake_mode.shape_env, names) if self.symbols else []

    def run(self) -> list[str]:
        """The names of sizes for which 1 is left out.

        Raises:
            TraceError: as `check_against_model`.
        """
        if not self._agrees_elsewhere():
            self.at_example()
        for sizes, guard in broken_guards(self.sizes, self.symbols, self.guards):
            problem = self._problem(self._resized(sizes))
            if problem:
                raise self._decided(guard, sizes, problem)
        return self._at_one()

    def _agrees_elsewhere(self) -> bool:
        """Whether there are other sizes that the model takes, and the program is the same function there."""
        candidates = other_sizes(self.sizes, self.symbols, self.guards)
        for sizes in itertools.islice(candidates, _TRIES):
            problem = self._problem(self._resized(sizes))
            if problem is not None:
                self._raise(problem, _written(sizes), self._resized(sizes))
                return True
        return False

    def at_example(self) -> None:
        """Compares at the example itself.

        Raises:
            TraceError: as `check_against_model`.
        """
        problem = self._problem(self.example, must_run=True)
        self._raise(problem or "", "the example inputs", self.example)

    def _raise(self, problem: str, where: str, example: Example) -> None:
        if problem:
            self._check_draws()
            self._check_written()
            self._check_state(example)
            raise TraceError(
                f"at {where} the traced program {problem}: a size or value was fixed while tracing; {_REMEDY}"
            )

    def _check_written(self) -> None:
        """Raises where the difference is the model's own: it returns what memory held before."""
        if self.unwritten is not None:
            raise TraceError(
                f"the model's result depends on memory that it does not write ({self.unwritten}): "
                "use torch.zeros instead of torch.empty"
            )

    def _check_draws(self) -> None:
        """Raises where the difference may be the model's own: it does not draw from the generator as it is."""
        random = next((n for n in self.program.calls() if is_random(n)), None)
        if random is not None:
            places = "; ".join(map(str, origins_of(random)))
            raise TraceError(
                f"the model's result depends on random numbers in another way than its ops do ({op_key(random.target)}, "
                f"{places}): it must not set a seed, use a generator of its own, or draw what it does not use"
            )

    def _check_state(self, example: Example) -> None:
        """Raises where the model differs from itself when it is run twice."""
        snapshot = Snapshot(self.model)
        runs = []
        for _ in range(2):
            runs.append(self._run_model(example, self._states()))
            snapshot.restore()
        found = next(filter(None, map(difference, *runs)), "")
        if found or len(runs[0]) != len(runs[1]):
            raise TraceError(
                "the model returns something else when it is run again on the same inputs"
                + f" ({found})" * bool(found)
                + ": it depends on state outside its modules, or on random numbers; "
                "make the state a buffer (and pass state=True), or an input"
            )

    def _decided(self, guard: Guard, sizes: Sizes, problem: str) -> TraceError:
        other = breaking_sizes(self.sizes, self.symbols, guard) or sizes
        return DecidedError(
            f"the model fixes a number that depends on a size{guard.place}: "
            f"traced with {_written(self.sizes)}, at {_written(sizes)} the program {problem}; {_REMEDY}",
            self._resized(other),
        )

    def _at_one(self) -> list[str]:
        """Leaves sizes below 2 out of the range where the model computes something else there."""
        small = [n for n in self.sizes if n in self.symbols and self.symbols[n].min < 2]
        if not small or not self._problem(self._resized(self.sizes | dict.fromkeys(small, 1))):
            return []
        apart = [n for n in small if self._problem(self._resized({**self.sizes, n: 1}))] or small
        narrowed = {n: dataclasses.replace(s, min=2) if n in apart else s for n, s in self.symbols.items()}
        self.program.signature = dataclasses.replace(self.program.signature, symbols=narrowed)
        return apart

    def other_ways(self) -> Iterator[str]:
        """Sizes that the model takes and the program does not, since the model goes another way there."""
        asked = {a.name: a for axes in self.example.axes for a in axes.values()}
        for name, symbol in self.symbols.items():
            axis = asked.get(name)
            outside = [symbol.min - 1] if symbol.min > 2 and (axis is None or axis.low is None) else []
            if symbol.max is not None and symbol.max < _LARGE and (axis is None or axis.high is None):
                outside.append(symbol.max + 1)
            for size in outside:
                sizes = {**self.sizes, name: size}
                guard = next((g for g in self.guards if not g.holds(sizes)), None)
                if guard is not None and self._runs(self._resized(sizes)):
                    yield (
                        f"the model goes another way{guard.place} where {name} is {size}: {symbol.limits} in this "
                        "program; use torch.cond, or trace the other sizes as a program of their own"
                    )

    def _runs(self, example: Example) -> bool:
        snapshot = Snapshot(self.model)
        try:
            self._run_model(example, self._states())
        except Exception:  # whatever it raises: it does not take this
            return False
        finally:
            snapshot.restore()
        return True

    def _resized(self, sizes: Sizes) -> Example:
        """The example at other sizes."""
        specs = iter(self.specs)
        leaves = [
            _at_sizes(leaf, next(specs), sizes) if isinstance(leaf, torch.Tensor) else leaf
            for leaf in self.example.leaves
        ]
        return self.example.with_leaves(leaves)

    def _problem(self, example: Example, *, must_run: bool = False) -> str | None:
        """How the program differs from the model; None where the model does not run."""
        states = self._states()
        snapshot = Snapshot(self.model)
        try:
            expected = self._run_model(example, states)
        except Exception as error:
            if must_run:
                place = place_of(traceback_frames(error))
                advice = dtype_advice(error, self.model, example.named)
                raise TraceError(
                    f"the model itself fails on the example inputs{place and f' at {place}'}: "
                    f"{first_line(error)}{advice}"
                ) from error
            snapshot.restore()
            return None
        self._check_repeatable(example, expected, snapshot)
        try:
            got = self._run_program(example)
        except Exception as error:  # whatever it is: the model runs there
            return f"fails where the model runs ({first_line(error)})"
        if must_run or not self._compared(expected, got, SURELY_ROUNDING):
            return self._compared(expected, got, ROUNDING)
        allowed = min(max(_MARGIN * self._rounding(), SURELY_ROUNDING), ROUNDING)
        return self._compared(expected, got, allowed)

    def _rounding(self) -> float:
        """How far program and model are apart at the example itself, where no size that was fixed can show."""
        if self.noise is None:
            snapshot = Snapshot(self.model)
            expected, got = self._run_model(self.example, self._states()), self._run_program(self.example)
            snapshot.restore()
            self.noise = max(map(rounding_of, expected, got), default=0.0)
        return self.noise

    def _run_program(self, example: Example) -> list[object]:
        """The program's results, flat."""
        args, kwargs = example.copied()
        given = {f"{STATE}{name}": value for name, value in self._states().items()}
        with same_draws():
            return list(pytree.tree_leaves(self.program(*args, **kwargs, **given)))

    def _states(self) -> dict[str, torch.Tensor]:
        """Copies of the buffers that the program takes and returns."""
        names = [s.name.removeprefix(STATE) for s in self.program.signature.inputs[len(self.example.names) :]]
        return {name: self.model.get_buffer(name).clone() for name in names}

    def _run_model(self, example: Example, states: dict[str, torch.Tensor]) -> list[object]:
        """The model's results, flat, its new states behind them, and what the inputs became that it writes to."""
        args, kwargs = example.copied()
        named = dict(zip(self.example.names, pytree.tree_leaves((args, kwargs)), strict=True))
        with same_draws(), filled() if self.unwritten is not None else contextlib.nullcontext():
            result = (
                torch.func.functional_call(self.model, states, args, kwargs)
                if states
                else self.model(*args, **kwargs)
            )
        written = [named[name] for name in self.program.signature.written_inputs()]
        return [*pytree.tree_leaves(result), *states.values(), *written]

    def _check_repeatable(self, example: Example, expected: list[object], snapshot: Snapshot) -> None:
        """A model that assigns to attributes must not depend on them; afterwards they are as before."""
        changed = snapshot.changed()
        if changed:
            again = self._run_model(example, self._states())
            snapshot.restore()
            if len(again) != len(expected) or any(map(difference, expected, again)):
                raise TraceError(
                    f"the model's result depends on {changed[0]!r}, "
                    "which its forward changes: make it a buffer (and pass state=True), or an input"
                )

    def _compared(self, expected: list[object], got: list[object], rounding: float) -> str:
        if len(expected) != len(got):
            return f"returns {len(got)} values, the model {len(expected)}"
        for spec, a, b in zip(self.program.signature.outputs, expected, got, strict=True):
            found = difference(a, b, rounding=rounding)
            if found:
                return f"has another {spec.name!r} than the model ({found})"
        return ""


def _at_sizes(tensor: torch.Tensor, spec: TensorSpec, sizes: Sizes) -> torch.Tensor:
    for axis, dim in enumerate(spec.shape):
        if isinstance(dim, str):
            # A size that follows from one that no input has for itself stays.
            with contextlib.suppress(KeyError):
                tensor = resized(tensor, axis, evaluate_dim(dim, sizes))
    return tensor


def _written(sizes: Sizes) -> str:
    return ", ".join(f"{n} = {s}" for n, s in sizes.items())
