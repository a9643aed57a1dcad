"""Drawn inputs: shapes, dtypes, ranges, special values, determinism."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from fxopt.errors import InputError
from fxopt.frontend import trace
from fxopt.program import ConstantSpec, Signature, Spec, Symbol, TensorSpec, evaluate_dim
from fxopt.verification import Sample, arguments_of, given_samples, sample_inputs

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8]


def signature(specs: list[Spec]) -> Signature:
    tree = pytree.tree_structure((tuple(range(len(specs))), {}))
    symbols = {"n": Symbol("n", 0), "m": Symbol("m", 0, 50)}
    return Signature(tuple(specs), (), tree, pytree.tree_structure(()), symbols)


@st.composite
def specs(draw: st.DrawFn) -> TensorSpec:
    dims = st.sampled_from([1, 3, "n", "m", "2*n", "n + m", "m//2 + 1"])
    shape = tuple(draw(st.lists(dims, max_size=3)))
    dtype = draw(st.sampled_from([*FLOATS, *INTEGERS, torch.bool]))
    low, high = None, None
    if dtype in INTEGERS and draw(st.booleans()):
        low = draw(st.integers(0, 60))
        high = draw(st.integers(low, 120))
    return TensorSpec(f"x{draw(st.integers(0, 99))}", dtype, shape, low=low, high=high)


@given(st.lists(specs(), min_size=1, max_size=3), st.integers(0, 10**6))
def test_samples_fit_the_signature(specs: list[Spec], seed: int):
    samples = sample_inputs(signature(specs), seed=seed)
    assert len(samples) >= 4
    for sample in samples:
        for spec, tensor in zip(specs, sample.tensors, strict=True):
            assert tensor.dtype == spec.dtype
            assert tensor.shape == tuple(evaluate_dim(d, dict(sample.sizes)) for d in spec.shape)
            if spec.dtype in INTEGERS and tensor.numel():
                low, high = (0, 1) if spec.low is None else (spec.low, spec.high)
                assert low <= int(tensor.min()) <= int(tensor.max()) <= high
            if spec.dtype in FLOATS:
                assert torch.isfinite(tensor).all()


@given(st.lists(specs(), min_size=1, max_size=2), st.integers(0, 1000))
def test_the_same_seed_gives_the_same_tensors(specs: list[Spec], seed: int):
    torch.manual_seed(seed + 1)  # the global generator is neither read nor moved
    state = torch.get_rng_state()
    first, second = (sample_inputs(signature(specs), seed=seed) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert [s.label for s in first] == [s.label for s in second]
    assert all(
        torch.equal(a, b)
        for s, t in zip(first, second, strict=True)
        for a, b in zip(s.tensors, t.tensors, strict=True)
    )


def drawn(spec: TensorSpec, **options: object) -> dict[str, torch.Tensor]:
    return {s.label.rsplit(", seed", 1)[0]: s.tensors[0] for s in sample_inputs(signature([spec]), **options)}


def test_another_seed_gives_others():
    spec = TensorSpec("x", torch.float32, ("n", 8))
    assert not torch.equal(drawn(spec)["n=2, normal"], drawn(spec, seed=1)["n=2, normal"])


def test_sizes_of_a_batch():
    labels = list(drawn(TensorSpec("x", torch.float32, ("n", 8))))
    assert labels == ["n=2, normal", "n=3, normal", "n=2, special values", "n=2, zeros", "n=1, normal"]


def test_a_static_signature_has_several_draws():
    samples = sample_inputs(signature([TensorSpec("x", torch.float32, (4, 4))]))
    assert [s.label for s in samples] == [
        "normal, seed 0",
        "normal, seed 1",
        "special values, seed 2",
        "zeros, seed 3",
    ]
    assert not torch.equal(samples[0].tensors[0], samples[1].tensors[0])


def test_sizes_asked_for():
    spec = TensorSpec("x", torch.float32, ("n", 2))
    empty = sample_inputs(signature([spec]), sizes=[{"n": 0}])
    assert all(s.tensors[0].shape == (0, 2) for s in empty)
    assert sample_inputs(signature([spec]), sizes=[]) == []
    with pytest.raises(InputError, match="no size is given for 'n'"):
        sample_inputs(signature([spec]), sizes=[{"m": 3}])


@pytest.mark.parametrize("dtype", FLOATS)
def test_special_values(dtype: torch.dtype):
    x = drawn(TensorSpec("x", dtype, (64, 64)))["special values"]
    tiny = torch.finfo(dtype).smallest_normal
    zeros = x[x == 0]
    assert zeros.numel()
    assert torch.signbit(zeros).any()
    assert not torch.signbit(zeros).all()
    assert ((x != 0) & (x.abs() < tiny)).any()  # subnormal
    assert (x == 1).sum() > 50  # ties
    assert x.abs().max() >= 8
    assert torch.isfinite(x.exp()).all()
    assert (x.unique().numel() / x.numel()) > 0.4 or dtype.itemsize == 2  # half of them ordinary
    assert (drawn(TensorSpec("x", dtype, (64, 64)))["zeros"] == 0).all()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_reach_both_ends(dtype: torch.dtype):
    x = drawn(TensorSpec("x", dtype, (500,), low=2, high=99))["normal"]
    assert int(x.min()) == 2
    assert int(x.max()) == 99
    assert x.unique().numel() > 50


@pytest.mark.parametrize(("low", "high"), [(-(2**63), 2**63 - 1), (2**62, 2**63 - 1), (5, 5), (-3, -1)])
def test_ranges_at_the_edge(low: int, high: int):
    for x in drawn(TensorSpec("x", torch.int64, (50,), low=low, high=high)).values():
        assert low <= int(x.min()) <= int(x.max()) <= high


def test_a_range_beyond_the_dtype_is_cut():
    x = drawn(TensorSpec("x", torch.uint8, (50,), low=-5, high=1000))["normal"]
    assert int(x.min()) == 0
    assert int(x.max()) == 255


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec("m", torch.bool, ("n", 40)),
        TensorSpec("m", torch.int64, ("n", 40), low=0, high=1),
        TensorSpec("m", torch.int32, ("n", 40)),
    ],
)
def test_masks_are_some_all_and_none(spec: TensorSpec):
    filled = {label: float(x.double().mean()) for label, x in drawn(spec).items()}
    assert 0.2 < filled["n=2, normal"] < 0.8
    assert filled["n=3, normal"] == 1
    assert filled["n=2, zeros"] == 0


def test_what_can_not_be_drawn():
    with pytest.raises(InputError, match="complex inputs can't be drawn"):
        sample_inputs(signature([TensorSpec("x", torch.complex64, (2,))]))
    with pytest.raises(InputError, match="the range 300 to 400 holds no value"):
        sample_inputs(signature([TensorSpec("x", torch.uint8, (2,), low=300, high=400)]))


def test_no_inputs():
    assert sample_inputs(signature([ConstantSpec("k", 3)])) == [Sample("no inputs", {}, [])]


class Scaled(torch.nn.Module):
    def forward(self, x: torch.Tensor, k: int = 2, *, more: dict[str, torch.Tensor]) -> torch.Tensor:
        return x * k + more["y"]


def test_the_callers_inputs_and_back_again():
    x, y = torch.ones(2, 3), torch.ones(2, 3)
    shapes = {"x": {0: "n"}, "k": None, "more": {"y": {0: "n"}}}
    program = trace(Scaled().eval(), (x, 2), {"more": {"y": y}}, dynamic_shapes=shapes)
    calls = [{"x": torch.randn(n, 3), "k": 2, "more": {"y": torch.randn(n, 3)}} for n in (2, 5)]
    samples = list(given_samples(program.signature, calls))
    assert [(s.label, s.given) for s in samples] == [("inputs[0] (n=2)", True), ("inputs[1] (n=5)", True)]
    args, kwargs = arguments_of(program.signature, samples[1].tensors)
    assert torch.equal(program(*args, **kwargs), Scaled()(*args, **kwargs))
    assert args[1] == 2
    with pytest.raises(InputError):
        list(given_samples(program.signature, [{"x": torch.randn(2, 4), "more": {"y": y}}]))


def test_lone_tensors_are_inputs():
    signature = trace(torch.nn.ReLU().eval(), (torch.ones(2, 3),)).signature
    (sample,) = given_samples(signature, [torch.ones(2, 3)])
    assert not sample.sizes
    assert sample.constant()
    (sample,) = given_samples(signature, [(torch.randn(2, 3),)])
    assert not sample.constant()
