import json
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch.utils import _pytree as pytree

from fxopt.errors import ArtifactError
from fxopt.program import (
    ConstantSpec,
    ScalarSpec,
    Signature,
    Symbol,
    TensorSpec,
    signature_from_json,
    signature_to_json,
)
from fxopt.program.trees import tree_from_json, tree_to_json

leaf = pytree.tree_structure(0)
keys = st.text(max_size=5) | st.integers(-3, 3)
values = st.recursive(
    st.just(0),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)
literals = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(values)
def test_any_tree_survives_json(value: object):
    tree = pytree.tree_structure(value)
    assert tree_from_json(json.loads(json.dumps(tree_to_json(tree)))) == tree


def same(a: object, b: object) -> bool:
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


@given(literals)
def test_any_constant_survives_json(value: object):
    signature = Signature((ConstantSpec("c", value),), (), pytree.tree_structure(((0,), {})), leaf)
    back = signature_from_json(json.loads(json.dumps(signature_to_json(signature), allow_nan=False)))
    assert same(back.inputs[0].value, value)


dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn])
specs = st.builds(
    TensorSpec,
    st.text(max_size=5),
    dtypes,
    st.lists(st.integers(0, 9) | st.sampled_from(["n", "2*n + 1"]), max_size=3).map(tuple),
    st.sampled_from(["cpu", "cuda:0"]),
    st.none() | st.integers(-5, 5),
    st.none() | st.integers(-5, 5),
)


@given(specs, st.sampled_from(["int", "float", "bool"]), st.none() | st.integers(0, 99))
def test_any_signature_survives_json(spec: TensorSpec, kind: str, top: int | None):
    signature = Signature(
        (spec,), (ScalarSpec("s", kind), spec), pytree.tree_structure(((0,), {})), pytree.tree_structure([0, {"a": 0}]),
        {"n": Symbol("n", 1, top)}, ("x", "y"),
    )  # fmt: skip
    assert signature_from_json(json.loads(json.dumps(signature_to_json(signature)))) == signature


GOOD = signature_to_json(
    Signature(
        (TensorSpec("x", torch.float32, ("n",)),),
        (),
        pytree.tree_structure(((0,), {})),
        leaf,
        {"n": Symbol("n")},
    )
)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": None},
        {"inputs": [{"kind": "tensor", "name": "x", "dtype": "float99", "shape": []}]},
        {"inputs": [{"kind": "tensor", "name": "x", "dtype": "os", "shape": []}]},
        {"inputs": [{"kind": "tensor", "name": 3}]},
        {"inputs": [{"kind": "constant", "name": "c", "value": [1]}]},
        {"inputs": [{"kind": "constant", "name": "c", "value": {"float": "x"}}]},
        {"inputs": [{"kind": "other", "name": "c"}]},
        {"inputs": ["x"]},
        {"input_tree": ["set", None, []]},
        {"input_tree": ["dict", ["a"], []]},
        {"input_tree": "tuple"},
        {"symbols": [{"name": "n"}]},
        {"symbols": [{"name": "n", "min": "x", "max": None}]},
        {"arguments": 3},
        {"defaults": [["scale", []]]},
        {"defaults": ["scale"]},
    ],
)
def test_malformed_signatures(change: dict[str, object]):
    with pytest.raises(ArtifactError):
        signature_from_json({**GOOD, **change})


@pytest.mark.parametrize("missing", [name for name in GOOD if name != "defaults"])
def test_missing_fields(missing: str):
    with pytest.raises(ArtifactError):
        signature_from_json({k: v for k, v in GOOD.items() if k != missing})


@pytest.mark.parametrize("value", [None, [], 3, "x"])
def test_no_signature_at_all(value: object):
    with pytest.raises(ArtifactError):
        signature_from_json(value)
