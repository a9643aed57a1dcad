"""`check_pass`: holds a pass to its contract over drawn programs.

def test_my_pass():
    fxopt.testing.check_pass(MyPass())
"""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from fxopt.diagnosis import check_values, diagnose, effects_difference
from fxopt.dialect import violations
from fxopt.errors import FxoptError
from fxopt.pipeline import Contract, Pass, PassManager, PipelineResult, registry
from fxopt.program import Program
from fxopt.report import Verdict
from fxopt.testing.motifs import focused
from fxopt.testing.strategies import programs, script_of
from fxopt.testing.surroundings import storage, watched
from fxopt.verification import (
    arguments_of,
    check_programs,
    double_program,
    evaluate,
    sample_inputs,
)
from fxopt.verification.doubling import NoFloat64Error, double_dtype
from fxopt.verification.evaluator import evaluate_each

__all__ = ["CheckFailure", "check_once", "check_pass"]

_LOWER_EVERY = 20
_NO_RULE, _REFUSED = "has no rule for", "can't be lowered to"
REFUSALS = (_NO_RULE, _REFUSED)
"""What errors of a target say that does not take a call: that is no pass's mistake."""
_TARGETS = ("eager", "torchscript", "onnx")


class CheckFailure(AssertionError):
    """A pass broke its contract or a rule of the framework."""


def check_pass(
    item: Pass,
    *,
    examples: int | None = None,
    motifs: Sequence[Callable[..., object]] | None = None,
    families: Sequence[str] | None = None,
    max_ops: int = 8,
    min_fired: float = 0.05,
    idempotent: bool = True,
    targets: Sequence[str] = _TARGETS,
    perturb: bool = False,
    shrink: bool = True,
    reproduce: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> dict[str, int]:
    """Runs a pass over drawn programs and checks all that it promises.

    For each program: outputs equal by the pass's contract (bit-identical, also where weights hold NaN and
    infinities, or both oracles), "changed" is
    true, a second run changes nothing, two runs give the same program, the caller's program is untouched, the
    dialect holds, values are those that a fresh propagation gives, provenance is complete; for one in twenty
    the file round trip and, if its values are finite, every target.

    A pass that requires properties gets programs that a registered pass which establishes them has run on.

    Args:
        item: the pass.
        examples: how many programs; by default hypothesis's profile says.
        motifs: planted in the programs; by default the pass's own (a RewritePass's patterns).
        families: op families of the random part.
        max_ops: the most steps of a program.
        min_fired: the least share of programs in which it must change something.
        idempotent: whether a second run must change nothing.
        targets: to which one in twenty programs is lowered.
        perturb: one planted motif in three has other literals, ranks or dtypes.
        shrink: make a failing program smaller before it is reported.
        reproduce: a folder; a failure is bisected to its rewrite, reduced, and written there.
        progress: show how far it is on standard error; by default on a terminal.

    Returns:
        `programs`, `fired`, `rewrites` and `refused` (rewrites that a pass said no to, with a reason).

    Raises:
        CheckFailure: what it broke, and a short script that repeats it.
    """
    first = _first(item)
    own = item.all_motifs() or (() if first is None else first.all_motifs())
    functions = own if motifs is None else motifs
    planted = [focused(m, lambda program: _fires(item, program)) for m in functions]
    counts = {"programs": 0, "fired": 0, "rewrites": 0, "refused": 0}
    failing: list[Program] = []
    profile = settings.get_profile(settings.get_current_profile_name())

    most = examples if examples is not None else profile.max_examples
    non_finite = item.contract is Contract.EXACT
    drawn = programs(
        motifs=planted, families=families, max_ops=max_ops, non_finite=non_finite, perturb=perturb
    )

    def check(program: Program, turn: int) -> None:
        counts["programs"] += 1
        show(counts)
        lowered = targets if turn == _LOWER_EVERY else ()  # drawn: the same when the example is run again
        if [] in [_calibration(p, program) for p in (item, first) if p is not None]:
            return  # nothing that it could calibrate on
        try:
            result = _checked(item, program, idempotent=idempotent, targets=lowered)
        except CheckFailure as failure:
            failing[:] = [program]
            script = reproducer(item, program, idempotent=idempotent, targets=lowered)
            raise CheckFailure(f"{failure}\n\nrepeat it with:\n\n{script}") from failure
        rewrites = sum(p.rewrites for p in result.passes)
        counts["fired"] += rewrites > 0
        counts["rewrites"] += rewrites
        counts["refused"] += sum(len(p.refusals) for p in result.passes)

    try:
        with storage() as database, watched(item.pass_name(), most, shown=progress) as show:
            settings(
                profile,
                max_examples=most,
                deadline=None,
                database=database,
                report_multiple_bugs=False,  # one failure, which is a CheckFailure
                phases=[p for p in profile.phases if shrink or p not in (Phase.shrink, Phase.explain)],
            )(given(drawn, st.integers(1, _LOWER_EVERY))(check))()
    except CheckFailure as failure:
        told = _diagnosed(item, failing, reproduce)
        raise (CheckFailure(f"{failure}\n\n{told}") if told else failure) from failure
    if counts["fired"] < min_fired * counts["programs"]:
        raise CheckFailure(
            f"{item.pass_name()} changed {counts['fired']} of {counts['programs']} programs, "
            f"fewer than {min_fired:.0%}: "
            "a check of a pass that does not fire shows nothing; give motifs that it applies to"
        )
    return counts


def _diagnosed(item: Pass, failing: Sequence[Program], folder: str | os.PathLike[str] | None) -> str:
    """What a diagnosis of the last failing program comes to; empty if none is asked for or it shows nothing."""
    if folder is None or not failing:
        return ""
    found = diagnose(failing[-1], item, check_values, folder=folder)
    return "" if found is None else str(found)


def reproducer(item: Pass, program: Program, *, idempotent: bool = True, targets: Sequence[str] = ()) -> str:
    """A script that checks the pass on this program again, as `check_once` was called."""
    cls = type(item)
    options = ("" if idempotent else ", idempotent=False") + (
        f", targets={tuple(targets)!r}" if targets else ""
    )
    return "\n".join(
        [
            "import operator, torch",
            "from fxopt.testing import ProgramBuilder, check_once",
            f"from {_module(cls)} import {cls.__qualname__.split('.')[0]}",
            "",
            script_of(program) or "# program: not a drawn one",
            f"check_once({item!r}, program{options})",
        ]
    )


def _module(cls: type[Pass]) -> str:
    """What a class is imported from, also by another script than the one that runs."""
    if cls.__module__ != "__main__":
        return cls.__module__
    return Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__").stem


def check_once(item: Pass, program: Program, *, idempotent: bool = True, targets: Sequence[str] = ()) -> int:
    """The checks of `check_pass` on one program; returns the number of rewrites.

    Raises:
        CheckFailure: what the pass broke.
    """
    return sum(p.rewrites for p in _checked(item, program, idempotent=idempotent, targets=targets).passes)


def _checked(item: Pass, program: Program, *, idempotent: bool, targets: Sequence[str]) -> PipelineResult:
    """The result, held to everything that a pass promises."""
    program = _ready(item, program)
    before = str(program)
    weights = {n: (id(t), t._version) for n, t in program.weights.items()}
    result = _run(item, program)
    if str(program) != before or {n: (id(t), t._version) for n, t in program.weights.items()} != weights:
        raise CheckFailure(f"{item.pass_name()} changed the caller's program")
    _check_structure(item, program, result)
    if str(_run(item, program).program) != str(result.program):
        raise CheckFailure(f"{item.pass_name()} gives another program when it is run again on the same one")
    if idempotent and not item.excludes & item.establishes:
        again = _run(item, result.program)
        if any(p.changed for p in again.passes):
            raise CheckFailure(
                f"{item.pass_name()} is not idempotent, a second run changes\n"
                f"{result.program.diff(again.program)}"
            )
    if any(p.rewrites for p in result.passes):
        _check_function(item, program, result)
    # Kernels differ in what they make of NaN and infinities: a file is held to what is finite.
    samples = sample_inputs(program.signature, seed=0) if targets else []
    if all(_all_finite(result.program, s.tensors) for s in samples):
        for target in targets:
            _check_target(program, result.program, target)
    if targets:
        _check_round_trip(result.program)
    return result


def _fires(item: Pass, program: Program) -> bool:
    """Whether there is something to check: the pass changes the program, or fails on it."""
    try:
        return any(p.changed for p in _run(item, _ready(item, program)).passes)
    except CheckFailure:
        return True


def _first(item: Pass) -> Pass | None:
    """A registered pass that establishes what the pass requires; None if it requires nothing."""
    if not item.requires:
        return None
    found = next((cls() for cls in registry.all().values() if item.requires <= cls.establishes), None)
    if found is None:
        raise CheckFailure(f"no registered pass establishes what {item.pass_name()} requires")
    return found


def _ready(item: Pass, program: Program) -> Program:
    """The program with the properties that the pass requires."""
    first = _first(item)
    if first is None or item.requires <= program.properties:
        return program
    return _run(first, program).program


def _run(item: Pass, program: Program, like: Program | None = None) -> PipelineResult:
    """Runs a pass, calibrated on what is drawn for the program, or for the one that it is the float64 twin of."""
    data = _calibration(item, like or program)
    if like is not None:
        data = pytree.tree_map_only(torch.Tensor, lambda t: t.to(double_dtype(t.dtype)), data)
    try:
        return PassManager.of([item]).run(program, calibration=data)
    except FxoptError as error:
        raise CheckFailure(str(error)) from error


def _calibration(item: Pass, program: Program) -> list[tuple[object, ...]] | None:
    """Drawn inputs for a pass that needs data, those at which every value of the program is finite."""
    if not item.takes_calibration():
        return None
    samples = [s.tensors for s in sample_inputs(program.signature, seed=0)]
    return [arguments_of(program.signature, t)[0] for t in samples if _all_finite(program, t)]


def _all_finite(program: Program, tensors: Sequence[torch.Tensor]) -> bool:
    values = evaluate_each(program, [t.clone() for t in tensors]).values()
    return all(bool(v.isfinite().all()) for v in values if isinstance(v, torch.Tensor))


def _check_structure(item: Pass, program: Program, result: PipelineResult) -> None:
    changed = any(p.changed for p in result.passes)
    differs = str(result.program) != str(program) or any(
        program.weights.get(name) is not tensor for name, tensor in result.program.weights.items()
    )
    if changed != differs:
        raise CheckFailure(f"{item.pass_name()} says changed={changed}, the program's text says otherwise")
    found = list(violations(result.program, values=True))
    if found:
        raise CheckFailure(f"{item.pass_name()} left the program ill-formed: {found[0]}")


def _check_function(item: Pass, program: Program, result: PipelineResult) -> None:
    """Both oracles, by contract; for the algebra the pass is applied to the float64 program."""
    if item.contract is Contract.APPROXIMATE:
        return
    lost = effects_difference(program, result.program)
    if lost:
        raise CheckFailure(f"{item.pass_name()} changes the effects: {lost}")
    wide = _rewritten_wide(item, program, result) if item.contract is Contract.EQUIVALENT else None
    report = check_programs(
        program, result.program, item.contract.value, transform=None if wide is None else lambda _: wide
    )
    if report.verdict is Verdict.DIFFERENT:
        raise CheckFailure(
            f"{item.pass_name()} changes the function ({item.contract.value}): {report.reason}"
        )


def _rewritten_wide(item: Pass, program: Program, result: PipelineResult) -> Program | None:
    """The float64 program after the pass; None where an op has no float64 form, or casts hide in it what fires."""
    try:
        wide = double_program(program)
    except NoFloat64Error:
        return None
    # On the same data: others may calibrate to other rewrites.
    rewritten = _run(item, wide, like=program)
    fired, fired_wide = (Counter(r.rule for j in x.journals for r in j.rewrites) for x in (result, rewritten))
    # more may fire there: the float64 twin has no casts between float32 and float64; what fires here must be judged
    if fired - fired_wide and _casts(wide) > _casts(program):
        return None  # a quotient of integers is of casts there, behind which a pass does not see
    if fired - fired_wide:
        raise CheckFailure(
            f"{item.pass_name()} fires {dict(fired)} in float32, {dict(fired_wide)} in float64: not the same rules"
        )
    return rewritten.program


def _casts(program: Program) -> int:
    return sum(n.target is torch.ops.aten.to.dtype for n in program.calls())


def _check_target(before: Program, after: Program, target: str) -> None:
    """The result becomes a file, or the target does not take one of its calls; then it is not the pass that made it."""
    failed = _lowering_error(after, target)
    if failed is None or _NO_RULE in str(failed):
        return
    if _REFUSED in str(failed) and _REFUSED in str(_lowering_error(before, target)):
        return
    raise CheckFailure(f"the result fails on {target}: {failed}") from failed


def _lowering_error(program: Program, target: str) -> FxoptError | None:
    from fxopt.lowering import lower

    try:
        lower(program, target)
    except FxoptError as error:
        return error
    return None


def _check_round_trip(program: Program) -> None:
    """Saved and loaded, the program is the same function, bit for bit."""
    from fxopt.lowering import open_artifact

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "program.fxopt")
        program.save(path)
        loaded = open_artifact(path)
    if not isinstance(loaded, Program):
        raise CheckFailure("a saved program comes back as another kind")
    sample = sample_inputs(program.signature, seed=0)[0]
    first, second = (evaluate(p, list(sample.tensors)) for p in (program, loaded))
    report = [str(a) == str(b) for a, b in zip(first, second, strict=True)]
    if not all(report):
        raise CheckFailure("the program saved and loaded gives other values")
