"""Order ideals grown a piece at a time, and what the cuts behind them send: against trying everything."""

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fxopt.passes.partition._ideals import Ideals, Open, as_flags
from fxopt.passes.partition._pieces import pieces_of
from fxopt.passes.partition._times import seconds_of
from fxopt.program import Program
from fxopt.testing import programs
from tests.passes.partition.test_objectives import crossing
from tests.passes.partition.test_search import is_small


class TestOpenSets:
    @given(programs(max_ops=12), st.data())
    def test_their_numbers_are_those_of_what_is_inside(self, program: Program, data: st.DataObject) -> None:
        """When every piece is decided nothing is left that may be added."""
        cost = {n.name: float(data.draw(st.integers(1, 5))) for n in program.calls()}
        parts = pieces_of(program, seconds_of(program, cost))
        ideals = Ideals(parts)
        open_ = Open(ideals)
        for piece in range(len(parts)):
            open_.decide(piece, must=False, never=data.draw(st.booleans()))
        inside = as_flags(open_.inside, len(parts))
        assert np.array_equal(open_.seconds, inside @ ideals.seconds)
        assert np.array_equal(open_.most, open_.seconds)
        assert np.array_equal(open_.held, inside @ ideals.weights)
        assert np.array_equal(open_.most_held, open_.held)
        sent = [crossing(parts, tuple(int(not f) for f in flags), 0, 1) for flags in inside]
        assert open_.sent.tolist() == sent


class TestLeastSent:
    @given(programs(max_ops=6), st.data())
    def test_it_is_that_of_the_best_cut(self, program: Program, data: st.DataObject) -> None:
        parts = pieces_of(program, seconds_of(program, {n.name: 1.0 for n in program.calls()}))
        if not is_small(parts):
            return
        count = len(parts)
        must = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
        never = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
        edges = [(t.maker, u) for t in parts.tensors for u in t.users if t.maker >= 0 and u < count]
        sent = [
            crossing(parts, stages, 0, 1)
            for stages in itertools.product(range(2), repeat=count)
            if all(stages[a] <= stages[b] for a, b in edges)
            and not any(stages[p] for p in np.nonzero(must)[0])
            and all(stages[p] for p in np.nonzero(never)[0])
        ]
        assert Ideals(parts).least_sent(must, never) == min(sent, default=math.inf)
