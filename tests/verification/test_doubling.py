"""The float64 twin: literals, factories, default dtypes, canonical form, refusals."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fxopt.dialect import check_program
from fxopt.frontend import trace
from fxopt.program import Program, origins_of
from fxopt.verification import NoFloat64Error, as_double, double_program, evaluate, evaluate_double
from tests.verification.models import block, conv_bn


class Function(nn.Module):
    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> object:
        return self.function(x)


def traced(function: Callable[..., object], x: torch.Tensor) -> Program:
    return trace(Function(function).eval(), (x,), dynamic_shapes=[{0: "n"}])


FUNCTIONS = {
    "cast down and up": lambda x: x.half().float() * 3,
    "cast to float32": lambda x: (x.long().to(torch.float32) + x.bfloat16().float()) / 3,
    "zeros": lambda x: torch.zeros(x.shape[0], 4) + x / 3,
    "ones of a dtype": lambda x: torch.ones(4, dtype=torch.float32) / 3 + x,
    "arange": lambda x: torch.arange(0, 1, 0.25) + x / 3,
    "integer by integer": lambda x: x.long() / 3,
    "root of an integer": lambda x: x.long().abs().sqrt(),
    "integer by number": lambda x: x.long() * 0.1 + x,
    "number chosen by a mask": lambda x: torch.where(x > 0, 0.5, 2.0) + x / 3,
    "number chosen by a mask alone": lambda x: torch.where(x > 0, 0.5, 2.0),
    "mean of integers": lambda x: x.long().mean(dtype=torch.float32),
    "softmax in float32": lambda x: torch.softmax(x, -1, dtype=torch.float32),
    "full like": lambda x: torch.full_like(x, 0.1) * x,
    "new zeros": lambda x: x.new_zeros(4) + x / 3,
    "split": lambda x: [y / 3 for y in x.split(2, 1)],
    "topk": lambda x: torch.topk(x, 2),
    "comparison": lambda x: (x > 0.1, (x > 0).float() / 3),
    "clamp to a finite minimum": lambda x: x.clamp(min=torch.finfo(torch.float32).min) / 3,
    "scalar tensor": lambda x: x * torch.tensor(0.1, dtype=torch.float32),
    "size as a float": lambda x: x / x.shape[0] ** 0.5,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_float_is_float64(name: str):
    """No rounding to float32 is left: against the function in float64 as torch computes it by default."""
    x = torch.randn(3, 4) * 4
    program = traced(FUNCTIONS[name], x)
    twin = double_program(program)
    check_program(twin)
    for node in twin.graph.nodes:
        value = node.meta.get("val")
        for v in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(v, torch.Tensor) and not node.name.startswith("where"):
                assert not v.dtype.is_floating_point or v.dtype is torch.float64, node
    results = evaluate_double(twin, [torch.randn(5, 4) * 4])
    for spec, result in zip(twin.signature.computed_outputs, results, strict=True):
        if isinstance(result, torch.Tensor):
            assert result.dtype == spec.dtype
            assert not result.is_floating_point() or result.dtype is torch.float64


def test_what_is_only_tried_is_not_complained_of(caplog: pytest.LogCaptureFixture):
    program = traced(
        lambda x: torch.where(x[0] > 0, torch.zeros((), dtype=torch.int64), -5.0), torch.randn(3, 4)
    )
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.addHandler(caplog.handler)
    try:
        double_program(program)
    finally:
        logger.removeHandler(caplog.handler)
    assert [r.message for r in caplog.records if r.name == logger.name] == []


EXACT = {
    "zeros": lambda wide: wide / 3,
    "arange": lambda wide: torch.arange(0, 1, 0.25, dtype=torch.float64) + wide / 3,
    "integer by integer": lambda wide: wide.long().double() / 3,
    "root of an integer": lambda wide: wide.long().abs().double().sqrt(),
    "integer by number": lambda wide: wide.long().double() * 0.1 + wide,
    "full like": lambda wide: torch.full_like(wide, 0.1) * wide,
    "cast down and up": lambda wide: wide * 3,
}


@pytest.mark.parametrize("name", EXACT)
def test_values_are_those_of_float64(name: str):
    x = torch.randn(3, 4) * 4
    (result,) = evaluate(traced(FUNCTIONS[name], x), [x], double=True)
    torch.testing.assert_close(result, EXACT[name](x.double()), rtol=1e-15, atol=1e-15)


def test_the_original_is_left_as_it_was():
    _, program = block()
    text, weights = str(program), {n: t.clone() for n, t in program.weights.items()}
    twin = double_program(program)
    assert str(program) == text
    assert all(torch.equal(t, program.weights[n]) for n, t in weights.items())
    assert twin.fake_mode is program.fake_mode
    assert twin.signature.symbols == program.signature.symbols


def test_structure_is_kept():
    """The same calls under the same names, so that a pass finds in both what it looks for."""
    for _, program in (conv_bn(), block()):
        twin = double_program(program)
        calls = [[(n.name, n.target) for n in p.graph.nodes] for p in (program, twin)]
        assert calls[0] == calls[1]
        assert [origins_of(n) for n in program.calls()] == [origins_of(n) for n in twin.calls()]


def test_casts_that_are_added_have_origins_and_free_names():
    twin = double_program(traced(lambda x: (x.long() / 3, x.long() / 7), torch.randn(3, 4)))
    assert all(origins_of(n) for n in twin.calls())
    assert len({n.name for n in twin.graph.nodes}) == len(list(twin.graph.nodes))


def test_ties_integers_and_constants_are_kept():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = self.embed.weight
            self.register_buffer("offset", torch.tensor([1, 2, 3]))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(ids + self.offset))

    program = trace(Tied().eval(), (torch.tensor([[1, 2, 3]]),), dynamic_shapes=[{0: "n"}])
    twin = double_program(program)
    assert twin.ties == program.ties
    assert twin.weights["offset"] is program.weights["offset"]
    assert twin.signature.inputs[0].dtype is torch.int64
    assert {t.dtype for t in twin.weights.values()} == {torch.float64, torch.int64}


def test_twice_is_once():
    _, program = conv_bn()
    twin = double_program(program)
    assert str(double_program(twin)) == str(twin)


def test_reinterpreted_bits_have_no_float64_form():
    with pytest.raises(NoFloat64Error, match=r"aten\.view\.dtype .*reinterprets the bits"):
        double_program(traced(lambda x: x.view(torch.int32) + 1, torch.randn(3, 4)))


def test_an_op_that_returns_float32_whatever_it_is_given():
    with torch.library._scoped_library("fxopt_tests", "FRAGMENT") as library:
        library.define("single(Tensor x) -> Tensor")
        library.impl("single", lambda x: x.float() * 2, "CPU")
        library.impl("single", lambda x: x.float(), "Meta")
        program = traced(lambda x: torch.ops.fxopt_tests.single(x), torch.randn(3, 4))
        with pytest.raises(NoFloat64Error, match=r"single\.default .*returns a low-precision float"):
            double_program(program)


def test_as_double():
    assert as_double(torch.ones(2, dtype=torch.bfloat16)).dtype is torch.float64
    assert as_double(torch.ones(2, dtype=torch.complex64)).dtype is torch.complex128
    ids = torch.ones(2, dtype=torch.int32)
    assert as_double(ids) is ids
