"""Index maps as text: what parses, what it means, where a mistake is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxopt.errors import FxoptError
from fxopt.ops import Dimension, Index, IndexMap, IndexMapError, Mark, Operand, parse_index_map

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)
INDICES = st.builds(
    Index,
    st.one_of(NAMES, st.integers(0, 99).map(lambda k: f"*{k}")),
    st.sampled_from(Mark),
    st.none() | st.integers(0, 2**40),
)
ITEMS = st.builds(lambda indices: Dimension(tuple(indices)), st.lists(INDICES, max_size=3))
ANY = Dimension((Index("*"),))


@st.composite
def operands(draw: st.DrawFn) -> Operand:
    dims = draw(st.lists(ITEMS, max_size=4))
    if draw(st.booleans()):
        dims.insert(draw(st.integers(0, len(dims))), ANY)
    return Operand(draw(NAMES), tuple(dims))


SIDES = st.lists(operands(), min_size=1, max_size=3).map(tuple)


@given(st.builds(IndexMap, SIDES, SIDES))
def test_round_trip(index_map: IndexMap) -> None:
    assert parse_index_map(str(index_map)) == index_map


@given(st.builds(IndexMap, SIDES, SIDES), st.sampled_from([" ", "  ", "\t", "\n"]))
def test_space_does_not_matter(index_map: IndexMap, space: str) -> None:
    spaced = str(index_map)
    for sign in ("[", "]", ",", "(", ")", "->"):
        spaced = spaced.replace(sign, f"{space}{sign}{space}")
    assert parse_index_map(spaced) == index_map


@given(st.text(alphabet="xw[](),*~!.= ->i3", max_size=20))
def test_any_text_parses_or_is_an_index_map_error(text: str) -> None:
    try:
        parsed = parse_index_map(text)
    except IndexMapError:
        return
    assert parse_index_map(str(parsed)) == parsed


def test_what_a_map_says() -> None:
    index_map = parse_index_map("x[*,(g=2 i),~h], w[(g o),i,!k] -> y[*,(g o),~h,.]")
    x, w = index_map.inputs
    assert (x.name, w.name) == ("x", "w")
    assert [d.is_leading for d in x.dims] == [True, False, False]
    assert x.dims[1].indices == (Index("g", size=2), Index("i"))
    assert x.dims[2].indices == (Index("h", Mark.NEAR),)
    assert w.dims[2].indices == (Index("k", Mark.MIXED),)
    assert index_map.outputs[0].dims[3].indices == ()
    assert index_map.contracted == ("i", "k")


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("", 1, "a tensor's name"),
        ("x[i", 4, "',' or ']'"),
        ("x[i,] -> y[i]", 5, "an index"),
        ("x[i] y[i]", 6, "',' or '->'"),
        ("x[i] -> ", 9, "a tensor's name"),
        ("x(i) -> y[i]", 2, "'['"),
        ("x[*,*] -> y[*]", 5, "one '*' a bracket"),
        ("x[i] -> y[i];", 13, "',' or the end"),
        ("x[~] -> y[i]", 3, "an index"),
        ("x[(i] -> y[i]", 5, "an index"),
    ],
)
def test_a_mistake_has_a_caret_under_it(text: str, column: int, expected: str) -> None:
    with pytest.raises(IndexMapError) as error:
        parse_index_map(text)
    first, shown, caret = str(error.value).split("\n")
    assert expected in first
    assert f"column {column}" in first
    assert shown.strip() == text.strip()
    assert caret.index("^") - 2 == column - 1
    assert isinstance(error.value, FxoptError)


@pytest.mark.parametrize(
    ("text", "inputs", "outputs", "extents"),
    [
        ("x[*,i], w[o,i] -> y[*,o]", [(2, 5, 3), (4, 3)], [(2, 5, 4)], {"*2": 2, "*1": 5, "i": 3, "o": 4}),
        ("x[*,k], w[*,k] -> y[*]", [(1, 3, 7), (2, 1, 7)], [(2, 3)], {"*2": 2, "*1": 3, "k": 7}),
        (
            "x[n,(g i)], w[(g o),i] -> y[n,(g o)]",
            [(2, 6), (8, 3)],
            [(2, 8)],
            {"n": 2, "g": 2, "i": 3, "o": 4},
        ),
        ("x[(g=3 c)] -> y[(c g=3)]", [(12,)], [(12,)], {"g": 3, "c": 4}),
        ("x[~h] -> y[~h]", [(9,)], [(4,)], {"h": 4}),
        ("x[(a b)] -> y[(b a)]", [(6,)], [(6,)], {}),
    ],
)
def test_extents(text: str, inputs: list, outputs: list, extents: dict[str, int]) -> None:
    assert parse_index_map(text).extents(inputs, outputs) == extents


def test_a_shape_that_does_not_fit() -> None:
    index_map = parse_index_map("x[i,j] -> y[j]")
    with pytest.raises(ValueError, match=r"3 dimensions does not fit x\[i,j\]"):
        index_map.extents([(2, 3, 4)], [(3,)])
    with pytest.raises(ValueError, match=r"1 dimensions does not fit x\[i,j\]"):
        index_map.extents([(2,)], [(3,)])
