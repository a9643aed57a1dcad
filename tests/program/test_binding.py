import itertools

import pytest
from torch.utils import _pytree as pytree

from fxopt.errors import InputError
from fxopt.program.binding import Known, bind_arguments

TREE = pytree.tree_structure(((0, (0, 0)), {"scale": 0}))
NAMES = ("x", "pair", "mask", "scale", "flag")
KNOWN = Known({"mask": None, "scale": 2.5, "flag": True}, {3: 2.5})


def bound(*args: object, **kwargs: object) -> list[object]:
    return bind_arguments(TREE, NAMES, args, kwargs, KNOWN)


@pytest.mark.parametrize("count", range(5))
@pytest.mark.parametrize("backwards", [False, True])
def test_any_mix_of_positions_and_names(count: int, backwards: bool):
    values = {"x": 1, "pair": (2, 3), "mask": None, "scale": 4}
    args = list(values.values())[:count]
    rest = list(itertools.islice(values.items(), count, None))
    assert bound(*args, **dict(rest[::-1] if backwards else rest)) == [1, 2, 3, 4]


def test_what_was_fixed_at_its_default_may_be_left_out():
    assert bound(1, (2, 3)) == [1, 2, 3, 2.5]


def test_what_was_fixed_at_another_value_may_not_be_left_out():
    known = Known({"scale": 1.0}, {3: 2.5})
    assert bind_arguments(TREE, NAMES, (1, (2, 3)), {"scale": 2.5}, known) == [1, 2, 3, 2.5]
    with pytest.raises(
        InputError, match=r"'scale' was fixed at 2\.5 .* left out it is 1\.0: pass scale=2\.5"
    ):
        bind_arguments(TREE, NAMES, (1, (2, 3)), {}, known)
    with pytest.raises(InputError, match="missing argument 'scale'"):
        bind_arguments(TREE, NAMES, (1, (2, 3)), {}, Known({}, {3: 2.5}))


def test_what_was_left_out_may_be_given_at_its_default():
    assert bound(1, (2, 3), flag=True) == [1, 2, 3, 2.5]
    with pytest.raises(InputError, match="'flag' was left out when the model was traced"):
        bound(1, (2, 3), flag=1)
    assert bound(1, (2, 3), None) == [1, 2, 3, 2.5]
    assert bound(1, (2, 3), mask=None) == [1, 2, 3, 2.5]


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "missing argument 'x'; the model takes x, pair, scale"),
        ((1,), {}, "missing argument 'pair'; the model takes x, pair, scale"),
        ((1, (2, 3)), {"x": 1}, "argument 'x' is given twice, by position and by name"),
        (
            (1, (2, 3), None, 4, True, 6),
            {},
            "got 6 positional arguments, the model takes 5 (x, pair, mask, scale, flag)",
        ),
        ((1, (2, 3)), {"scal": 4}, "unknown argument 'scal'; did you mean 'scale'?"),
        ((1, (2, 3)), {"zzz": 4}, "unknown argument 'zzz'; the model takes x, pair, scale"),
        (
            (1, (2, 3)),
            {"mask": 4},
            "argument 'mask' was left out when the model was traced: trace it with an example of it",
        ),
        (
            (1, (2, 3), 4),
            {},
            "argument 'mask' was left out when the model was traced: trace it with an example of it",
        ),
        ((1, 2), {}, "input pair must be a tuple of 2, got 2"),
    ],
)
def test_mistakes(args: tuple[object, ...], kwargs: dict[str, object], says: str):
    with pytest.raises(InputError) as caught:
        bound(*args, **kwargs)
    assert str(caught.value) == says
    assert isinstance(caught.value, TypeError)
