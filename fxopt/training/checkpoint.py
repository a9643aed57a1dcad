"""Checkpoints: all that a run needs to go on as if it had not been stopped. JSON and safetensors, never pickle.

One file holds weights, the best weights, the optimizer's and the schedule's state and how far the run is, so
that they can't disagree; it takes the old one's place at once or not at all.

>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "checkpoint.train"
>>> save_state(path, {"step": 7, "state": {0: {"mean": torch.ones(2)}}})
>>> load_state(path)["state"]
{0: {'mean': tensor([1., 1.])}}
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from fxopt import __version__
from fxopt.errors import ArtifactError
from fxopt.program.container import Container, container_bytes, json_bytes
from fxopt.program.graph_json import decode_literal, encode_literal
from fxopt.program.weights import pack_weights, unpack_weights
from fxopt.program.writing import Buffer, replacing, write_file

__all__ = ["load_state", "save_state"]

FORMAT = 1
_STATE, _TENSORS = "state.json", "tensors.safetensors"


def save_state(path: Path, state: Mapping[str, object]) -> None:
    """Writes a state: dicts, lists, tuples, tensors, numbers, strings, dtypes.

    Raises:
        ArtifactError: the file can't be written, or the state holds something else.
    """
    tensors: dict[str, torch.Tensor] = {}
    encoded = _encode(dict(state), tensors)
    packed = pack_weights(tensors)
    manifest = {
        "format": FORMAT, "kind": "checkpoint", "fxopt": __version__,
        "weights": packed.table, "storages": packed.storages,
    }  # fmt: skip
    members: dict[str, Sequence[Buffer]] = {
        _STATE: [json_bytes({"state": encoded})],
        _TENSORS: packed.buffers,
    }
    with replacing(path) as temporary:
        write_file(temporary, container_bytes(members, manifest))


def load_state(path: Path) -> dict[str, object]:
    """Reads a state.

    Raises:
        ArtifactError: the file is damaged, or no checkpoint.
    """
    try:
        with path.open("rb") as file:
            container = Container(file, str(path), (_STATE, _TENSORS))
            manifest = container.manifest
            if manifest.get("kind") != "checkpoint" or manifest.get("format") != FORMAT:
                raise container.error("it is no checkpoint that this fxopt reads")
            content = container.read_json(_STATE)["state"]
            tensors = unpack_weights(
                manifest.get("weights"), manifest.get("storages"), container.view(_TENSORS)
            )
            state = _decode(content, {name: t.clone() for name, t in tensors.items()})
    except OSError as error:
        raise ArtifactError(f"can't read {path}: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"can't read {path}: its state is malformed") from error
    if not isinstance(state, dict):
        raise ArtifactError(f"can't read {path}: its state is malformed")
    return state


def _encode(value: object, tensors: dict[str, torch.Tensor]) -> object:
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().clone()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_encode(v, tensors) for v in value]}
    if isinstance(value, list):
        return [_encode(v, tensors) for v in value]
    try:
        return encode_literal(value)
    except ArtifactError as error:
        raise ArtifactError(
            f"the optimizer or schedule holds a {type(value).__name__}, which a checkpoint can't keep"
        ) from error


def _decode(value: object, tensors: Mapping[str, torch.Tensor]) -> object:
    match value:
        case {"tensor": str(name)}:
            return tensors[name]
        case {"dict": list(entries)}:
            return {_decode(k, tensors): _decode(v, tensors) for k, v in entries}
        case {"tuple": list(items)}:
            return tuple(_decode(v, tensors) for v in items)
        case list():
            return [_decode(v, tensors) for v in value]
    return decode_literal(value, {})
