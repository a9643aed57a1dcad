"""Options: text values as the types of a pass's fields, and back."""

import enum
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxopt.errors import PipelineError
from fxopt.pipeline import Pass, PassManager
from fxopt.pipeline.options import make_pass, option_help, step_of
from fxopt.pipeline.text import Named, Size, Value, parse_steps, print_steps
from fxopt.rewriting import Rewriter


class Mode(enum.Enum):
    FAST = "fast"
    SAFE = "safe"


class Base(Pass):
    """Has what its children have."""

    ratio: float = 0.5
    """How much
    of it."""

    def run(self, rewriter: Rewriter) -> None: ...


class Options(Base):
    """Has an option of each kind."""

    count: int = 1
    flag: bool = False
    word: str = "l2"
    mode: Mode = Mode.FAST
    norm: Literal["l1", "l2", 3] = "l2"
    limit: float | None = None
    sizes: list[int] | None = None
    pair: tuple[int, str] = (1, "a")
    names: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset()
    many: Sequence[float] = ()
    file: Path | None = None
    either: int | str = 0
    anything: object = None


class Needed(Pass):
    """Has options without defaults."""

    how_much: int
    why: str = ""

    def run(self, rewriter: Rewriter) -> None: ...


def made(cls: type[Pass], **options: Value) -> Pass:
    return make_pass(cls, Named(cls.pass_name(), tuple(options.items())))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ratio", 1, 1.0),
        ("ratio", math.inf, math.inf),
        ("count", Size(10**7), 10**7),
        ("flag", True, True),
        ("word", "5", "5"),
        ("mode", "safe", Mode.SAFE),
        ("norm", "l1", "l1"),
        ("norm", 3, 3),
        ("limit", None, None),
        ("limit", 2, 2.0),
        ("sizes", [1, 2], [1, 2]),
        ("sizes", [], []),
        ("pair", [2, "b"], (2, "b")),
        ("names", ["a"], ("a",)),
        ("kinds", ["a", "b", "a"], frozenset({"a", "b"})),
        ("many", [1, 2.5], (1.0, 2.5)),
        ("file", "a/b.json", Path("a/b.json")),
        ("either", "x", "x"),
        ("either", 3, 3),
        ("anything", [1, "a"], [1, "a"]),
    ],
)
def test_a_value_becomes_its_fields_type(name: str, value: Value, expected: object) -> None:
    got = getattr(made(Options, **{name: value}), name)
    assert got == expected
    assert type(got) is type(expected) or isinstance(value, Size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ration": 1}, "pass 'options' has no option 'ration'; did you mean 'ratio'?"),
        ({"zzz": 1}, "has no option 'zzz'; its options are ratio, count,"),
        ({"ratio": "big"}, "option 'ratio' takes float, got 'big'"),
        ({"ratio": True}, "option 'ratio' takes float, got true"),
        ({"ratio": None}, "option 'ratio' takes float, got none"),
        ({"count": 1.5}, "option 'count' takes int, got 1.5"),
        ({"count": True}, "option 'count' takes int, got true"),
        ({"flag": 1}, "option 'flag' takes bool, got 1"),
        ({"flag": "True"}, "option 'flag' takes bool, got 'True'; write true"),
        ({"word": 7}, "option 'word' takes str, got 7; for the text write \"7\""),
        ({"word": True}, "option 'word' takes str, got true; for the text write \"true\""),
        ({"mode": "slow"}, "option 'mode' takes 'fast' or 'safe', got 'slow'"),
        ({"norm": "l3"}, "option 'norm' takes 'l1' or 'l2' or 3, got 'l3'"),
        ({"norm": 3.0}, "option 'norm' takes"),
        ({"limit": "x"}, "option 'limit' takes float or none, got 'x'"),
        ({"sizes": [1, "a"]}, "option 'sizes' takes list[int] or none, got [1,a]"),
        ({"sizes": 1}, "option 'sizes' takes list[int] or none, got 1"),
        ({"pair": [1]}, "option 'pair' takes tuple[int, str], got [1]"),
        ({"pair": [1, "a", 2]}, "option 'pair' takes tuple[int, str]"),
        ({"either": 1.5}, "option 'either' takes int or str, got 1.5"),
    ],
)
def test_a_bad_option_is_one_clear_error(options: dict[str, Value], message: str) -> None:
    with pytest.raises(PipelineError) as error:
        made(Options, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_option_is_named() -> None:
    with pytest.raises(
        PipelineError, match=r"pass 'needed' needs the option 'how_much': needed{how_much=...}"
    ):
        made(Needed, why="x")


def test_dashes_are_underscores_and_an_option_has_one_value() -> None:
    assert made(Needed, **{"how-much": 3}) == Needed(how_much=3)
    with pytest.raises(PipelineError, match="the option 'how_much' is given twice"):
        made(Needed, **{"how-much": 3, "how_much": 4})


def test_what_the_pass_itself_refuses_is_a_pipeline_error() -> None:
    class Picky(Pass):
        """Refuses."""

        ratio: float = 0.5

        def __post_init__(self) -> None:
            if not 0 <= self.ratio <= 1:
                raise ValueError(f"ratio must be in [0, 1], got {self.ratio}")

        def run(self, rewriter: Rewriter) -> None: ...

    with pytest.raises(PipelineError, match=r"pass 'picky': ratio must be in \[0, 1\], got 2.0"):
        made(Picky, ratio=2)


def test_a_type_that_can_not_be_read_is_named() -> None:
    class Odd(Pass):
        """Has a type of nowhere."""

        option: "Nowhere" = 0  # type: ignore[name-defined]  # noqa: F821

        def run(self, rewriter: Rewriter) -> None: ...

    with pytest.raises(PipelineError, match="option types of pass 'odd' can't be read: name 'Nowhere'"):
        made(Odd)


@given(
    st.builds(
        Options,
        ratio=st.floats(allow_nan=False),
        count=st.integers(),
        flag=st.booleans(),
        word=st.text(),
        mode=st.sampled_from(Mode),
        norm=st.sampled_from(["l1", "l2", 3]),
        limit=st.none() | st.floats(allow_nan=False),
        sizes=st.none() | st.lists(st.integers(), max_size=3),
        pair=st.tuples(st.integers(), st.text()),
        names=st.lists(st.text(), max_size=3).map(tuple),
        kinds=st.frozensets(st.text(), max_size=3),
        many=st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
        file=st.none() | st.sampled_from([Path("a"), Path("a b/ü.json"), Path("/x")]),
        either=st.integers() | st.text(),
    )
)
def test_a_pass_survives_its_own_text(item: Options) -> None:
    (step,) = parse_steps(print_steps((step_of(item),)))
    assert isinstance(step, Named)
    again = make_pass(Options, step)
    assert again == item
    assert print_steps((step_of(again),)) == print_steps((step_of(item),))  # tells -0.0 from 0.0


def test_a_number_that_equals_nothing_survives_too() -> None:
    text = print_steps((step_of(Options(ratio=math.nan)),))
    (step,) = parse_steps(text)
    assert isinstance(step, Named)
    assert math.isnan(make_pass(Options, step).ratio)


def test_only_what_is_not_at_its_default_is_printed() -> None:
    assert print_steps((step_of(Options()),)) == "options"
    text = print_steps((step_of(Options(ratio=0.25, mode=Mode.SAFE, sizes=[1], pair=(2, "b c"))),))
    assert text == 'options{ratio=0.25,mode=safe,sizes=[1],pair=[2,"b c"]}'
    assert print_steps((step_of(Options(count=True)),)) == "options{count=true}"  # as it is, not as it equals


def test_an_object_that_text_can_not_hold_is_printed_by_its_name() -> None:
    class WithFunction(Pass):
        """Takes a function, which only Python can give."""

        function: Callable[[int], int] | None = None

        def run(self, rewriter: Rewriter) -> None: ...

    assert str(PassManager.of([WithFunction(function=abs)])) == 'with-function{function="<abs>"}'


def test_help_is_the_string_under_the_field_of_the_class_that_has_it() -> None:
    rows = {row[0]: row[1:] for row in option_help(Options)}
    assert rows["ratio"] == ("float", "0.5", "How much of it.")
    assert rows["mode"] == ("'fast' or 'safe'", "fast", "")
    assert rows["sizes"] == ("list[int] or none", "none", "")
    assert rows["pair"] == ("tuple[int, str]", "[1,a]", "")
    assert option_help(Needed)[0] == ("how_much", "int", "", "")
