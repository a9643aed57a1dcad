"""What is done of a run, shard by shard: in memory, or in a folder that a later run goes on from.

A shard's file is written to a hidden name and renamed, so that it is whole or not there; a run that was killed at any
moment loses what it had under way, and no more.
"""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from fxopt.distributed.data import Piece
from fxopt.errors import ArtifactError, InputError
from fxopt.program.writing import hidden_name, replacing, write_file, writing

__all__ = ["Folder", "Memory", "Parts", "flattened", "restored"]

_RUN = "run.json"
_SUFFIX = ".safetensors"


class Parts(ABC):
    """The shards that are done, by number."""

    @abstractmethod
    def done(self) -> set[int]:
        """The numbers of those that are here."""

    @abstractmethod
    def put(self, shard: int, pieces: Sequence[Piece]) -> None:
        """Keeps a shard's results."""

    @abstractmethod
    def pieces(self, shard: int) -> Sequence[Piece]:
        """The results of a shard that is here."""

    @abstractmethod
    def remove(self) -> None:
        """Removes all: the results stand elsewhere now."""


class Memory(Parts):
    """Nothing is kept beyond the run."""

    def __init__(self) -> None:
        self._pieces: dict[int, Sequence[Piece]] = {}

    def done(self) -> set[int]:
        """The numbers of those that are here."""
        return set(self._pieces)

    def put(self, shard: int, pieces: Sequence[Piece]) -> None:
        """Keeps a shard's results as they are, but for those that would hold much more memory than their own."""
        self._pieces[shard] = [
            piece if piece.outputs is None else replace(piece, outputs=tuple(map(_kept, piece.outputs)))
            for piece in pieces
        ]

    def pieces(self, shard: int) -> Sequence[Piece]:
        """What was put."""
        return self._pieces[shard]

    def remove(self) -> None:
        """Nothing is elsewhere."""


class Folder(Parts):
    """A file a shard, beside what is to become of them.

    Args:
        path: the folder; made if it is not there.
        run: what makes two runs the same, as text by name.

    Raises:
        InputError: it holds parts of another run.
        ArtifactError: it can't be written.
    """

    def __init__(self, path: Path, run: Mapping[str, str]) -> None:
        self.path = path
        with writing(path):
            path.mkdir(exist_ok=True)
        manifest = path / _RUN
        if manifest.is_file():
            self._check(manifest, run)
        elif any(path.glob(f"*{_SUFFIX}")):
            raise InputError(
                f"{path} holds parts of a run that is not known: remove it, or choose another output"
            )
        else:
            with replacing(manifest) as temporary:
                write_file(temporary, [json.dumps(dict(run), indent=1).encode()])

    def _check(self, manifest: Path, run: Mapping[str, str]) -> None:
        try:
            known = json.loads(manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"can't read {manifest}: {error}; remove the folder to begin anew") from error
        differs = next((k for k, v in run.items() if not isinstance(known, dict) or known.get(k) != v), None)
        if differs is not None:
            raise InputError(
                f"{self.path} holds parts of another run ({differs} differs): remove it, or choose another output"
            )

    def _file(self, shard: int) -> Path:
        return self.path / f"{shard:06}{_SUFFIX}"

    def done(self) -> set[int]:
        """The numbers of those that are here and whole."""
        files = (f for f in self.path.glob(f"[0-9]*{_SUFFIX}") if _is_whole(f))
        return {int(f.stem) for f in files}

    def put(self, shard: int, pieces: Sequence[Piece]) -> None:
        """Writes a shard's file, whole or not at all.

        Raises:
            ArtifactError: the file system refuses.
        """
        file = self._file(shard)
        temporary = hidden_name(file)
        with writing(file):
            # Not through to the disk, which is dear: what a lost machine leaves of it is seen, and made again.
            temporary.write_bytes(packed(pieces))
            temporary.replace(file)

    def pieces(self, shard: int) -> Sequence[Piece]:
        """What a shard's file holds."""
        return unpacked(self._file(shard).read_bytes())

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


def _is_whole(file: Path) -> bool:
    """Whether a file can be read: one that a full disk or a lost machine cut off is made again."""
    try:
        with safe_open(file, "pt"):
            return True
    except (SafetensorError, OSError):
        return False


def packed(pieces: Sequence[Piece]) -> bytes:
    """Results as the bytes of a safetensors file: tensors by `PIECE.OUTPUT`, the rest in its metadata."""
    taken: set[int] = set()
    text, tensors = flattened(pieces)
    alone = {name: _alone(t.cpu().contiguous(), taken) for name, t in tensors.items()}
    return save(alone, {"pieces": text})


def _kept(value: object) -> object:
    if not isinstance(value, torch.Tensor):
        return value
    tensor = value.detach().cpu()
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def _alone(tensor: torch.Tensor, taken: set[int]) -> torch.Tensor:
    """A tensor that shares its memory with no other of a file, or a copy."""
    place = tensor.untyped_storage().data_ptr()
    is_alone = tensor.untyped_storage().nbytes() == tensor.nbytes and place not in taken
    taken.add(place)
    return tensor if is_alone else tensor.clone()


def unpacked(content: bytes) -> list[Piece]:
    """The pieces again."""
    length = int.from_bytes(content[:8], "little")
    text = json.loads(content[8 : 8 + length])["__metadata__"]["pieces"]
    return restored(text, load(content))


def flattened(pieces: Sequence[Piece]) -> tuple[str, dict[str, torch.Tensor]]:
    """Results as tensors by `PIECE.OUTPUT`, in order, and a text of the rest."""
    tensors: dict[str, torch.Tensor] = {}
    entries: list[dict[str, object]] = []
    for number, piece in enumerate(pieces):
        values = piece.outputs or ()
        tensors |= {f"{number}.{i}": v.detach() for i, v in enumerate(values) if isinstance(v, torch.Tensor)}
        entries.append(
            {
                "records": [piece.start, piece.stop],
                "outputs": None if piece.outputs is None else len(values),
                "scalars": {str(i): v for i, v in enumerate(values) if not isinstance(v, torch.Tensor)},
                "reason": piece.reason,
            }
        )
    return json.dumps(entries), tensors


def restored(text: str, tensors: Mapping[str, torch.Tensor]) -> list[Piece]:
    """The pieces that `flattened` was given."""
    return [_piece(str(number), entry, tensors) for number, entry in enumerate(json.loads(text))]


def _piece(number: str, entry: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Piece:
    start, stop = entry["records"]
    if entry["outputs"] is None:
        return Piece(start, stop, None, entry["reason"])
    scalars = entry["scalars"]
    values = [scalars.get(str(i), tensors.get(f"{number}.{i}")) for i in range(entry["outputs"])]
    return Piece(start, stop, tuple(values))
