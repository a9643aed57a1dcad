"""How many bytes of results a stage has alive, at the least, whichever pieces it is made of.

While a piece runs, its stage holds all that came in, and of what the stage itself made each result that is still read later, be
it by a later stage. Stages keep the order of the program's calls, so what is read later is known without the split.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fxopt.analysis.cost import owners
from fxopt.ops import tensor_bytes
from fxopt.passes.partition._pieces import Pieces, is_size
from fxopt.program import Program

__all__ = ["Live", "live_of"]

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Live:
    """Results of pieces.

    Attributes:
        alive: by piece that runs, and piece: bytes of results of the second that are alive then, f64[pieces, pieces].
        arguments: bytes that come into the first stage.
    """

    alive: Array
    arguments: int

    def of(self, members: Iterable[int], taken: int) -> int:
        """Bytes of a stage, beside weights, with what it takes."""
        own = list(members)
        return taken + int(self.alive[np.ix_(own, own)].sum(axis=1).max(initial=0.0))

    def before(self, inside: Flags) -> Array:
        """For sets of pieces, by piece that runs: bytes of the results of the set, f64[sets, pieces]."""
        found: Array = inside @ self.alive.T
        return found

    def between(self, inside: Flags, taken: Array) -> Array:
        """Bytes of a stage from each set to each other, with what a cut at the first sends, f64[sets, sets]."""
        made = self.before(inside)
        found = np.zeros((len(inside), len(inside)))
        for piece in range(inside.shape[1]):
            own = ~inside[:, None, piece] & inside[None, :, piece]
            np.maximum(found, made[None, :, piece] - made[:, None, piece], out=found, where=own)
        return found + taken[:, None]


def live_of(program: Program, pieces: Pieces) -> Live:
    """What is alive when; of a piece of several calls at the one with the most.

    Raises:
        InputError: the bytes of a result depend on data.
    """
    calls = list(program.calls())
    place = {n: i for i, n in enumerate(calls)} | {program.graph.output_node(): len(calls)}
    piece_of = {c: p for p, piece in enumerate(pieces.pieces) for c in piece.calls}
    last: dict[object, int] = {}
    owner = owners(program)
    for node in calls:
        users = (place[u] for u in node.users if not is_size(u))
        last[owner[node]] = max(last.get(owner[node], 0), place[node], *users)
    made = [n for n in calls if owner[n] is n and n in piece_of]
    sizes = np.array([_bytes(n.meta["val"]) for n in made], dtype=np.float64)
    first, final = (np.array([f[n] for n in made], dtype=int) for f in (place, last))
    makers = np.array([piece_of[n] for n in made], dtype=int)
    alive = np.zeros((len(pieces), len(pieces)))
    for number, piece in enumerate(pieces.pieces):
        then = ((first <= place[c]) & (place[c] <= final) for c in piece.calls)
        most = max(then, key=lambda flags: float(sizes @ flags))
        np.add.at(alive[number], makers[most], sizes[most])
    return Live(alive, sum(t.bytes for t in pieces.tensors if t.maker < 0))


def _bytes(value: object) -> int:
    size = tensor_bytes(value)
    return size if isinstance(size, int) else int(size.node.hint)
