"""Every fact of every entry, tested by perturbation on the entry's own samples."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from fxopt.ops import (
    Aliasing,
    OpInfo,
    QuantRole,
    argument_kinds,
    is_mutating,
    op_info,
    register_op,
    registered_ops,
)
from tests.ops.facts import CHECKS
from tests.ops.samples import cases

ENTRIES = {n: i for n, i in registered_ops().items() if n.startswith(("aten.", "fxopt."))}
TABLE = {name: info for name, info in ENTRIES.items() if name.startswith("aten.")}
ALWAYS = ("pure", "aliasing")


def declared(info: OpInfo, fact: str) -> bool:
    if fact in ("index_map", "resize"):
        return info.index_map is not None or info.elementwise
    if fact == "role":
        return info.role in (QuantRole.SAME_SCALE, QuantRole.CONTRACTION) and "einsum" not in info.op
    return fact in ALWAYS or bool(getattr(info, fact))


@pytest.mark.parametrize(
    ("fact", "name"), [(f, n) for f in CHECKS for n, i in ENTRIES.items() if declared(i, f)], ids=lambda v: v
)
def test_fact(fact: str, name: str) -> None:
    outcome = CHECKS[fact](ENTRIES[name])
    assert not outcome.problems, "\n".join(outcome.problems[:5])
    # Not every map has an index that can be cut.
    nothing_to_do = fact == "resize" and (ENTRIES[name].resize is None or ENTRIES[name].uncut is True)
    nothing_to_do |= fact == "index_map" and not cases(ENTRIES[name])[0].tensor_names()
    assert outcome.looked or nothing_to_do, f"no sample of {name} exercises {fact}"


@pytest.mark.parametrize("name", TABLE)
def test_every_entry_has_a_sample_of_its_own(name: str) -> None:
    assert cases(TABLE[name])


def test_no_fact_is_left_out_of_the_checks() -> None:
    described = {
        "op",
        "dims_inserted",
        "flops",
        "samples",
        "kernel_refuses",
        "skips_zeros",
        "state",
        "uncut",
        "absolute",
    }
    # with dims; test_flops; what the checks run on; test_schema; resize; units; resize; test_upstream
    assert set(CHECKS) == set(OpInfo.__dataclass_fields__) - described


def overloads() -> Iterator[torch._ops.OpOverload]:
    """All functional overloads on tensors whose entry is in the table."""
    for name in {".".join(n.split(".")[:2]) for n in TABLE}:
        packet = getattr(torch.ops.aten, name.split(".")[1])
        for overload in packet.overloads():
            op = getattr(packet, overload)
            kinds = argument_kinds(op)
            if any(k.base == "Tensor" for k in kinds) and not is_mutating(op) and op_info(op).samples:
                yield op


DIM_NAMES = {"axis", "axis0", "axis1", "destination", "dim", "dim0", "dim1", "dim2", "dimension", "dims"}
DIM_NAMES |= {"end_dim", "source", "start_dim"}
NO_DIMS = {"aten.tile.default", "aten._weight_norm.default", "aten.cosine_similarity.default"}
"""Counts, -1 for no dimension at all, and a dimension of what the operands broadcast to."""


@pytest.mark.parametrize("op", sorted(overloads(), key=str), ids=str)
def test_literals_are_declared(op: torch._ops.OpOverload) -> None:
    info = op_info(op)
    for kind in argument_kinds(op):
        if kind.base == "int" and kind.name in DIM_NAMES and str(op) not in NO_DIMS:
            assert kind.name in info.dims, f"{kind.name} of {op} is a dimension"
        if kind.base == "ScalarType" and kind.name != "out_dtype":  # kernels that exist on GPUs only
            assert kind.name in info.dtype_args, f"{kind.name} of {op} is a dtype"


def tensor_arguments(op: torch._ops.OpOverload) -> int:
    return sum(k.base == "Tensor" for k in argument_kinds(op))


@pytest.mark.parametrize("op", sorted(overloads(), key=str), ids=str)
def test_a_map_has_a_bracket_for_each_tensor_of_each_overload(op: torch._ops.OpOverload) -> None:
    info = op_info(op)
    if info.index_map is not None:
        sampled = {tensor_arguments(c.op) for c in cases(info)}
        assert tensor_arguments(op) in sampled, f"{op} needs a sample, or an entry of its own"


@pytest.mark.parametrize("name", TABLE)
def test_argument_names_exist(name: str) -> None:
    info = TABLE[name]
    packet = getattr(torch.ops.aten, name.split(".")[1])
    known = {k.name for o in packet.overloads() for k in argument_kinds(getattr(packet, o))}
    shared = {"input", "self", "mat2", "vec", "tensor", "other", "vec2", "src", "source", "value"}
    for names in (info.linear_in, info.affine_in, info.dims, info.dtype_args, info.picks):
        assert set(names) - shared <= known
        assert not names or set(names) & known


LIES = [
    ("relu", "linear_in", {"linear_in": ("self",)}),
    ("div", "linear_in", {"linear_in": ("other",)}),
    ("add", "linear_in", {"linear_in": ("self",)}),
    ("relu", "steps", {"steps": True}),
    ("rms_norm", "centres", {"centres": True}),
    ("mean", "centres", {"centres": True}),
    ("gelu", "affine_in", {"affine_in": ("self",)}),
    ("gelu", "homogeneous", {"homogeneous": True}),
    ("clamp", "homogeneous", {"homogeneous": True}),
    ("gelu", "monotone", {"monotone": True}),
    ("leaky_relu", "monotone", {"monotone": True}),
    ("flip", "monotone", {"monotone": True}),
    ("div", "affine_in", {"affine_in": ("other",)}),
    ("log", "affine_in", {"affine_in": ("self",)}),
    ("log", "zero_preserving", {"zero_preserving": True}),
    ("sigmoid", "zero_preserving", {"zero_preserving": True}),
    ("sub", "commutative", {"commutative": True}),
    ("tril", "elementwise", {"elementwise": True, "index_map": None}),
    ("softmax", "elementwise", {"elementwise": True, "index_map": None}),
    ("softmax", "index_map", {"index_map": "x[!d,*] -> y[!d,*]"}),
    ("softmax", "index_map", {"index_map": "x[*] -> y[*]"}),
    ("tanh", "index_map", {"elementwise": False, "index_map": "x[*,!d] -> y[*,!d]"}),
    ("flip", "index_map", {"index_map": "x[*,~d] -> y[*,~d]"}),
    ("t", "index_map", {"index_map": "x[i,j] -> y[i,j]"}),
    ("linear", "index_map", {"index_map": "x[*,i], w[i,o], b[o] -> y[*,o]"}),
    ("conv2d", "index_map", {"index_map": "x[*,c,~h,~w], w[c,i,k,l], b[c] -> y[*,c,~h,~w]"}),
    ("layer_norm", "index_map", {"index_map": "x[*,d], w[d], b[d] -> y[*,d]"}),
    ("repeat_interleave", "index_map", {"index_map": "x[a,b] -> y[a,(r b)]"}),
    ("pixel_shuffle", "index_map", {"index_map": "x[*,(r s c),h,w] -> y[*,c,(h r),(w s)]"}),
    ("dropout", "pure", {"pure": True}),
    ("batch_norm", "pure", {"pure": True}),
    ("lstm", "pure", {"pure": None}),
    ("relu", "pure", {"pure": False}),
    ("einsum", "aliasing", {"aliasing": Aliasing.SCHEMA}),
    ("relu", "aliasing", {"aliasing": Aliasing.MAYBE}),
    ("view", "aliasing", {"aliasing": Aliasing.MAYBE}),
    ("unsqueeze", "dims", {"dims_inserted": 0}),
    ("slice", "dims", {"dims": ("dim", "start")}),
    ("exp", "role", {"role": QuantRole.SAME_SCALE}),
    ("relu", "role", {"role": QuantRole.CONTRACTION}),
    ("sum", "picks", {"picks": ("self",)}),
    ("reshape", "resize", {"resize": None}),
    ("conv2d", "resize", {"resize": None}),
    ("mean", "resize", {"skips_zeros": True}),
    ("scaled_dot_product_attention", "resize", {"skips_zeros": ("d", "t")}),
    ("tril", "resize", {"uncut": False}),
    ("scaled_dot_product_attention", "resize", {"uncut": False}),
    ("tril", "same_everywhere", {"same_everywhere": True}),
    ("softmax", "keeps_constants", {"keeps_constants": True}),
    ("avg_pool2d", "keeps_constants", {"keeps_constants": True}),
    ("layer_norm", "scaled_by", {"shifted_by": "", "scaled_by": "bias"}),
    ("linear", "shifted_by", {"shifted_by": "weight"}),
    ("conv2d", "pads", {"pads": False}),
    ("sort", "moves", {"moves": True}),
    (
        "gru",
        "units",
        {
            "index_map": "x[n,!t,i], h[.,n,!u], w[(!u g=3),i], r[(!u g=3),!u], b[.], c[.] -> y[n,!t,!u], z[.,n,!u]"
        },
    ),
    ("rnn_tanh", "units", {"state": "params"}),
    ("relu", "shape_only", {"shape_only": ("self",)}),
]


@pytest.mark.parametrize(("name", "fact", "wrong"), LIES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_wrong_fact_is_found(name: str, fact: str, wrong: dict[str, object]) -> None:
    right = TABLE[f"aten.{name}"]
    lie = replace(right, **wrong)  # type: ignore[arg-type]
    register_op(lie)
    try:
        assert CHECKS[fact](lie).problems
    except (IndexError, RuntimeError, ValueError):
        pass  # a map that does not even fit the shapes
    finally:
        register_op(right)
