"""What a model may write to: nothing of the caller's, but what it also returns; with `state=True` buffers and inputs.

A decoder that fills a static cache in place and returns it is the usual case: its program returns the new
cache and leaves the old one as it was.

>>> check_written.__name__
'check_written'
"""

from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from fxopt.errors import TraceError
from fxopt.frontend.functionalize import Refused
from fxopt.frontend.origins import node_line

__all__ = ["check_refusal", "check_written"]

_KINDS = {OutputKind.BUFFER_MUTATION: InputKind.BUFFER, OutputKind.PARAMETER_MUTATION: InputKind.PARAMETER}


def check_refusal(refusal: Refused, exported: ExportedProgram, *, state: bool) -> None:
    """Raises where torch's functionalisation would be no help: hidden aliases, state that is written.

    Raises:
        TraceError: names the user's line.
    """
    where = node_line(refusal.node)
    if refusal.hidden:
        raise TraceError(
            f"the model writes in place{where} to memory that it reads through another view: "
            "assign the result to a new name"
        )
    if refusal.root is not None:
        specs = {s.arg.name: s for s in exported.graph_signature.input_specs if hasattr(s.arg, "name")}
        spec = specs.get(refusal.root.name)
        if spec is not None:
            _check_kind(spec.kind, spec.target, where, state=state)


def _check_kind(kind: InputKind, target: str | None, where: str, *, state: bool) -> None:
    """Raises for a write to a weight, unless it is a buffer and state is wanted."""
    if kind is InputKind.PARAMETER:
        raise TraceError(
            f"the model writes to its parameter {target!r}{where}: "
            "make it a buffer (register_buffer) and pass state=True, or do not write to it in eval mode"
        )
    if kind is InputKind.CONSTANT_TENSOR:
        raise TraceError(
            f"the model writes to its tensor {target!r}{where}, which is no buffer: "
            "register it (register_buffer) and pass state=True, or work on a copy"
        )
    if kind is InputKind.BUFFER and not state:
        raise TraceError(
            f"the model writes to its buffer {target!r}{where}; "
            "pass state=True to make it an input and output, or do not write to it in eval mode"
        )


def check_written(
    decomposed: ExportedProgram, names: tuple[str, ...] | None, where: str, *, state: bool
) -> None:
    """Refuses what torch's functionalisation found written, as far as it is neither returned nor wanted as state.

    Args:
        decomposed: functional, its signature says what was written.
        names: of the inputs.
        where: the first line that our own functionalisation refused.
        state: whether buffers and inputs may be written.

    Raises:
        TraceError: names what is written.
    """
    signature = decomposed.graph_signature
    user = [s.arg.name for s in signature.input_specs if s.kind is InputKind.USER_INPUT]
    returned = {s.arg.name for s in signature.output_specs if s.kind is OutputKind.USER_OUTPUT}
    for spec in signature.output_specs:
        if spec.kind is OutputKind.USER_INPUT_MUTATION and spec.arg.name not in returned and not state:
            name = names[user.index(str(spec.target))] if names else str(spec.target)
            raise TraceError(
                f"the model writes into its input {name!r}{where}: work on a copy (x = x.clone()), return it too, "
                "or pass state=True to make what it becomes an output"
            )
        if spec.kind in _KINDS:
            _check_kind(_KINDS[spec.kind], spec.target, "", state=state)
