"""Pipeline text: what is printed parses to the same, for every value; a mistake gets a caret."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fxopt.errors import PipelineError
from fxopt.pipeline.text import Fixpoint, Named, Size, Step, marked, parse_steps, print_steps, print_value

WORDS = st.from_regex(r"[a-z][a-z0-9]*(-[a-z0-9]+){0,2}", fullmatch=True).filter(lambda w: w != "fixpoint")
NASTY = [
    "onnx:onnxruntime", "true", "false", "none", "True", "inf", "-inf", "nan", "inf.x", "nan:y", "inf/z", "1e5",
    "10MB", "1.5", "-3", "+3", ".5", "5.", "0x10", "1_000", 'a"b', "a\\b", "\\", '"', "", " ", " a", "a ", "é",
    "日本", "x\ny", "x\ty", "\r\n", "\x00", "\ud800", "a,b", "a=b", "{", "}", "[", "]", "(", ")", "a}b", "l2", "a.b/c-d:e",
    "fixpoint", "fixpoint(", "#", "'", "a\u2028b", "-",
]  # fmt: skip
FLOATS = [
    1e-07,
    1e22,
    1e16,
    123456789.0,
    0.1,
    -0.0,
    5e-324,
    1.7976931348623157e308,
    math.inf,
    -math.inf,
    math.nan,
]
SCALARS = st.one_of(
    st.booleans(),
    st.none(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(NASTY),
    st.sampled_from(FLOATS),
    st.integers(0, 10**6).flatmap(lambda n: st.sampled_from([Size(n), Size(n * 1000), Size(n * 1024**2)])),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
OPTIONS = st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True), VALUES, max_size=3)
NAMED = st.builds(lambda name, options: Named(name, tuple(options.items())), WORDS, OPTIONS)
STEPS = st.recursive(
    NAMED, lambda s: st.lists(s, min_size=1, max_size=3).map(lambda x: Fixpoint(tuple(x))), max_leaves=5
)


def plain(step: Step) -> object:
    """Steps with the types of their values, to compare exactly."""
    if isinstance(step, Fixpoint):
        return ("fixpoint", [plain(s) for s in step.steps])
    return (step.name, [(k, typed(v)) for k, v in step.options])


def typed(value: object) -> object:
    if isinstance(value, list):
        return [typed(v) for v in value]
    return (type(value).__name__, repr(value))


@given(st.lists(STEPS, max_size=4).map(tuple))
@example((Named("p", tuple((f"o{i}", v) for i, v in enumerate([*NASTY, *FLOATS]))),))
@example((Fixpoint((Fixpoint((Named("a", (("x", [[], [[1e-07, "a b"]]]),)),)),)),))
def test_what_is_printed_parses_to_the_same(steps: tuple[Step, ...]) -> None:
    text = print_steps(steps)
    assert [plain(s) for s in parse_steps(text)] == [plain(s) for s in steps]
    assert print_steps(parse_steps(text)) == text


@given(st.lists(STEPS, min_size=1, max_size=3).map(tuple), st.randoms(use_true_random=False))
def test_spaces_between_tokens_mean_nothing(steps: tuple[Step, ...], random: object) -> None:
    assert parse_steps(f"  {print_steps(steps)}\n") == steps


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-07", 1e-07), ("1e+22", 1e22), ("inf", math.inf), ("-inf", -math.inf), ("-3", -3), ("0.5", 0.5), ("10MB", 10**7),
        ("2KiB", 2048), ("0B", 0), ("true", True), ("none", None), ('"true"', "true"), ("l2", "l2"),
        ("onnx:onnxruntime", "onnx:onnxruntime"), ("inf.x", "inf.x"), ("a/b.py", "a/b.py"),
        ("[1,2]", [1, 2]), ("[]", []), ('["a,b",c]', ["a,b", "c"]), ('"\\u00e9"', "é"), ('"a\\"b"', 'a"b'), ("[[1],[]]", [[1], []]),
    ],
)  # fmt: skip
def test_values(text: str, value: object) -> None:
    (step,) = parse_steps(f"p{{x={text}}}")
    assert isinstance(step, Named)
    parsed = dict(step.options)["x"]
    assert parsed == value
    assert isinstance(parsed, type(value))
    assert print_value(parsed) == (text if text != '"\\u00e9"' else '"\\u00e9"')


def test_nan_spaces_lines_and_nothing() -> None:
    (step,) = parse_steps(" p { x = nan } ")
    assert isinstance(step, Named)
    nan = step.options[0][1]
    assert isinstance(nan, float)
    assert math.isnan(nan)
    assert parse_steps("") == parse_steps(" \n ") == ()
    assert print_steps(()) == ""
    assert print_steps(parse_steps("a ,\n  fixpoint( b,c )\n")) == "a,fixpoint(b,c)"
    assert print_steps(parse_steps("a{}")) == "a"


def test_a_pass_may_be_named_fixpoint_plus() -> None:
    assert parse_steps("fixpoint-more,fixpoint(a)") == (Named("fixpoint-more"), Fixpoint((Named("a"),)))


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("a,,b", "expected a pass name, found ','", 2),
        ("a,", "expected a pass name, found the end", 2),
        (",a", "expected a pass name", 0),
        ("a{x}", "expected '='", 3),
        ("a{x=}", "expected a value, found '}'", 4),
        ("a{x=", "expected a value, found the end", 4),
        ("a{=1}", "expected an option name", 2),
        ("a{x=1", "expected ',' or '}', found the end", 5),
        ("a{x=1 y=2}", "expected ',' or '}'", 6),
        ("a{x=1,}", "expected an option name", 6),
        ("a{x=1,x=2}", "the option 'x' is given twice", 6),
        ("a b", "expected ',' or the end, found 'b'", 2),
        ("a)", "expected ',' or the end, found ')'", 1),
        ('"a"', "expected a pass name", 0),
        ('a{x="b}', "the quoted string does not end", 4),
        ('a{x="\\q"}', "malformed string", 4),
        ("fixpoint()", "needs at least one pass", 9),
        ("fixpoint(a", "expected ',' or ')'", 10),
        ("fixpoint(a;b)", "unexpected ';'", 10),
        ("a{x=[1}", "expected ',' or ']'", 6),
        ("a{x=[1,]}", "expected a value, found ']'", 7),
        ("a{x=1.5MB}", "unexpected '1'", 4),
        ("a{x=3x}", "unexpected '3'", 4),
        ("a&b", "unexpected '&'", 1),
        ("1a", "unexpected '1'", 0),
    ],
)
def test_a_mistake_gets_a_caret(text: str, message: str, column: int) -> None:
    with pytest.raises(PipelineError) as error:
        parse_steps(text)
    first, echoed, caret = str(error.value).split("\n")
    assert message in first
    assert echoed == f"  {text}"
    assert caret == " " * (column + 2) + "^"


def test_the_caret_of_a_text_of_several_lines_stands_under_its_line() -> None:
    with pytest.raises(PipelineError) as error:
        parse_steps("first,\nsecond{x=},\nthird")
    assert str(error.value).split("\n")[1:] == ["  second{x=},", "           ^"]
    assert str(marked("a,\n\tb", 4, "why")) == "why\n   b\n   ^"


def test_equal_steps_print_the_same() -> None:
    assert Named("a", (("x", 1),), position=3) == Named("a", (("x", 1),))
    assert Named("a", (("x", 1),)) != Named("a", (("x", 1.0),))
    assert Named("a", (("x", math.nan),)) == Named("a", (("x", math.nan),))
    assert len({Named("a"), Named("a", position=1)}) == 1
