import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxopt.errors import ArtifactError, InputError
from fxopt.frontend import trace
from fxopt.program import (
    ConstantSpec,
    Program,
    ScalarSpec,
    Signature,
    Symbol,
    TensorSpec,
    dtype_name,
    evaluate_dim,
    named_dtype,
    solve_sizes,
)
from tests.frontend.good_models import CASES, noise

f32 = torch.float32


@pytest.mark.parametrize(
    ("dim", "value"),
    [
        (7, 7),
        ("n", 6),
        ("2*n", 12),
        ("n // 4", 1),
        ("(n - 1) % 4", 1),
        ("-n + 10", 4),
        ("n**2", 36),
        ("max(n, m)", 9),
        ("Min(n, m, 2)", 2),
        ("len", 3),
    ],
)
def test_sizes_by_expression(dim: int | str, value: int):
    assert evaluate_dim(dim, {"n": 6, "m": 9, "len": 3}) == value


@pytest.mark.parametrize(
    "dim",
    [
        "n.real",
        "n if n else 1",
        "__import__('os')",
        "n[0]",
        "lambda: 1",
        "n < 3",
        "1.5",
        "'a'",
        "n @ n",
        "print(n)",
    ],
)
def test_what_is_no_size(dim: str):
    with pytest.raises(ValueError, match="not a size expression"):
        evaluate_dim(dim, {"n": 6})


def test_unknown_names_in_sizes():
    with pytest.raises(KeyError):
        evaluate_dim("2*k", {"n": 6})


def test_sizes_are_read_off_plain_dimensions():
    specs = [TensorSpec("x", f32, ("2*n", "m")), ConstantSpec("c", 3), TensorSpec("y", f32, ("n", 4))]
    assert solve_sizes([specs[0], specs[2]], [(8, 3), (4, 4)]) == {"m": 3, "n": 4}


def test_dtypes_by_name():
    assert [dtype_name(d) for d in (f32, torch.int64, torch.float8_e4m3fn)] == ["f32", "i64", "float8_e4m3fn"]
    assert named_dtype("bfloat16") is torch.bfloat16
    for name in ("float99", "nn", "load"):
        with pytest.raises(ArtifactError, match=f"unknown dtype '{name}'"):
            named_dtype(name)


def test_specs_print():
    assert str(TensorSpec("x", f32, ("n", 3))) == "x: f32[n, 3]"
    assert str(ConstantSpec("c", "a")) == "c = 'a'"
    assert str(ScalarSpec("s", "float")) == "s: float"


def test_ranges_of_symbols():
    assert [Symbol("n", 2, 5).takes(k) for k in (1, 2, 5, 6)] == [False, True, True, False]
    assert Symbol("n").takes(0)
    assert (Symbol("n", 2).range_text(), Symbol("n", 2, 5).range_text()) == ("from 2", "from 2 to 5")


class Model(nn.Module):
    def forward(self, x, mask=None, scale=2.0, *, flag=True):
        return x * scale if mask is None else x * mask


x = noise(2, 3)


def traced(*args: object, **kwargs: object) -> Program:
    return trace(Model().eval(), args, kwargs, dynamic_shapes={"x": {0: "n"}})


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((x,), {}),
        ((), {"x": x}),
        ((x, None), {}),
        ((x,), {"mask": None}),
        ((noise(5, 3),), {}),
        ((torch.ones(0, 3),), {}),
    ],
)
def test_right_calls(args: tuple[object, ...], kwargs: dict[str, object]):
    given = (*args, *kwargs.values())[0]
    assert torch.equal(traced(x)(*args, **kwargs), given * 2.0)


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "missing argument 'x'"),
        ((x, x), {}, "'mask' was left out when the model was traced"),
        ((x.double(),), {}, "input x: f32[n, 3] must have dtype torch.float32, got torch.float64"),
        ((x[0],), {}, "input x: f32[n, 3] must have 2 dimensions, got shape (3,)"),
        (
            (noise(2, 4),),
            {},
            "input x: f32[n, 3] has size 4 at axis 1, expected 3; trace with dynamic_shapes to let it vary",
        ),
        (([[1.0]],), {}, "input x: f32[n, 3] must be a tensor, got [[1.0]]"),
        ((x.numpy(),), {}, "input x: f32[n, 3] must be a tensor, got"),
        ((None,), {}, "input x: f32[n, 3] must be a tensor, got None"),
    ],
)
def test_wrong_calls(args: tuple[object, ...], kwargs: dict[str, object], says: str):
    with pytest.raises(InputError) as caught:
        traced(x)(*args, **kwargs)
    assert str(caught.value).startswith(says) or says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((x, None, 3.0), {"flag": False}, ""),
        ((x,), {"scale": 3.0, "flag": False}, ""),
        ((x,), {}, r"'scale' was fixed at 3.0 .*; left out it is 2.0: pass scale=3.0"),
        ((x, None, 3.0), {}, "'flag' was fixed at False .*; left out it is True"),
        ((x, None, 2.0), {"flag": False}, "trace again with the other value"),
        ((x, None, 3), {"flag": False}, "trace again with the other value"),
        ((x, None, 3.0), {"flag": True}, "trace again with the other value"),
        ((x, None, 3.0), {"flag": 0}, "trace again with the other value"),
        ((x, noise(3), 3.0), {"flag": False}, "trace again with the other value"),
    ],
)
def test_constants_are_what_they_were(args: tuple[object, ...], kwargs: dict[str, object], says: str):
    program = traced(x, None, 3.0, flag=False)
    if not says:
        assert torch.equal(program(*args, **kwargs), x * 3.0)
        return
    with pytest.raises(InputError, match=says):
        program(*args, **kwargs)


def test_what_was_left_out_may_be_given_at_its_default():
    program = traced(x)
    assert torch.equal(program(x, None, 2.0, flag=True), x * 2.0)
    for kwargs in ({"scale": 2}, {"scale": 2.5}, {"flag": 1}, {"flag": False}):
        with pytest.raises(InputError, match="was left out when the model was traced"):
            program(x, **kwargs)


def test_nan_is_the_constant_nan():
    program = traced(x, None, float("nan"))
    assert program(x, None, float("nan")).isnan().all()


def program_of(name: str) -> Program:
    case = CASES[name]
    return trace(case.make().eval(), case.args or None, case.kwargs or None, dynamic_shapes=case.dynamic)


def test_keyword_models_by_position_too():
    program, y = program_of("KeywordOnly"), noise(3)
    assert all(
        torch.equal(program(*a, **k), x + y)
        for a, k in [((), {"y": y, "x": x}), ((x, y), {}), ((x,), {"y": y})]
    )


def test_models_of_any_number_of_arguments():
    program = program_of("Variadic")
    assert torch.equal(program(x, x, xs_2=x), 3 * x)
    for args, says in [
        ((x, x), "missing argument 'xs_2'"),
        ((x,) * 4, r"got 4 positional arguments, the model takes 3 \(xs_0"),
    ]:
        with pytest.raises(InputError, match=says):
            program(*args)


def test_containers_in_any_order_of_keys():
    program, [value] = program_of("DictInput"), CASES["DictInput"].args
    assert torch.equal(program({"b": tuple(value["b"]), "a": value["a"]}), program(value))
    with pytest.raises(InputError, match=r"input inputs\['b'\] must be a list of 2: got 1"):
        program({"a": value["a"], "b": value["b"][:1]})


def test_sizes_of_one_name_agree():
    program, [value] = program_of("DictInput"), CASES["DictInput"].args
    with pytest.raises(
        InputError, match=r"input inputs_b_1: f32\[n, 3\] has size 4 at axis 0, expected n = 2"
    ):
        program({"a": value["a"], "b": [value["b"][0], noise(4, 3)]})


def test_outputs_back_and_forth():
    program = program_of("returns_mixture")
    result = program(x)
    assert (result["a"][1:], result["b"][1]["d"], result["b"][1]["f"]) == ((None, 3), "text", True)
    flat = program.signature.flatten_outputs(result)
    assert len(flat) == len(program.signature.computed_outputs) == 3
    assert torch.equal(program.signature.unflatten_outputs(flat)["a"][0], result["a"][0])


def test_outputs_that_lost_their_nones():
    tree = pytree.tree_structure({"a": 0, "b": None})
    specs = (TensorSpec("a", f32, (2,)), ConstantSpec("b", None))
    signature = Signature((), specs, pytree.tree_structure(((), {})), tree)
    assert len(signature.flatten_outputs({"a": x})) == 1
    assert len(signature.flatten_outputs({"a": x, "b": None})) == 1
