"""The order ideals of pieces: the sets that can run before a cut, as bits, grown a piece at a time."""

import math

import networkx
import numpy as np
import numpy.typing as npt

from fxopt.passes.partition._pieces import Pieces

__all__ = ["Array", "Flags", "Ideals", "Open", "Words", "as_bits", "as_flags"]

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]


def as_bits(flags: Flags) -> Words:
    """Flags along the last axis as bits."""
    count = flags.shape[-1]
    padded = np.zeros((*flags.shape[:-1], -(-count // 64) * 64), dtype=bool)
    padded[..., :count] = flags
    return np.packbits(padded, axis=-1, bitorder="little").view(np.uint64)


def as_flags(words: Words, count: int) -> Flags:
    return np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")[..., :count].astype(bool)


class Ideals:
    """What is known of the order ideals of some pieces."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces, self.count = pieces, len(pieces)
        self.seconds = np.array(pieces.seconds)
        self.needs = np.eye(self.count, dtype=bool)
        for user, maker in sorted((u, t.maker) for t in pieces.tensors for u in t.users if t.maker >= 0):
            if user < self.count:
                self.needs[user] |= self.needs[maker]
        self.after = self.needs.T.copy()
        self.weights = np.zeros(self.count)
        """By piece: bytes of weights that it alone reads."""
        for weight in pieces.weights:
            if len(weight.users) == 1:
                self.weights[weight.users[0]] += weight.bytes
        self.read = [
            [t for t in pieces.tensors if piece in t.users and t.users[-1] < self.count]
            for piece in range(self.count)
        ]
        """By piece: tensors that cross a cut for as long as one of their readers is behind it."""
        self.kept = np.zeros(self.count + 1)
        """By piece, inputs last: bytes that cross every cut behind it, to the program's outputs."""
        for tensor in pieces.tensors:
            if tensor.users[-1] == self.count:
                self.kept[tensor.maker] += tensor.bytes
        self.least: dict[tuple[bytes, bytes], float] = {}

    def least_sent(self, must: Flags, never: Flags) -> float:
        """The fewest bytes that a cut sends with some pieces before it and some after it; infinite if there is none."""
        key = (must.tobytes(), never.tobytes())
        if key not in self.least:
            self.least[key] = self._minimum_cut(must, never)
        return self.least[key]

    def _minimum_cut(self, must: Flags, never: Flags) -> float:
        graph = networkx.DiGraph()
        graph.add_edge("before", -1)
        graph.add_edge(self.count, "after")
        graph.add_edges_from(("before", int(p)) for p in np.nonzero(must)[0])
        graph.add_edges_from((int(p), "after") for p in np.nonzero(never)[0])
        for number, tensor in enumerate(self.pieces.tensors):
            graph.add_edge(tensor.maker, ("sent", number), capacity=tensor.bytes)
            for user in tensor.users:
                graph.add_edge(("sent", number), user)
                if user < self.count:
                    graph.add_edge(user, tensor.maker)
        try:
            return float(networkx.minimum_cut_value(graph, "before", "after"))
        except networkx.NetworkXUnbounded:
            return math.inf


class Open:
    """Order ideals of the first pieces, which any later ones may be added to.

    Attributes:
        inside: pieces, as bits.
        shut: pieces that are left out, and what needs them.
        seconds: of the pieces inside.
        most: seconds of all that are not shut out.
        held: bytes of weights that one piece reads, of the pieces inside.
        most_held: bytes of these of all that are not shut out.
        sent: bytes, at least.
    """

    def __init__(self, ideals: Ideals) -> None:
        self.ideals = ideals
        self.inside = as_bits(np.zeros((1, ideals.count), dtype=bool))
        self.shut = self.inside.copy()
        self.seconds, self.most = np.zeros(1), np.full(1, ideals.seconds.sum())
        self.sent = np.full(1, ideals.kept[-1])
        self.held, self.most_held = np.zeros(1), np.full(1, ideals.weights.sum())
        self.behind = as_bits(ideals.after)
        padded = np.zeros((2, 64 * self.inside.shape[1]))
        padded[:, : ideals.count] = ideals.seconds, ideals.weights
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        self.table = padded.reshape(2, -1, 8) @ bits.T
        """Seconds, and bytes of weights, by place of a byte and byte."""

    def _has(self, words: Words, piece: int) -> Flags:
        bit = np.uint64(1) << np.uint64(piece % 64)
        found: Flags = (words[:, piece // 64] & bit) != 0
        return found

    def decide(self, piece: int, *, must: bool, never: bool) -> None:
        """Every set with the piece, where it may be, and without it."""
        taken = [*([] if never else [self._with(piece)]), *([] if must else [self._without(piece)])]
        if not taken:
            self.keep(np.zeros(len(self.seconds), dtype=bool))
            return
        self.inside, self.shut = (np.concatenate([part[i] for part, _ in taken]) for i in range(2))
        self._take(np.concatenate([numbers for _, numbers in taken], axis=1))

    def _numbers(self) -> Array:
        return np.stack([self.seconds, self.most, self.sent, self.held, self.most_held])

    def _take(self, numbers: Array) -> None:
        self.seconds, self.most, self.sent, self.held, self.most_held = numbers

    def _with(self, piece: int) -> tuple[tuple[Words, Words], Array]:
        rows = np.nonzero(~self._has(self.shut, piece))[0]
        inside = self.inside[rows]
        inside[:, piece // 64] |= np.uint64(1) << np.uint64(piece % 64)
        ideals = self.ideals
        added = [ideals.seconds[piece], 0.0, ideals.kept[piece], ideals.weights[piece], 0.0]
        return (inside, self.shut[rows]), self._numbers()[:, rows] + np.array(added)[:, None]

    def _without(self, piece: int) -> tuple[tuple[Words, Words], Array]:
        shut = self.shut | self.behind[piece]
        new = (shut & ~self.shut).view(np.uint8)
        numbers = self._numbers()
        for place in range(piece // 8, new.shape[1]):
            numbers[1] -= self.table[0, place, new[:, place]]
            numbers[4] -= self.table[1, place, new[:, place]]
        for tensor in self.ideals.read[piece]:
            crosses = np.ones(len(new), dtype=bool)
            for other in (tensor.maker, *tensor.users[: tensor.users.index(piece)]):
                crosses &= other < 0 or self._has(self.inside, other)
            numbers[2] += tensor.bytes * crosses
        return (self.inside, shut), numbers

    def keep(self, which: Flags) -> None:
        """Only these."""
        self.inside, self.shut = self.inside[which], self.shut[which]
        self._take(self._numbers()[:, which])
