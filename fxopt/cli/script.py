"""`--gen-script`: a run of `fxopt optimize` as a Python file that does the same and can be edited.

>>> print(_written_out("clean"))
PIPELINE = (
    "eliminate-dead-code,"
    "eliminate-identities{exact=true,keep_dropout=true,keep_weights=true},"
    "simplify-symbolic-arithmetic,"
    "simplify-reshapes,"
    "fold-constants{keep_shared=true},"
    "eliminate-common-subexpressions,"
    "eliminate-dead-code"
)
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fxopt import __version__
from fxopt.cli.options import OptimizeOptions
from fxopt.errors import ArtifactError
from fxopt.factories import split_factory

__all__ = ["write_script"]


def write_script(path: Path, options: OptimizeOptions) -> None:
    """Writes the script; its places are relative to its own folder.

    Raises:
        ArtifactError: there is such a file already, which may have been edited, or it can't be written.
    """
    lines = "\n".join(_lines(options, path.resolve().parent)) + "\n"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(lines)
    except FileExistsError as error:
        raise ArtifactError(
            f"{path} exists and may have been edited: remove it, or name another file"
        ) from error
    except OSError as error:
        raise ArtifactError(f"can't write {path}: {error.strerror or error}") from error


def _lines(options: OptimizeOptions, folder: Path) -> Iterator[str]:
    yield f'"""{options.model} by {options.pipeline} to {options.target}: edit it and run it.'
    yield ""
    yield f"Written by fxopt {__version__}; the named pipelines are written out as they are in this version."
    yield '"""'
    yield ""
    yield "from pathlib import Path"
    yield ""
    if _has_unnamed(options.dynamic):
        yield "from torch.export import Dim"
        yield ""
    yield "import fxopt"
    yield from _imports(options)
    yield ""
    yield "HERE = Path(__file__).resolve().parent"
    yield f"OUTPUT = {_place(options.output, folder) if options.output is not None else None}"
    yield f"DYNAMIC = {_dynamic(options.dynamic)}"
    yield _written_out(options.pipeline)
    yield ""
    yield ""
    yield "def main() -> None:"
    yield from (f"    {line}" for line in _body(options, folder))
    yield ""
    yield ""
    yield 'if __name__ == "__main__":'
    yield "    main()"


def _imports(options: OptimizeOptions) -> Iterator[str]:
    if options.calibration is not None:
        yield "from fxopt.program.records import calls, read_npz"
    names = [
        name
        for name, wanted in (
            ("read_factory", split_factory(options.model)),
            ("read_function", options.metric or options.distill),
        )
        if wanted
    ]
    if names:
        yield f"from fxopt.factories import {', '.join(names)}"
    if options.distill:
        yield "from fxopt.cli.distill import retraining"
    if options.plugins:
        yield "from fxopt.pipeline import load_plugin"


def _body(options: OptimizeOptions, folder: Path) -> Iterator[str]:
    for plugin in options.plugins:
        yield f"load_plugin(str({_place(plugin, folder)}))"
    found = split_factory(options.model)
    if found is not None:
        yield f"source = read_factory({_place(found[0], folder)}, {found[1]!r})"
    if options.calibration is not None:
        yield f"program = {_traced(options, folder)}"
        yield f"data = read_npz({_place(options.calibration, folder)})"
        yield "calibration = calls(data, program.signature)"
    if options.output is not None:
        yield "OUTPUT.mkdir(parents=True, exist_ok=True)"
    yield "result = fxopt.optimize("
    yield f"    {_model(options, folder)},"
    yield "    pipeline=PIPELINE,"
    yield f"    target={options.target!r},"
    yield from (f"    {name}={value}," for name, value in _arguments(options, folder))
    yield ")"
    if options.output is not None:
        yield 'result.report.save(OUTPUT / "report.json")'
    yield "print(result.report)"


def _model(options: OptimizeOptions, folder: Path) -> str:
    """The arguments that say which model it is: of `fxopt.trace` as of `fxopt.optimize`."""
    state = ", state=True" if options.state else ""
    if split_factory(options.model) is not None:
        return f"source.model, source.args, source.kwargs, dynamic_shapes=DYNAMIC{state}"
    trust = ", trust=True" if options.trust else ""
    return f"{_place(Path(options.model), folder)}{trust}{state}"


def _traced(options: OptimizeOptions, folder: Path) -> str:
    read = "load" if options.model.endswith(".fxopt") else "trace"
    return f"fxopt.{read}({_model(options, folder)})"


def _arguments(options: OptimizeOptions, folder: Path) -> Iterator[tuple[str, str]]:
    if options.output is not None:
        yield "path", f"OUTPUT / {options.file_name!r}"
    if options.calibration is not None:
        yield "calibration", "calibration"
    metric, distill = (_function(text, folder) for text in (options.metric, options.distill))
    if distill is not None:
        yield "retrain", f"retraining({distill}(), {metric})"
    if metric is not None:
        yield "metric", metric
    for name, value in (
        ("max_drop", options.max_drop),
        ("min_sqnr", options.min_sqnr),
        ("opset", options.opset),
    ):
        if value is not None:
            yield name, repr(value)
    for name, asked in (("time_layers", options.time_layers), ("check_each", options.check_each)):
        if asked:
            yield name, "True"
    if options.reproduce is not None:
        yield "reproduce", _place(options.reproduce, folder)


def _function(text: str | None, folder: Path) -> str | None:
    """A function of the user's as code."""
    place = split_factory(text) if text else None
    return None if place is None else f"read_function({_place(place[0], folder)}, {place[1]!r})"


def _place(path: Path, folder: Path) -> str:
    return f"HERE / {os.path.relpath(path.resolve(), folder)!r}"


def _has_unnamed(dynamic: Mapping[str, Mapping[int, object]]) -> bool:
    return any(not isinstance(name, str) for axes in dynamic.values() for name in axes.values())


def _dynamic(dynamic: Mapping[str, Mapping[int, object]]) -> str:
    """The dictionary as code; a size without a name is `Dim.DYNAMIC`."""
    inputs = (
        f"{name!r}: {{"
        + ", ".join(f"{i}: {n!r}" if isinstance(n, str) else f"{i}: Dim.DYNAMIC" for i, n in axes.items())
        + "}"
        for name, axes in dynamic.items()
    )
    return f"{{{', '.join(inputs)}}}" if dynamic else "None"


def _written_out(pipeline: str) -> str:
    """The pipeline, a pass a line, named pipelines in full."""
    from fxopt.pipeline import PassManager
    from fxopt.pipeline.text import Fixpoint, Step, parse_steps, print_steps

    def lines(steps: Iterable[Step]) -> Iterator[str]:
        for step in steps:
            if isinstance(step, Fixpoint):
                *inner, last = lines(step.steps)
                yield from ("fixpoint(", *inner, f"{last.removesuffix(',')}),")
            else:
                yield f"{print_steps((step,))},"

    expanded = PassManager.parse(pipeline).expand()
    *most, last = list(lines(parse_steps(expanded))) if expanded else [""]
    text = "".join(f"    {_quoted(line)}\n" for line in (*most, last.removesuffix(",")))
    return f"PIPELINE = (\n{text})"


def _quoted(text: str) -> str:
    """As a Python string in double quotes, which JSON's strings are."""
    return json.dumps(text, ensure_ascii=False)
