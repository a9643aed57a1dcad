"""Pipeline text: what is printed parses to the same, for every value; a mistake gets a caret."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxopt.errors import PipelineError
from fxopt.pipeline.text import Fixpoint, Named, Size, parse_steps, print_steps

WORDS = st.from_regex(r"[a-z][a-z0-9]*(-[a-z0-9]+){0,2}", fullmatch=True).filter(lambda w: w != "fixpoint")
SCALARS = st.one_of(
    st.booleans(),
    st.none(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.sampled_from(
        ["onnx:onnxruntime", "true", "none", "inf", "1e5", "10MB", 'a"b', "a\\b", "", " ", "é", "x\ny"]
    ),
    st.integers(1, 10**6).map(lambda n: Size(n * 1000)),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
OPTIONS = st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True), VALUES, max_size=3)
NAMED = st.builds(lambda name, options: Named(name, tuple(options.items())), WORDS, OPTIONS)
STEPS = st.recursive(
    NAMED, lambda s: st.lists(s, min_size=1, max_size=3).map(lambda x: Fixpoint(tuple(x))), max_leaves=5
)


def plain(step: object) -> object:
    """Steps with the types of their values, to compare exactly."""
    if isinstance(step, Fixpoint):
        return ("fixpoint", [plain(s) for s in step.steps])
    assert isinstance(step, Named)
    return (step.name, [(k, typed(v)) for k, v in step.options])


def typed(value: object) -> object:
    if isinstance(value, list):
        return [typed(v) for v in value]
    return (type(value).__name__, repr(value))


@given(st.lists(STEPS, max_size=4).map(tuple))
def test_what_is_printed_parses_to_the_same(steps: tuple) -> None:
    text = print_steps(steps)
    assert [plain(s) for s in parse_steps(text)] == [plain(s) for s in steps]
    assert print_steps(parse_steps(text)) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-07", 1e-07), ("1e+22", 1e22), ("inf", math.inf), ("-inf", -math.inf), ("-3", -3), ("0.5", 0.5), ("10MB", 10**7),
        ("2KiB", 2048), ("true", True), ("none", None), ('"true"', "true"), ("l2", "l2"), ("onnx:onnxruntime", "onnx:onnxruntime"),
        ("[1,2]", [1, 2]), ("[]", []), ('["a,b",c]', ["a,b", "c"]), ('"\\u00e9"', "é"), ('"a\\"b"', 'a"b'),
    ],
)  # fmt: skip
def test_values(text: str, value: object) -> None:
    (step,) = parse_steps(f"p{{x={text}}}")
    assert isinstance(step, Named)
    parsed = dict(step.options)["x"]
    assert parsed == value
    assert isinstance(parsed, type(value))


def test_nan_and_spaces() -> None:
    (step,) = parse_steps(" p { x = nan } ")
    assert isinstance(step, Named)
    assert math.isnan(step.options[0][1])
    assert parse_steps("") == ()
    assert print_steps(parse_steps("a , fixpoint( b,c )")) == "a,fixpoint(b,c)"


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("a,,b", "expected a pass name", 2),
        ("a,", "expected a pass name", 2),
        ("a{x}", "expected '='", 3),
        ("a{x=}", "expected a value", 4),
        ("a{x=1", "expected ',' or '}'", 5),
        ("a{x=1,x=2}", "is given twice", 6),
        ("a b", "expected ',' or the end", 2),
        ('a{x="b}', "does not end", 4),
        ("fixpoint()", "needs at least one", 9),
        ("fixpoint(a", "expected ',' or ')'", 10),
        ("a{x=[1}", "expected ',' or ']'", 6),
        ("a&b", "unexpected '&'", 1),
    ],
)
def test_a_mistake_gets_a_caret(text: str, message: str, column: int) -> None:
    with pytest.raises(PipelineError) as error:
        parse_steps(text)
    first, echoed, caret = str(error.value).split("\n")
    assert message in first
    assert echoed == f"  {text}"
    assert caret == " " * (column + 2) + "^"
