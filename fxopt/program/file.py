"""`.fxopt` files: a graph in JSON, weights in safetensors, a manifest with hashes; never pickle.

The form is described in docs/format.md. A file of kind "program" is read back here, one of kind "eager" by
the eager target; both are written by `file_buffers` and checked by `read_file`. The same program gives the
same bytes.

>>> import tempfile, torch
>>> from fxopt.frontend import trace
>>> model = torch.nn.Linear(4, 2).eval()
>>> program = trace(model, (torch.zeros(3, 4),), dynamic_shapes={"input": {0: "batch"}})
>>> path = tempfile.mkdtemp() + "/linear.fxopt"
>>> program.save(path)
>>> str(load_program(path)) == str(program)
True
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fxopt import __version__
from fxopt.errors import ArtifactError
from fxopt.program.container import Container, container_bytes, json_bytes
from fxopt.program.graph_json import decode_graph, encode_graph
from fxopt.program.program import Program
from fxopt.program.revive import Size, revive, sizes_from_json, sizes_of, sizes_to_json
from fxopt.program.sharing import shared_table
from fxopt.program.signature import Signature
from fxopt.program.trees import signature_from_json, signature_to_json
from fxopt.program.weights import pack_weights, unpack_weights
from fxopt.program.writing import Buffer, checked_path, replacing, write_file

__all__ = [
    "FORMAT",
    "SUFFIX",
    "ProgramFile",
    "entries_buffers",
    "file_buffers",
    "file_kind",
    "load_program",
    "program_of",
    "read_file",
    "save_program",
]

FORMAT = 1
"""Of the file; a reader refuses a later one."""
SUFFIX = ".fxopt"
KINDS = ("program", "eager", "entries")
_GRAPH, _WEIGHTS = "graph.json", "weights.safetensors"


@dataclass(frozen=True)
class ProgramFile:
    """What a file holds, checked: `graph` is its JSON, `settings` what its kind adds to the manifest."""

    path: str
    kind: str
    name: str
    signature: Signature
    weights: dict[str, torch.Tensor]
    graph: dict[str, object]
    ties: dict[str, str]
    sizes: list[Size]
    history: tuple[str, ...]
    properties: frozenset[str]
    attached: dict[str, Mapping[str, object]]
    assumptions: tuple[str, ...]
    settings: dict[str, object]
    size: int


def _check_suffix(path: str) -> None:
    if not path.endswith(SUFFIX):
        raise ArtifactError(f"{path}: expected a name that ends in {SUFFIX}")


def file_buffers(
    program: Program, kind: str, *, lines: bool, settings: Mapping[str, object] | None = None
) -> list[Buffer]:
    """The bytes of a file, the weights' memory among them uncopied.

    Args:
        program: what to write.
        kind: "program" or "eager".
        lines: keep the user's file names and lines; else module paths only.
        settings: what the kind adds to the manifest.

    Raises:
        ArtifactError: the program holds what has no file form.
    """
    graph = encode_graph(program, lines=lines)
    described = {**_described(program), "settings": dict(settings or {})}
    if lines and program.assumptions:
        described["assumptions"] = list(program.assumptions)
    return _buffers(kind, graph, program.weights, described)


def entries_buffers(programs: Mapping[str, Program], settings: Mapping[str, object]) -> list[Buffer]:
    """The bytes of a file of kind "entries": several graphs over one table of weights.

    Args:
        programs: by entry point; they share their weights (`share_weights`).
        settings: what goes into the manifest beside them.

    Raises:
        ArtifactError: a program holds what has no file form.
    """
    graphs = {name: encode_graph(program, lines=False) for name, program in programs.items()}
    entries = {name: _described(program) for name, program in programs.items()}
    described = {"name": "model", "entries": entries, "settings": dict(settings)}
    return _buffers("entries", graphs, shared_table(programs), described)


def _described(program: Program) -> dict[str, object]:
    """What the manifest says of a program, beside its weights."""
    return {
        "name": program.name,
        "signature": signature_to_json(program.signature),
        "sizes": sizes_to_json(sizes_of(program)),
        "ties": [list(pair) for pair in program.ties.items()],
        "history": list(program.history),
        "properties": sorted(program.properties),
        "attached": program.attached,
    }


def _buffers(
    kind: str, graph: object, weights: Mapping[str, torch.Tensor], described: Mapping[str, object]
) -> list[Buffer]:
    packed = pack_weights(weights)
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "fxopt": __version__,
        "torch": torch.__version__.partition("+")[0],
        "weights": packed.table,
        "storages": packed.storages,
        **described,
    }
    members: dict[str, Sequence[Buffer]] = {
        _GRAPH: [json_bytes(graph)],
        _WEIGHTS: packed.buffers,
    }
    return list(container_bytes(members, manifest))


def save_program(program: Program, path: str | os.PathLike[str]) -> None:
    """Writes a program: the whole file, or none and whatever was there before.

    Raises:
        ArtifactError: wrong suffix, the file can't be written, or the program holds what has no file form.
    """
    _check_suffix(checked_path(path))
    buffers = file_buffers(program, "program", lines=True)
    with replacing(Path(path)) as temporary:
        write_file(temporary, buffers)


def file_kind(path: str | os.PathLike[str]) -> str:
    """The kind of a file, "program" or "eager", without reading its weights.

    Raises:
        ArtifactError: it is no `.fxopt` file, or damaged.
    """
    with _opened(path) as container:
        return _kind(container)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Container]:
    name = checked_path(path)
    _check_suffix(name)
    try:
        with Path(path).open("rb") as file:
            yield Container(file, name, (_GRAPH, _WEIGHTS))
    except OSError as error:
        raise ArtifactError(f"can't read {name}: {error.strerror or error}") from error


def _kind(container: Container) -> str:
    manifest = container.manifest
    version, kind = manifest.get("format"), manifest.get("kind")
    if version != FORMAT:
        raise container.error(
            f"it has format {version!r}, written by fxopt {manifest.get('fxopt')!r}; "
            f"this fxopt reads format {FORMAT}"
        )
    if kind not in KINDS:
        raise container.error(f"it is of unknown kind {kind!r}")
    return str(kind)


def read_file(path: str | os.PathLike[str], kind: str, *, entry: str = "") -> ProgramFile:
    """Reads and checks a file of one kind.

    Args:
        path: the file.
        kind: which it must be of.
        entry: of kind "entries", which of them.

    Raises:
        ArtifactError: wrong suffix or kind, damaged, changed, or of a later format.
    """
    with _opened(path) as container:
        found = _kind(container)
        if found != kind:
            raise container.error(f"it is of kind {found!r}, expected {kind!r}; fxopt.load opens either")
        try:
            return _content(container, kind, entry)
        except ArtifactError as error:
            raise _named(container, error) from error


def _named(container: Container, error: ArtifactError) -> ArtifactError:
    return error if container.path in str(error) else container.error(str(error))


def _content(container: Container, kind: str, entry: str) -> ProgramFile:
    manifest: Mapping[str, object] = container.manifest
    graph = container.read_json(_GRAPH)
    if kind == "entries":
        graph, described = _of_entry(graph, entry), _of_entry(manifest.get("entries"), entry)
        manifest = {**manifest, **described}
    weights = unpack_weights(
        manifest.get("weights"),
        manifest.get("storages"),
        container.view(_WEIGHTS),
    )
    settings = manifest.get("settings")
    if not isinstance(settings, dict):
        raise ArtifactError("its settings are malformed")
    return ProgramFile(
        path=container.path,
        kind=kind,
        name=str(manifest.get("name")),
        signature=signature_from_json(manifest.get("signature")),
        weights=weights,
        graph=graph,
        ties=_pairs(manifest.get("ties")),
        sizes=sizes_from_json(manifest.get("sizes")),
        history=_words(manifest.get("history")),
        properties=frozenset(_words(manifest.get("properties"))),
        attached=_attached(manifest.get("attached", {})),
        assumptions=_words(manifest.get("assumptions", [])),
        settings=settings,
        size=os.path.getsize(container.path),
    )


def _of_entry(value: object, entry: str) -> dict[str, object]:
    found = value.get(entry) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        raise ArtifactError(f"it has no entry point {entry!r}")
    return found


def _words(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ArtifactError("its manifest is malformed: expected a list of strings")
    return tuple(value)


def _attached(value: object) -> dict[str, Mapping[str, object]]:
    if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
        raise ArtifactError("its attached data are malformed")
    return value


def _pairs(value: object) -> dict[str, str]:
    pairs = [_words(p) for p in value] if isinstance(value, list) else [()]
    if any(len(p) != 2 for p in pairs):
        raise ArtifactError("its table of tied weights is malformed")
    return dict(pairs)  # type: ignore[arg-type]  # pairs, as just checked


def program_of(content: ProgramFile, *, values: bool = True) -> Program:
    """The program that a file holds.

    Args:
        content: of the file.
        values: infer `meta["val"]`; what only runs the graph needs none.

    Raises:
        ArtifactError: an op is unknown here, or graph and signature disagree.
    """
    try:
        graph = decode_graph(content.graph, content.weights)
        program = revive(graph, content.weights, content.signature, content.sizes, values=values)
    except ArtifactError as error:
        raise ArtifactError(f"can't read {content.path}: {error}") from error
    program.name, program.ties = content.name, dict(content.ties)
    program.history, program.properties = content.history, content.properties
    program.attached = dict(content.attached)
    program.assumptions = content.assumptions
    return program


def load_program(path: str | os.PathLike[str]) -> Program:
    """Reads a program.

    Raises:
        ArtifactError: wrong suffix, damaged, changed, of a later format, or with ops unknown here.
    """
    return program_of(read_file(path, "program"))
