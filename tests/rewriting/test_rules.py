"""Rules as plain functions: what matches, what is refused and why, the classic failures of graph matchers."""

import pytest
import torch
import torch.nn.functional as F

from fxopt.errors import PassError
from fxopt.pipeline import Pass, PassManager, PipelineResult, RewritePass
from fxopt.program import Program
from fxopt.rewriting import Const, Rule
from tests.passes.helpers import calls, program, rand, reasons


def rewrite_pass(pattern, replacement, guard=None, name: str = "Sample") -> Pass:
    """A pass of one rule, made on the spot."""
    members: dict[str, object] = {"pattern": staticmethod(pattern), "replacement": staticmethod(replacement)}
    if guard is not None:
        members["guard"] = lambda self, match: guard(match)
    return type(name, (RewritePass,), members)()


def run(before: Program, pattern, replacement, guard=None) -> PipelineResult:
    return PassManager.of([rewrite_pass(pattern, replacement, guard)]).run(before)


def same(before: Program, result: PipelineResult, *args: torch.Tensor) -> None:
    torch.testing.assert_close(result.program(*args), before(*args))


def mul_add(x, w: Const, b: Const):
    return torch.matmul(x, w) + b


def linear(x, w, b):
    return F.linear(x, w.t(), b)


def test_a_pattern_matches_at_any_rank_and_commuted() -> None:
    for shape in ((2, 4), (2, 3, 4), (2, 3, 5, 4)):
        before = program(lambda x, w, b: b + x @ w, rand(*shape), dynamic=True, w=rand(4, 6), b=rand(6))
        result = run(before, mul_add, linear)
        assert calls(result.program) == ["linear"], shape
        same(before, result, rand(*shape))


def test_what_depends_on_weights_alone_is_stored() -> None:
    before = program(lambda x, w, b: x @ w + b, rand(2, 4), w=rand(4, 6), b=rand(6))
    result = run(before, mul_add, lambda x, w, b: F.linear(x, (w * 2).t() / 2, b))
    assert calls(result.program) == ["linear"]
    assert set(map(tuple, (t.shape for t in result.program.weights.values()))) == {(6, 4), (6,)}


def test_a_const_that_is_an_input_is_refused_with_the_reason() -> None:
    before = program(lambda x, w, b: x @ w + b, rand(2, 4), rand(4, 6), b=rand(6))
    result = run(before, mul_add, linear)
    assert calls(result.program) == ["matmul", "add"]
    assert any("'w'" in r and "not known at compile time" in r for r in reasons(result))


def test_an_inner_value_with_another_user_is_refused() -> None:
    def function(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        y = x @ w
        return (y + b) * y

    before = program(function, rand(2, 4), w=rand(4, 6), b=rand(6))
    result = run(before, mul_add, linear)
    assert not result.passes[0].changed
    assert any("has another user" in r for r in reasons(result))


def test_back_to_back_matches_through_a_list() -> None:
    """pytorch/pytorch#159613: a match whose argument is another match's result, through cat's list."""
    before = program(lambda x, y: torch.cat([torch.cat([x, y], 1).neg(), y], 1).neg(), rand(2, 3), rand(2, 4))
    result = run(
        before, lambda a, b: torch.cat([a, b], 1).neg(), lambda a, b: torch.cat([a.neg(), b.neg()], 1)
    )
    # The second rewrite makes a neg(cat(...)) anew, which is rewritten in turn.
    assert calls(result.program) == ["neg", "neg", "neg", "neg", "cat", "neg", "cat"]
    assert result.passes[0].rewrites == 3
    same(before, result, rand(2, 3), rand(2, 4))


def test_overlapping_matches_reach_a_fixpoint() -> None:
    before = program(lambda x: x.relu().relu().relu().relu().relu(), rand(2, 3))
    result = run(before, lambda x: x.relu().relu(), lambda x: x.relu())
    assert calls(result.program) == ["relu"]
    assert result.passes[0].rewrites == 4


def test_a_near_pattern_is_no_match() -> None:
    """pytorch/pytorch#104775: the same ops wired otherwise."""
    before = program(lambda x, y: torch.relu(x) - torch.tanh(y), rand(2, 3), rand(2, 3))
    result = run(before, lambda x: torch.relu(x) - torch.tanh(x), lambda x: torch.sigmoid(x))
    assert not result.passes[0].changed


def test_an_identity_replacement_stops() -> None:
    """pytorch/pytorch#97817: a replacement that returns its argument."""
    before = program(lambda x: x.neg().neg().relu(), rand(2, 3), dynamic=True)
    result = run(before, lambda x: x.neg().neg(), lambda x: x)
    assert calls(result.program) == ["relu"]


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_a_literal_of_any_value_is_bound(dim: int) -> None:
    """pytorch/pytorch#100419: constants as arguments of the pattern."""

    def pattern(x, d: int):
        return x.softmax(d)

    before = program(lambda x: x.softmax(dim), rand(3, 4))
    result = run(before, pattern, lambda x, d: x.log_softmax(d).exp())
    assert calls(result.program) == ["log_softmax", "exp"]
    same(before, result, rand(3, 4))


def test_a_literal_of_the_pattern_must_be_equal() -> None:
    before = program(lambda x: F.leaky_relu(x, 0.2), rand(3, 4))
    assert not run(before, lambda x: F.leaky_relu(x, 0.1), lambda x: x.relu()).passes[0].changed


def test_lists_and_floats_as_literals() -> None:
    def pattern(x, w: Const, b: Const | None, stride: list[int], padding: list[int], eps: float):
        return F.elu(F.conv2d(x, w, b, stride, padding), eps)

    seen = []

    def guard(match):
        seen.append((match["stride"], match["padding"], match["eps"], match["b"]))

    before = program(
        lambda x, w: F.elu(F.conv2d(x, w, None, 2, (1, 0)), 0.3), rand(2, 3, 8, 8), w=rand(4, 3, 3, 3)
    )
    result = run(
        before,
        pattern,
        lambda x, w, b, stride, padding, eps: F.celu(F.conv2d(x, w, b, stride, padding), eps),
        guard,
    )
    assert calls(result.program) == ["conv2d", "celu"]
    assert seen == [([2, 2], [1, 0], 0.3, None)]


def test_symbolic_sizes_match_and_size_reads_of_inner_values_move() -> None:
    """pytorch/pytorch#136329: sym_size nodes are users of inner values."""

    def function(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        y = x @ w
        return (y + b).reshape(y.shape[0] * 2, -1)

    before = program(function, rand(3, 4), dynamic=True, w=rand(4, 6), b=rand(6))
    result = run(before, mul_add, linear)
    assert "linear" in calls(result.program)
    for batch in (1, 2, 5):
        same(before, result, rand(batch, 4))


def test_a_replacement_may_use_sizes() -> None:
    before = program(lambda x: x.flatten(1), rand(3, 4, 5), dynamic=True)
    result = run(before, lambda x: x.flatten(1), lambda x: x.reshape(x.shape[0], x.shape[1] * x.shape[2]))
    assert "reshape" in calls(result.program)
    for batch in (1, 4):
        same(before, result, rand(batch, 4, 5))


def test_several_results() -> None:
    before = program(lambda x: (x.sin() + 1, x.cos() * 2), rand(2, 3))
    result = run(before, lambda x: (x.sin(), x.cos()), lambda x: ((x + 0.0).sin(), (x + 0.0).cos()))
    assert not result.passes or isinstance(result, PipelineResult)


def test_one_value_may_be_two_arguments() -> None:
    before = program(lambda x: (x * x).neg(), rand(2, 3))
    result = run(before, lambda a, b: (a * b).neg(), lambda a, b: a.neg() * b)
    assert calls(result.program) == ["neg", "mul"]
    same(before, result, rand(2, 3))


def test_a_result_of_another_dtype_is_refused_not_a_crash() -> None:
    before = program(lambda i: i * 2 + 1, torch.arange(4))
    result = run(before, lambda x: x * 2 + 1, lambda x: x * 2.0 + 1.0)
    assert not result.passes[0].changed
    assert any("int64" in r and "float32" in r for r in reasons(result))


def test_a_replacement_that_raises_is_refused_with_its_reason() -> None:
    before = program(lambda x, w, b: x @ w + b, rand(2, 3, 4), w=rand(2, 4, 6), b=rand(6))
    result = run(before, mul_add, linear)
    assert not result.passes[0].changed
    assert any("t() expects a tensor with <= 2 dimensions" in r for r in reasons(result))


def test_a_guard_refuses_with_its_reason_and_must_return_none_or_a_refusal() -> None:
    before = program(lambda x: x.relu(), rand(2, 3))
    result = run(before, lambda x: x.relu(), lambda x: x.abs(), lambda m: m.refuse("not today"))
    assert "not today" in reasons(result)
    with pytest.raises(PassError, match=r"expected None or match\.refuse"):
        run(before, lambda x: x.relu(), lambda x: x.abs(), lambda m: True)


def test_rules_that_undo_one_another_are_named() -> None:
    class Ping(RewritePass):
        """Back and forth."""

        rules = (
            Rule(lambda x: x.sin(), lambda x: x.cos(), name="ping"),
            Rule(lambda x: x.cos(), lambda x: x.sin(), name="pong"),
        )

    with pytest.raises(PassError, match="the rules ping, pong undo one another"):
        PassManager.of([Ping()]).run(program(lambda x: x.sin(), rand(2)))


def test_the_nearest_miss_is_told() -> None:
    before = program(lambda x: torch.tanh(x).neg(), rand(2, 3))
    result = run(before, lambda x: torch.relu(x).neg(), lambda x: x)
    (refusal,) = result.passes[0].refusals
    assert "expected aten.relu" in refusal.reason
    assert "aten.tanh" in refusal.reason
    assert refusal.where


def test_shared_weights_of_two_matches_are_not_mixed() -> None:
    def function(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return (x @ w + b) * (x.neg() @ w + c)

    before = program(function, rand(2, 4), w=rand(4, 6), b=rand(6), c=rand(6, seed=1))
    result = run(before, mul_add, linear)
    assert calls(result.program).count("linear") == 2
    same(before, result, rand(2, 4))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (lambda x: x, "computes nothing"),
        (lambda x, y: x.relu(), "does not use its argument 'y'"),
        (lambda x: x.no_such_method(), "does not run on tensors of any rank"),
    ],
)
def test_a_bad_pattern_is_one_clear_error(pattern, message: str) -> None:
    def replacement(*args):
        return args[0]

    replacement.__signature__ = __import__("inspect").signature(pattern)
    with pytest.raises(PassError, match=message):
        run(program(lambda x: x.relu(), rand(2, 3)), pattern, replacement)


def test_the_replacement_takes_the_patterns_arguments() -> None:
    with pytest.raises(PassError, match="must be the same"):
        run(program(lambda x: x.relu(), rand(2, 3)), lambda x: x.relu(), lambda y: y)


def test_a_bad_annotation_is_named() -> None:
    def pattern(x: str):
        return x.relu()

    with pytest.raises(PassError, match="argument 'x' is annotated"):
        run(program(lambda x: x.relu(), rand(2, 3)), pattern, lambda x: x)
