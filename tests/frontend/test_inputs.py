import numpy
import pytest
import torch
from torch.export import AdditionalInputs, Dim, ShapesCollection

from fxopt.errors import TraceError
from fxopt.frontend.inputs import Example, example_inputs, resized
from tests.frontend.good_models import Pair, noise


def forward(x, y=None, *, scale=1.0):
    """Takes two tensors and a number."""


def variadic(*xs, **more):
    """Takes anything."""


ONE = (noise(2, 3),)


def read(function=forward, args=ONE, kwargs=None, dynamic=None) -> Example:
    return example_inputs(function, args, kwargs, dynamic)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "names", "arguments"),
    [
        (forward, (noise(2), noise(2)), {}, ["x", "y"], ("x", "y", "scale")),
        (forward, (noise(2),), {"scale": 2.0}, ["x", "scale"], ("x", "y", "scale")),
        (forward, (), {"y": noise(2), "x": noise(2)}, ["y", "x"], ("x", "y", "scale")),
        (forward, noise(2), {}, ["x"], ("x", "y", "scale")),
        (forward, [noise(2)], None, ["x"], ("x", "y", "scale")),
        (
            forward,
            ({"a": noise(2), "b": (noise(2), None)},),
            {},
            ["x_a", "x_b_0", "x_b_1"],
            ("x", "y", "scale"),
        ),
        (forward, (Pair(noise(2), noise(2)),), {}, ["x_first", "x_second"], ("x", "y", "scale")),
        (forward, ({"a_b": noise(2), "a": {"b": noise(2)}},), {}, ["x_a_b", "x_a_b_2"], ("x", "y", "scale")),
        (variadic, (noise(2), noise(2)), {"k": 1}, ["xs_0", "xs_1", "k"], ()),
        (lambda a, *rest: None, (noise(2), noise(2), noise(2)), {}, ["a", "rest_0", "rest_1"], ()),
        (lambda a, **more: None, (noise(2),), {"b": noise(2)}, ["a", "b"], ("a", "b")),
    ],
)
def test_every_leaf_has_a_name_of_its_own(
    function, args, kwargs, names: list[str], arguments: tuple[str, ...]
):
    example = read(function, args, kwargs)
    assert list(example.names) == names
    assert example.arguments == arguments


def test_the_callers_tensors_are_not_used_themselves():
    x = noise(2)
    example = read(args=(x, x))
    first, second = example.leaves
    assert first is not second
    assert first is not x
    assert first.data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((noise(2),), {"z": 1}, "unexpected keyword argument 'z'"),
        ((noise(2),), {"x": 1}, "multiple values for argument 'x'"),
        (
            {"x": noise(2)},
            {},
            "args must be a tuple of example inputs, got dict; keyword arguments are kwargs",
        ),
        (3, {}, "args must be a tuple of example inputs, got int"),
        ((noise(2),), [1], "kwargs must be a dict"),
        ((numpy.zeros(2),), {}, "input 'x' is a ndarray: pass torch.from_numpy(x)"),
        ((object(),), {}, "input 'x' is a object"),
        ((noise(2).to(torch.complex64),), {}, "input 'x' is complex (torch.complex64)"),
        ((noise(2).to_sparse(),), {}, "input 'x' is a sparse_coo tensor"),
    ],
)
def test_arguments_that_do_not_fit(args, kwargs, says: str):
    with pytest.raises(TraceError) as caught:
        read(args=args, kwargs=kwargs)
    assert says in str(caught.value)


def test_a_wrong_arity_names_forward_and_its_line():
    line = forward.__code__.co_firstlineno
    with pytest.raises(TraceError) as caught:
        read(args=())
    assert f"forward(x, y=None, *, scale=1.0) at {__file__}:{line}" in str(caught.value)


def axes(example: Example) -> list[dict[int, str | None]]:
    return [{i: axis.name for i, axis in leaf.items()} for leaf in example.axes]


n = Dim("n", min=2, max=64)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "dynamic", "expected"),
    [
        (forward, (noise(2), noise(2)), {}, {"x": {0: "n"}}, [{0: "n"}, {}]),
        (forward, (noise(2), noise(2)), {}, ({0: "n"}, {0: n}), [{0: "n"}, {0: "n"}]),
        (forward, (noise(2), noise(2)), {}, [None, ("n",)], [{}, {0: "n"}]),
        (forward, (noise(2), noise(2)), {}, ({0: "n"},), [{0: "n"}, {}]),
        (forward, (), {"y": noise(2), "x": noise(2)}, ({0: "n"}, None), [{}, {0: "n"}]),
        (variadic, (noise(2), noise(2)), {"k": noise(2)}, {"xs_1": {0: "n"}, "k": {0: "n"}}, [{}, {0: "n"}, {0: "n"}]),
        (variadic, (noise(2), noise(2)), {"k": noise(2)}, {"xs": ({0: n}, None), "more": {"k": {0: n}}}, [{0: "n"}, {}, {0: "n"}]),
        (variadic, (noise(2), noise(2)), {"k": noise(2)}, (({0: n}, None), {"k": {0: n}}), [{0: "n"}, {}, {0: "n"}]),
        (variadic, (noise(2), noise(2)), {}, ({0: "n"}, None), [{0: "n"}, {}]),
    ],
)  # fmt: skip
def test_forms_of_dynamic_shapes(function, args, kwargs, dynamic, expected):
    assert axes(read(function, args, kwargs, dynamic)) == expected


def test_builders_of_torch():
    x, y = noise(2, 3), noise(4)
    collection = ShapesCollection()
    collection[y] = {0: n}
    assert axes(read(args=(x, y), dynamic=collection)) == [{}, {0: "n"}]
    more = AdditionalInputs()
    more.add((noise(5, 3), noise(4)))
    assert axes(read(args=(x, y), dynamic=more)) == [{0: None}, {}]
    with pytest.raises(TraceError, match="dynamic_shapes does not fit the example inputs"):
        read(args=(noise(2, 3),), dynamic=collection)


@pytest.mark.parametrize(("dynamic", "says"), [
    ("n", "must be a dict or a tuple"),
    (({0: "n"},) * 4, "has 4 entries for 2 inputs"),
    ({"x": {0: "n"}, "y": {0: "n"}}, "the dynamic size 'n' is 2 in 'x' and 5 in 'y'"),
    ({"x": {0: "n"}, "y": {0: "2*n"}}, "the dynamic size 2*n is 4 by the other inputs, and 5 in 'y'"),
])  # fmt: skip
def test_dynamic_shapes_that_do_not_fit(dynamic, says: str):
    with pytest.raises(TraceError) as caught:
        read(args=(noise(2, 3), noise(5)), dynamic=dynamic)
    assert says in str(caught.value)


def test_sizes_of_one_and_nothing_are_brought_to_two():
    example = read(args=(noise(1, 3), torch.zeros(0, 1)), dynamic={"x": {0: "n"}, "y": {0: "m"}})
    assert [t.shape for t in example.tensors] == [(2, 3), (2, 1)]
    assert torch.equal(example.tensors[0][0], example.tensors[0][1])


def test_what_is_tied_to_a_size_of_one_grows_along():
    example = read(args=(noise(1, 3), noise(3)), dynamic={"x": {0: "n"}, "y": {0: "2*n + 1"}})
    assert [t.shape for t in example.tensors] == [(2, 3), (5,)]


def test_resized_keeps_values_valid():
    ids = torch.tensor([[3, 7], [1, 2]])
    assert resized(ids, 1, 5).tolist() == [[3, 7, 3, 7, 3], [1, 2, 1, 2, 1]]
    assert resized(ids, 0, 1).tolist() == [[3, 7]]
    assert resized(ids, 0, 2) is ids
    assert resized(torch.zeros(0, 2), 0, 3).shape == (3, 2)


def test_copies_are_for_one_run():
    example = read(args=({"a": noise(2)}, None))
    args, _ = example.copied()
    args[0]["a"].zero_()
    assert example.leaves[0].abs().sum() > 0
