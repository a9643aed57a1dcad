"""Every position of every dimension has one number."""

import torch

from fxopt.analysis.channels import Axis, Space
from fxopt.analysis.channels.space import is_part
from fxopt.program import Program
from tests.passes.helpers import program, rand


def node(of: Program, name: str):  # type: ignore[no-untyped-def]  # a node of torch.fx
    return next(n for n in of.graph.nodes if n.name.startswith(name) or n.target == name)


def test_an_axis_is_a_span_of_numbers() -> None:
    axis = Axis(3, 4)
    assert list(axis.numbers) == [3, 4, 5, 6]
    assert list(range(10))[axis.span] == [3, 4, 5, 6]


def test_dimensions_are_numbered_one_after_another() -> None:
    before = program(lambda x, w: x * w, rand(2, 3), w=rand(3))
    space = Space(before)
    spans = [(a.start, a.size) for _, a in space.all_axes()]
    assert [start for start, _ in spans] == [sum(s for _, s in spans[:i]) for i in range(len(spans))]
    assert space.size == sum(size for _, size in spans) == (2 + 3) + 3 + (2 + 3)


def test_a_dimension_that_varies_has_none_and_a_number_has_one() -> None:
    before = program(lambda x, w: x.sum() * w, rand(2, 3), dynamic=True, w=rand(3))
    space = Space(before)
    assert space.axes(node(before, "args_0"))[0] is None
    (only,) = space.axes(node(before, "sum"))
    assert only is not None
    assert only.size == 1


def test_parts_of_a_result_are_that_result() -> None:
    before = program(lambda x: torch.cat(x.max(1)[:1]), rand(2, 3))
    space, part = Space(before), node(before, "getitem")
    assert is_part(part)
    assert not is_part(part.args[0])
    assert space.axes(part) == space.parts(part.args[0])[0]
    assert part not in {n for n, _ in space.all_axes()}
