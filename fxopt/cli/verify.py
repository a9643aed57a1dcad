"""`fxopt verify`: is the candidate the same function as the reference?

>>> verify.__name__
'verify'
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.console import progress
from fxopt.cli.options import JsonFlag, PluginOption, QuietFlag, TrustFlag, load_plugins, read_side
from fxopt.errors import InputError
from fxopt.factories import ModelSource
from fxopt.report import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fxopt.api import Model
    from fxopt.lowering import Artifact
    from fxopt.program import Program, Signature

__all__ = ["COUNTEREXAMPLE", "verify"]

COUNTEREXAMPLE = "fxopt-counterexample.npz"
_EXIT_CODES = {Verdict.EQUIVALENT: 0, Verdict.DIFFERENT: 1, Verdict.UNDECIDED: 2}


def verify(
    reference: Annotated[str, typer.Argument(help="What is right: FILE.py:FACTORY, or a file.")],
    candidate: Annotated[str, typer.Argument(help="What is judged: the same.")],
    inputs: Annotated[
        Path | None,
        typer.Option("--inputs", metavar="X.npz", help="Inputs to compare on, an array per input name."),
    ] = None,
    plugin: PluginOption = None,
    trust: TrustFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Are two models or files the same function?

    Exit code 0: equivalent. 1: different, inputs that show it are written. 2: undecided, or it could not run.
    """
    import fxopt
    from fxopt.program.records import write_npz
    from fxopt.reporting import verify_details

    load_plugins(plugin or ())
    left, right = read_side(reference), read_side(candidate)
    with progress(quiet=quiet or json):
        sides = [_opened(side, trust=trust) for side in (left, right)]
        records = _inputs(inputs, left, right, sides)
        report = fxopt.verify(*sides, inputs=records, trust=trust)
    if json:
        sys.stdout.write(report.dumps() + "\n")
    elif not quiet:
        sys.stdout.write("\n".join([str(report), *verify_details(report)]) + "\n")
    example = report.counterexample
    if example is not None and example.inputs:
        write_npz(Path(COUNTEREXAMPLE), example.inputs)
        if not quiet:
            sys.stderr.write(f"inputs that show it: {COUNTEREXAMPLE} (give them back with --inputs)\n")
    return _EXIT_CODES[report.verdict]


def _opened(side: ModelSource, *, trust: bool) -> "Model | Program | Artifact":
    import fxopt

    return fxopt.load(side.model, trust=trust) if isinstance(side.model, str) else side.model


def _inputs(
    path: Path | None,
    left: ModelSource,
    right: ModelSource,
    sides: "Sequence[Model | Program | Artifact]",
) -> list[tuple[object, ...]] | None:
    """The file's inputs; else a factory's own where neither side says what it takes; else None."""
    from fxopt.api import says_inputs
    from fxopt.lowering import Artifact
    from fxopt.program import Program
    from fxopt.program.records import calls, read_npz

    known = next((s for s in sides if isinstance(s, (Program, Artifact)) and says_inputs(s)), None)
    if path is not None:
        return calls(read_npz(path), known.signature if known is not None else _traced(left, right))
    if known is not None:
        return None
    factories = [side for side in (left, right) if side.args is not None]
    if not factories:
        raise InputError(
            "neither file says what it takes: give --inputs X.npz, or FILE.py:FACTORY on one side"
        )
    examples = [_positional(side) for side in factories]
    _check_alike(factories, examples)
    return examples[:1]


def _positional(source: ModelSource) -> tuple[object, ...]:
    assert source.args is not None
    if source.kwargs:
        raise InputError(
            f"{source.name} takes keyword arguments, which two models can't be compared on; "
            "give a file on one side, or --inputs"
        )
    return source.args


def _check_alike(factories: "Sequence[ModelSource]", examples: "Sequence[tuple[object, ...]]") -> None:
    """Raises if two factories' examples are calls of other kinds: there is nothing to compare on then."""
    from torch.utils import _pytree as pytree

    told = [f"({', '.join(map(_described, pytree.tree_leaves(e)))})" for e in examples]
    if len(set(told)) > 1:
        raise InputError(
            "the two sides take different inputs: "
            + ", ".join(f"{f.name} is called with {text}" for f, text in zip(factories, told, strict=True))
        )


def _described(leaf: object) -> str:
    import torch

    from fxopt.program import dtype_name

    if isinstance(leaf, torch.Tensor):
        return f"{dtype_name(leaf.dtype)} of {leaf.dim()} dimensions"
    return type(leaf).__name__


def _traced(left: ModelSource, right: ModelSource) -> "Signature":
    """What a model takes, by name, as tracing the first of them finds."""
    import fxopt

    side = left if left.args is not None else right
    if side.args is None:
        raise InputError("neither file names its inputs: give FILE.py:FACTORY on one side")
    return fxopt.trace(side.model, side.args, side.kwargs).signature
