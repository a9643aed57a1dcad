import pytest
import torch
from torch.export import Dim

from fxopt.errors import TraceError
from fxopt.frontend.dimensions import Axis, leaf_names, read_axes

x, y = torch.zeros(4, 3), torch.zeros(8, 3)
n = Dim("n", min=3, max=9)


def names(
    shapes: dict[str, object], arguments: list[tuple[str, object]] | None = None
) -> list[dict[int, str | None]]:
    return [
        {i: a.name for i, a in leaf.items()} for leaf in read_axes(shapes, arguments or [("x", x), ("y", y)])
    ]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({}, [{}, {}]),
        ({"x": None, "y": {}}, [{}, {}]),
        ({"x": {0: "n"}}, [{0: "n"}, {}]),
        ({"x": {-1: "n"}}, [{1: "n"}, {}]),
        ({"x": ("n", None)}, [{0: "n"}, {}]),
        ({"x": [n, 3], "y": {0: 8}}, [{0: "n"}, {}]),
        ({"x": {0: Dim.STATIC, 1: None}}, [{}, {}]),
        ({"x": {0: Dim.AUTO, 1: Dim.DYNAMIC}}, [{0: None, 1: None}, {}]),
        ({"x": {0: n}, "y": {0: 2 * n}}, [{0: "n"}, {0: "2*n"}]),
        ({"x": {0: "n"}, "y": {0: "2 * n"}}, [{0: "n"}, {0: "2*n"}]),
        ({"x": {0: "n"}, "y": {0: "n*2"}}, [{0: "n"}, {0: "n*2"}]),
        ({"x": {0: "n"}, "y": {0: " n + 4"}}, [{0: "n"}, {0: "n + 4"}]),
    ],
)
def test_sizes_in_any_form(shapes: dict[str, object], expected: list[dict[int, str | None]]):
    assert names(shapes) == expected


def test_ranges_and_what_torch_is_told():
    [first, second] = read_axes(
        {"x": {0: n, 1: Dim.DYNAMIC(min=2, max=5)}, "y": {0: Dim.AUTO}}, [("x", x), ("y", y)]
    )
    assert (first[0].low, first[0].high, first[0].required) == (3, 9, True)
    assert (first[1].low, first[1].high, first[1].required) == (2, 5, True)
    assert (second[0].low, second[0].high, second[0].required) == (None, None, False)
    assert [a.hint for a in (*first.values(), *second.values())] == [Dim.AUTO] * 3


def test_torch_is_told_of_relations():
    [first, second] = read_axes({"x": {0: "n", 1: "m"}, "y": {0: "2*n"}}, [("x", x), ("y", y)])
    assert first[0].hint.__name__ == "n"
    assert first[1].hint is Dim.AUTO
    assert second[0].hint.root is first[0].hint


def test_containers_by_structure_and_by_leaf():
    arguments = [("d", {"a": x, "b": [y, (x, None)]})]
    assert leaf_names(*arguments[0]) == ["d_a", "d_b_0", "d_b_1_0", "d_b_1_1"]
    expected = [{0: "n"}, {}, {0: "n"}, {}]
    assert names({"d": {"a": {0: "n"}, "b": [None, ({0: "n"}, None)]}}, arguments) == expected
    assert names({"d_a": {0: "n"}, "d_b_1_0": ("n", None)}, arguments) == expected


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"z": {0: "n"}}, "names 'z', which is no input; the inputs are x, y"),
        ({"xx": {0: "n"}}, "did you mean 'x'?"),
        ({"x": {2: "n"}}, "names axis 2 of 'x', which has 2 axes"),
        ({"x": {"a": "n"}}, "names axis 'a' of 'x'"),
        ({"x": ("n",)}, "for 'x' has 1 axes, the input has 2"),
        ({"x": "n"}, "for 'x' must be {axis: name}, got 'n'"),
        ({"x": {0: 1.5}}, "axis 0 of 'x' is 1.5; expected a name"),
        ({"x": {0: True}}, "axis 0 of 'x' is True; expected a name"),
        ({"x": {0: 5}}, "gives axis 0 of 'x' as 5, the example has 4"),
        ({"x": {0: "a b"}}, "'a b' is no name for a size"),
        ({"x": {0: "class"}}, "'class' is no name for a size"),
        ({"x": {0: "n*m"}}, "'n*m' is no name for a size"),
        ({"x": {0: "f(n)"}}, "'f(n)' is no name for a size"),
        ({"x": {0: ""}}, "'' is no name for a size"),
    ],
)
def test_mistakes(shapes: dict[str, object], says: str):
    with pytest.raises(TraceError) as caught:
        names(shapes)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"a": {0: "n"}, "c": None}, "for 'd' names 'c'; it has a, b"),
        ([None], "for 'd' has 1 entries, the input has 2"),
        ("n", "for 'd' must mirror its structure"),
        ({"b": {0: "n"}}, "gives 'd[1]' a size, but it is no tensor (3)"),
    ],
)
def test_mistakes_in_containers(spec: object, says: str):
    with pytest.raises(TraceError) as caught:
        names({"d": spec}, [("d", {"a": x, "b": 3})])
    assert says in str(caught.value)


def test_an_axis_prints_as_its_name():
    assert repr(Axis("n", 2, 9)) == "Axis(name='n')"
