"""Rules as plain functions: what matches, what is refused and why, the classic failures of graph matchers."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

import fxopt
from fxopt.errors import PassError
from fxopt.pipeline import Pass, PassManager, PipelineResult, RewritePass
from fxopt.program import Program, origins_of
from fxopt.rewriting import Const, Match, Refused, Rule
from tests.passes.helpers import calls, program, rand, reasons


def rewrite_pass(
    pattern: Callable[..., object],
    replacement: Callable[..., object],
    guard: Callable[[Match], object] | None = None,
    name: str = "Sample",
) -> Pass:
    """A pass of one rule, made on the spot."""
    members: dict[str, object] = {"pattern": staticmethod(pattern), "replacement": staticmethod(replacement)}
    if guard is not None:
        members["guard"] = lambda self, match: guard(match)
    made = type(name, (RewritePass,), members)()
    assert isinstance(made, Pass)
    return made


def run(
    before: Program,
    pattern: Callable[..., object],
    replacement: Callable[..., object],
    guard: Callable[[Match], object] | None = None,
) -> PipelineResult:
    return PassManager.of([rewrite_pass(pattern, replacement, guard)]).run(before)


def same(before: Program, result: PipelineResult, *args: torch.Tensor) -> None:
    torch.testing.assert_close(result.program(*args), before(*args))


def mul_add(x, w: Const, b: Const):
    return torch.matmul(x, w) + b


def linear(x, w, b):
    return F.linear(x, w.t(), b)


class TestMatching:
    def test_a_pattern_matches_at_any_rank_and_commuted(self) -> None:
        for shape in ((4,), (2, 4), (2, 3, 4), (2, 3, 5, 4)):
            before = program(lambda x, w, b: b + x @ w, rand(*shape), w=rand(4, 6), b=rand(6))
            result = run(before, mul_add, linear)
            assert calls(result.program) == ["linear"], shape
            same(before, result, rand(*shape))

    def test_a_pattern_of_casts_is_recorded_on_dtypes_that_need_them(self) -> None:
        """On float32 the pattern computes nothing: `x.float()` is no call there."""
        before = program(lambda x: x.float().relu(), rand(2, 3, dtype=torch.float16))
        result = run(before, lambda x: x.float().relu(), lambda x: x.relu().float())
        assert calls(result.program) == ["relu", "to"]

    def test_eight_operands_in_any_order(self) -> None:
        """Commutative without 2^k copies of the pattern, and without 2^k attempts."""

        def pattern(a, b, c, d, e, f, g, h):
            return (((((((a.sin() + b) + c) + d) + e) + f) + g) + h).neg()

        def function(*t: torch.Tensor) -> torch.Tensor:
            total = t[0].sin()
            for i, other in enumerate(t[1:]):
                total = other + total if i % 2 else total + other
            return total.neg()

        args = [rand(2, seed=i) for i in range(8)]
        before = program(function, *args)
        result = run(before, pattern, lambda a, b, c, d, e, f, g, h: -(a.sin() + (b + c + d + e + f + g + h)))
        assert result.passes[0].rewrites == 1
        same(before, result, *args)

    def test_the_other_order_is_tried_when_the_first_is_refused(self) -> None:
        before = program(lambda x, b: b + x, rand(2, 6), b=rand(6))

        def pattern(x, b: Const):
            return x + b

        result = run(before, pattern, lambda x, b: x - b.neg())
        assert calls(result.program) == ["sub"]
        assert reasons(result) == []

    def test_what_is_not_commutative_is_not_swapped(self) -> None:
        before = program(lambda x, y: y - x.relu(), rand(2), rand(2))
        assert not run(before, lambda x, y: x.relu() - y, lambda x, y: x).passes[0].changed
        # add with another alpha is not commutative either
        before = program(lambda x, y: torch.add(y, x.relu(), alpha=2), rand(2), rand(2))
        result = run(before, lambda x, y: torch.add(x.relu(), y, alpha=2), lambda x, y: x)
        assert not result.passes[0].changed

    def test_an_argument_used_twice_is_one_value(self) -> None:
        before = program(lambda x, y: (x.relu() * x.tanh()) + (x.relu() * y.tanh()), rand(2), rand(2))
        result = run(before, lambda x: x.relu() * x.tanh(), lambda x: x.sigmoid())
        assert calls(result.program) == ["sigmoid", "relu", "tanh", "mul", "add"]

    def test_one_value_may_be_two_arguments(self) -> None:
        before = program(lambda x: (x * x).neg(), rand(2, 3))
        result = run(before, lambda a, b: (a * b).neg(), lambda a, b: a.neg() * b)
        assert calls(result.program) == ["neg", "mul"]
        same(before, result, rand(2, 3))

    def test_a_near_pattern_is_no_match(self) -> None:
        """pytorch/pytorch#104775: the same ops wired otherwise."""
        before = program(lambda x, y: torch.relu(x) - torch.tanh(y), rand(2, 3), rand(2, 3))
        result = run(before, lambda x: torch.relu(x) - torch.tanh(x), lambda x: torch.sigmoid(x))
        assert not result.passes[0].changed

    def test_keyword_arguments_count(self) -> None:
        before = program(lambda x, y: torch.add(x, y, alpha=3).relu(), rand(2), rand(2))
        assert not run(before, lambda x, y: torch.add(x, y).relu(), lambda x, y: x).passes[0].changed
        result = run(before, lambda x, y: torch.add(x, y, alpha=3).relu(), lambda x, y: (x + 3 * y).relu())
        assert result.passes[0].changed

    def test_two_calls_of_the_pattern_are_two_calls_of_the_program(self) -> None:
        before = program(lambda x: (r := x.relu()) * r, rand(2))
        result = run(before, lambda x, y: x.relu() * y.relu(), lambda x, y: (x * y).relu())
        assert not result.passes[0].changed


class TestManyMatches:
    def test_back_to_back_matches_through_a_list(self) -> None:
        """pytorch/pytorch#159613: a match whose argument is another match's result, through cat's list."""
        before = program(
            lambda x, y: torch.cat([torch.cat([x, y], 1).neg(), y], 1).neg(), rand(2, 3), rand(2, 4)
        )
        result = run(
            before, lambda a, b: torch.cat([a, b], 1).neg(), lambda a, b: torch.cat([a.neg(), b.neg()], 1)
        )
        # The second rewrite makes a neg(cat(...)) anew, which is rewritten in turn.
        assert calls(result.program) == ["neg", "neg", "neg", "neg", "cat", "neg", "cat"]
        assert result.passes[0].rewrites == 3
        same(before, result, rand(2, 3), rand(2, 4))

    def test_a_list_of_another_length_is_no_match(self) -> None:
        before = program(lambda x, y: torch.cat([x, y, x], 1).neg(), rand(2, 3), rand(2, 4))
        result = run(before, lambda a, b: torch.cat([a, b], 1).neg(), lambda a, b: a)
        assert not result.passes[0].changed
        assert reasons(result) == [
            "nearest miss, 2 matched: expected a list of 2, found [args_0, args_1, args_0]"
        ]

    def test_overlapping_matches_reach_a_fixpoint(self) -> None:
        before = program(lambda x: x.relu().relu().relu().relu().relu(), rand(2, 3))
        result = run(before, lambda x: x.relu().relu(), lambda x: x.relu())
        assert calls(result.program) == ["relu"]
        assert result.passes[0].rewrites == 4

    def test_a_chain_collapses_completely(self) -> None:
        """neg of neg, eight of them: a single sweep of other matchers leaves some."""
        before = program(lambda x: x.neg().neg().neg().neg().neg().neg().neg().neg().neg(), rand(2, 3))
        assert calls(run(before, lambda x: x.neg().neg(), lambda x: x).program) == ["neg"]

    def test_an_identity_replacement_stops(self) -> None:
        """pytorch/pytorch#97817: a replacement that returns its argument records nothing else."""

        def function(x: torch.Tensor) -> torch.Tensor:
            for _ in range(30):
                x = (x + x).neg().neg()
            return x

        before = program(function, rand(2, 3), dynamic=True)
        result = run(before, lambda x: x.neg().neg(), lambda x: x)
        assert calls(result.program) == ["add"] * 30
        assert {r.created for r in result.journals[0].rewrites} == {()}

    def test_what_a_rewrite_makes_inside_is_looked_at_too(self) -> None:
        before = program(lambda x: x.sinh().relu(), rand(2))
        rules = (
            Rule(lambda x: x.sinh(), lambda x: x.neg().neg().abs(), name="open"),
            Rule(lambda x: x.neg().neg(), lambda x: x, name="close"),
        )
        made = type("Both", (RewritePass,), {"rules": rules})()
        assert calls(PassManager.of([made]).run(before).program) == ["abs", "relu"]

    def test_what_loses_a_user_is_looked_at_again_from_far_above(self) -> None:
        """neg has two users until the choice goes, and the comparison with it; then the deep pattern matches."""

        def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            n = x.neg()
            return n.sin().exp().tanh(), torch.where(n > 0, x, x)

        rules = (
            Rule(lambda x: x.neg().sin().exp().tanh(), lambda x: x.sigmoid(), name="deep"),
            Rule(lambda c, x: torch.where(c, x, x), lambda c, x: x, name="no-choice"),
        )
        made = type("Deep", (RewritePass,), {"rules": rules})()
        # The choice comes last in the graph: the deep pattern was tried, and refused, before it.
        result = PassManager.of([made]).run(program(function, rand(2)))
        assert calls(result.program) == ["sigmoid"]
        assert reasons(result) == []

    def test_shared_weights_of_two_matches_are_not_mixed(self) -> None:
        def function(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return (x @ w + b) * (x.neg() @ w + c)

        before = program(function, rand(2, 4), w=rand(4, 6), b=rand(6), c=rand(6, seed=1))
        weight = before.weights["w"].clone()
        result = run(before, mul_add, lambda x, w, b: F.linear(x, (w * b).t()) / b + b)
        assert calls(result.program).count("linear") == 2
        folded = [t for t in result.program.weights.values() if t.shape == (6, 4)]
        assert len(folded) == 2
        assert not torch.equal(*folded)
        assert torch.equal(before.weights["w"], weight)
        same(before, result, rand(2, 4))

    def test_rules_that_undo_one_another_are_named(self) -> None:
        class Ping(RewritePass):
            """Back and forth."""

            rules = (
                Rule(lambda x: x.sin(), lambda x: x.cos(), name="ping"),
                Rule(lambda x: x.cos(), lambda x: x.sin(), name="pong"),
                Rule(lambda x: x.neg().neg(), lambda x: x, name="innocent"),
            )

        before = program(lambda x: x.neg().neg().sin(), rand(2))
        with pytest.raises(PassError, match="the rules ping, pong undo one another"):
            PassManager.of([Ping()]).run(before)

    def test_a_rule_that_feeds_itself_is_named(self) -> None:
        with pytest.raises(PassError, match="the rules sample undo one another"):
            run(program(lambda x: x.relu(), rand(2)), lambda x: x.relu(), lambda x: x.relu().relu())


class TestResults:
    def test_several_results(self) -> None:
        before = program(lambda x: (x.sin() + 1, x.cos() * 2), rand(2, 3))
        result = run(before, lambda x: (x.sin(), x.cos()), lambda x: (torch.cos(x - 1.5), torch.sin(x + 1.5)))
        assert calls(result.program) == ["sub", "cos", "add", "sin", "add", "mul"]

    @pytest.mark.parametrize("order", ["first", "last"])
    def test_a_result_is_found_over_several_calls(self, order: str) -> None:
        """The anchor is the last call: what it does not reach is found from the shared argument up."""

        def pattern(x):
            deep, flat = x.sigmoid().tanh(), x.relu()
            return (deep, flat) if order == "first" else (flat, deep)

        before = program(lambda x: x.relu() + x.sigmoid().tanh(), rand(2, 3))

        def replacement(x):
            deep, flat = x.exp(), x.abs()
            return (deep, flat) if order == "first" else (flat, deep)

        result = run(before, pattern, replacement)
        assert sorted(calls(result.program)) == ["abs", "add", "exp"]

    def test_an_inner_value_that_is_a_result_may_have_other_users(self) -> None:
        def pattern(x):
            y = x.relu()
            return y, y.tanh()

        before = program(lambda x: ((y := x.relu()).tanh(), y.neg(), y.exp()), rand(2, 3))
        result = run(before, pattern, lambda x: ((z := x.clamp(0)), z.tanh()))
        assert sorted(calls(result.program)) == ["clamp", "exp", "neg", "tanh"]
        same(before, result, rand(2, 3))

    def test_results_of_one_call(self) -> None:
        before = program(lambda x: sum(t.neg() for t in x.split(2)), rand(4, 3))
        result = run(
            before,
            lambda x: x.split(2),
            lambda x: (x[:2], x[2:]),
        )
        assert "split" not in calls(result.program)
        same(before, result, rand(4, 3))

    def test_a_rewrite_that_would_need_a_later_value_is_refused(self) -> None:
        """exp stands between the two results, of which one needs the other."""

        def function(x: torch.Tensor) -> torch.Tensor:
            a = x.relu()
            return a.exp() * (x + a)

        before = program(function, rand(2))
        result = run(before, lambda x, y: (x.relu(), x + y), lambda x, y: (x.abs(), x - y))
        assert not result.passes[0].changed
        assert any("before it is made" in r for r in reasons(result))

    def test_results_without_a_common_value_are_no_pattern(self) -> None:
        with pytest.raises(PassError, match="results have nothing in common"):
            run(program(lambda x: x.relu(), rand(2)), lambda x, y: (x.relu(), y.tanh()), lambda x, y: (x, y))

    def test_another_count_of_results_is_an_error(self) -> None:
        before = program(lambda x: x.relu(), rand(2))
        with pytest.raises(PassError, match="the pattern returns 1 value, the replacement 2 values"):
            run(before, lambda x: x.relu(), lambda x: (x, x))

    @pytest.mark.parametrize("result", [None, 3])
    def test_a_replacement_must_return_a_tensor(self, result: object) -> None:
        before = program(lambda x: x.relu(), rand(2))
        with pytest.raises(PassError, match=f"the replacement returns {result}, not a tensor"):
            run(before, lambda x: x.relu(), lambda x: result)


class TestExtraUsers:
    def test_an_inner_value_with_another_user_is_refused(self) -> None:
        def function(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            y = x @ w
            return (y + b) * y

        before = program(function, rand(2, 4), w=rand(4, 6), b=rand(6))
        result = run(before, mul_add, linear)
        assert not result.passes[0].changed
        assert reasons(result) == ["matmul (aten.matmul.default) has another user, mul"]
        assert result.passes[0].refusals[0].where.startswith("test_rules.py:")

    def test_another_user_counts_behind_a_result_too(self) -> None:
        """The pattern's first result stands before the inner value that is used elsewhere."""

        def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = x.relu()
            z = y.sigmoid()
            return y, z.tanh(), z.neg()

        before = program(function, rand(2))
        result = run(before, lambda x: ((y := x.relu()), y.sigmoid().tanh()), lambda x: (x.abs(), x.cos()))
        assert not result.passes[0].changed
        assert reasons(result) == ["sigmoid (aten.sigmoid.default) has another user, neg"]

    def test_an_inner_value_that_the_program_returns_is_refused(self) -> None:
        before = program(lambda x: ((y := x.relu()), y.neg()), rand(2))
        result = run(before, lambda x: x.relu().neg(), lambda x: x.abs())
        assert not result.passes[0].changed
        assert reasons(result) == ["relu (aten.relu.default) has another user, output"]

    def test_a_size_read_of_an_inner_value_moves(self) -> None:
        """pytorch/pytorch#136329: sym_size nodes are users of inner values."""

        def function(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            y = x @ w
            rows = y.shape[0] * 2
            return (y + b).reshape(rows, -1)

        before = program(function, rand(3, 4), dynamic=True, w=rand(4, 6), b=rand(6))
        result = run(before, mul_add, linear)
        assert "linear" in calls(result.program)
        for batch in (1, 2, 5):
            same(before, result, rand(batch, 4))

    def test_a_size_that_no_argument_has_refuses(self) -> None:
        def function(x: torch.Tensor) -> torch.Tensor:
            y = x.repeat(3, 1)
            return y.relu().reshape(y.shape[0] // 3, -1)

        before = program(function, rand(2, 4), dynamic=True)
        if "sym_size" not in calls(before):
            pytest.skip("this trace reads the size elsewhere")
        result = run(before, lambda x: x.repeat(3, 1).relu(), lambda x: x.relu().repeat(3, 1))
        assert result.passes[0].changed or any("no argument has" in r for r in reasons(result))
        for batch in (1, 2, 5):
            same(before, result, rand(batch, 4))


class TestLiterals:
    @pytest.mark.parametrize("dim", [0, 1, -1])
    def test_a_literal_of_any_value_is_bound(self, dim: int) -> None:
        """pytorch/pytorch#100419: constants as arguments of the pattern."""

        def pattern(x, d: int):
            return x.softmax(d)

        before = program(lambda x: x.softmax(dim), rand(3, 4))
        result = run(before, pattern, lambda x, d: x.log_softmax(d).exp())
        assert calls(result.program) == ["log_softmax", "exp"]
        same(before, result, rand(3, 4))

    def test_a_literal_of_the_pattern_must_be_equal(self) -> None:
        before = program(lambda x: F.leaky_relu(x, 0.2), rand(3, 4))
        assert not run(before, lambda x: F.leaky_relu(x, 0.1), lambda x: x.relu()).passes[0].changed
        assert run(before, lambda x: F.leaky_relu(x, 0.2), lambda x: x.relu()).passes[0].changed

    def test_one_and_one_point_zero_are_two_literals(self) -> None:
        before = program(lambda x: x * 1.0, torch.arange(3))
        assert not run(before, lambda x: x * 1, lambda x: x).passes[0].changed

    def test_a_literal_that_follows_from_the_sizes_is_recorded_again(self) -> None:
        """`x.shape[-1] ** -0.5` is another number at every size; so is a permutation at every rank."""
        for shape in ((2, 3, 8), (2, 5, 3, 16)):
            before = program(lambda x: x.transpose(-2, -1) * x.shape[-1] ** -0.5, rand(*shape))
            result = run(
                before,
                lambda x: x.transpose(-2, -1) * x.shape[-1] ** -0.5,
                lambda x: (x * x.shape[-1] ** -0.5).transpose(-2, -1),
            )
            assert calls(result.program) == ["mul", "permute"]
            same(before, result, rand(*shape))
        before = program(lambda x: x.transpose(-2, -1) * 0.5, rand(2, 3, 8))
        result = run(before, lambda x: x.transpose(-2, -1) * x.shape[-1] ** -0.5, lambda x: x)
        assert not result.passes[0].changed
        assert reasons(result) == [
            "on these values the pattern's aten.mul.Tensor has other arguments than mul"
        ]

    def test_lists_and_floats_and_absent_arguments(self) -> None:
        def pattern(x, w: Const, b: Const | None, stride: list[int], padding: list[int], alpha: float):
            return F.elu(F.conv2d(x, w, b, stride, padding), alpha)

        seen = []
        before = program(
            lambda x, w: F.elu(F.conv2d(x, w, None, 2, (1, 0)), 0.3), rand(2, 3, 8, 8), w=rand(4, 3, 3, 3)
        )
        result = run(
            before,
            pattern,
            lambda x, w, b, stride, padding, alpha: F.celu(F.conv2d(x, w, b, stride, padding), alpha),
            lambda m: seen.append((m["stride"], m["padding"], m["alpha"], m["b"])),
        )
        assert calls(result.program) == ["conv2d", "celu"]
        assert seen == [([2, 2], [1, 0], 0.3, None)]

    def test_shapes_as_literals(self) -> None:
        def pattern(x, a: list[int], b: list[int]):
            return x.reshape(a).reshape(b)

        before = program(lambda x: x.reshape(6, 4).reshape(3, 2, 4), rand(2, 3, 4))
        result = run(before, pattern, lambda x, a, b: x.reshape(b))
        assert calls(result.program) == ["reshape"]
        same(before, result, rand(2, 3, 4))

    def test_truth_values_and_dtypes(self) -> None:
        def mean(x, keep: bool):
            return x.mean(1, keep)

        before = program(lambda x: x.mean(1, True), rand(2, 3))
        result = run(before, mean, lambda x, keep: x.sum(1, keep) / 3)
        assert calls(result.program) == ["sum", "div"]

        def twice(x, a: torch.dtype, b: torch.dtype):
            return x.to(a).to(b)

        before = program(lambda x: x.to(torch.float64).to(torch.float16), rand(2, 3))
        assert calls(run(before, twice, lambda x, a, b: x.to(b)).program) == ["to"]

    def test_a_symbolic_size_is_no_literal(self) -> None:
        def pattern(x, size: list[int]):
            return x.reshape(size).relu()

        before = program(lambda x: x.reshape(x.shape[0], 12).relu(), rand(2, 3, 4), dynamic=True)
        result = run(before, pattern, lambda x, size: x.relu().reshape(size))
        assert not result.passes[0].changed
        assert "expected list[int] for 'size'" in reasons(result)[0]

    def test_a_literal_that_no_op_takes_is_an_error(self) -> None:
        def pattern(x, s: float):
            return x * (s * 2)

        with pytest.raises(PassError, match="the literal 's' is no argument of any op"):
            run(program(lambda x: x * 2.0, rand(2)), pattern, lambda x, s: x)


class TestSizes:
    def test_a_replacement_may_use_sizes_that_vary(self) -> None:
        """pytorch/pytorch PR #115441: patterns and replacements under dynamic shapes."""
        before = program(lambda x: x.flatten(1), rand(3, 4, 5), dynamic=True)
        result = run(before, lambda x: x.flatten(1), lambda x: x.reshape(x.shape[0], x.shape[1] * x.shape[2]))
        assert calls(result.program) == ["sym_size", "reshape"]
        for batch in (0, 1, 4):
            same(before, result, rand(batch, 4, 5))

    def test_a_pattern_of_sizes_matches_the_programs_own_reads(self) -> None:
        before = program(lambda x: x.reshape(x.shape[0], 2, -1).relu(), rand(3, 8), dynamic=True)
        result = run(
            before,
            lambda x: x.reshape(x.shape[0], 2, -1).relu(),
            lambda x: x.relu().reshape(x.shape[0], 2, -1),
        )
        assert [c for c in calls(result.program) if c != "sym_size"] == ["relu", "reshape"]
        for batch in (1, 5):
            same(before, result, rand(batch, 8))

    def test_a_branch_on_a_size_that_varies_is_refused(self) -> None:
        """The example's batch of 4 says nothing of the others."""
        before = program(lambda x: x.relu(), rand(4, 3), dynamic=True)
        result = run(before, lambda x: x.relu(), lambda x: x.abs() if x.shape[0] == 4 else x.clamp(0))
        assert not result.passes[0].changed
        assert "branches on a size that varies" in reasons(result)[0]
        fixed = program(lambda x: x.relu(), rand(4, 3))
        result = run(fixed, lambda x: x.relu(), lambda x: x.abs() if x.shape[0] == 4 else x.clamp(0))
        assert calls(result.program) == ["abs"]

    def test_a_guard_on_a_size_that_varies_refuses_and_leaves_the_size_as_it_was(self) -> None:
        before = program(lambda x: x.relu(), rand(4, 3), dynamic=True)

        def guard(match: Match) -> Refused | None:
            return None if match["x"].shape[0] % 2 == 0 else match.refuse("odd")

        result = run(before, lambda x: x.relu(), lambda x: x.abs(), guard)
        assert not result.passes[0].changed
        assert "the guard can't say for all sizes" in reasons(result)[0]
        assert str(before.placeholders()[0].meta["val"].shape[0]) != "4"
        assert before(rand(3, 3)).shape == (3, 3)  # type: ignore[attr-defined]

    def test_torchs_own_checks_of_sizes_are_none_of_the_patterns(self) -> None:
        """F.group_norm asks in Python whether there is more than one value."""
        before = program(lambda x: F.group_norm(x, 2).relu(), rand(3, 4, 5), dynamic=True)
        result = run(before, lambda x: F.group_norm(x, 2).relu(), lambda x: F.group_norm(x, 2).clamp(0))
        assert calls(result.program) == ["group_norm", "clamp"]


class TestDtypes:
    def test_a_result_of_another_dtype_is_refused_not_a_crash(self) -> None:
        before = program(lambda i: i * 2 + 1, torch.arange(4))
        result = run(before, lambda x: x * 2 + 1, lambda x: x * 2.0 + 1.0)
        assert not result.passes[0].changed
        assert reasons(result) == ["the replacement gives float32 [4], the pattern int64 [4]"]

    def test_mixed_dtypes_that_promote_are_refused(self) -> None:
        """A tensor without dimensions does not widen a half, the same value with a dimension does."""
        for dtype, result_dtype in (
            (torch.float32, None),
            (torch.float16, "float32"),
            (torch.int64, "float32"),
        ):
            before = program(lambda x, y: x * y, rand(3).to(dtype), torch.tensor(2.0))
            result = run(before, lambda x, y: x * y, lambda x, y: x / (1 / y.reshape(1)))
            if result_dtype is None or dtype is torch.int64:
                assert (
                    calls(result.program)
                    == ["reshape", "reciprocal", "mul", "div"][:1] + calls(result.program)[1:]
                )
                assert result.passes[0].changed
            else:
                assert reasons(result) == ["the replacement gives float32 [3], the pattern float16 [3]"]

    def test_a_replacement_of_another_shape_is_refused(self) -> None:
        before = program(lambda x: x.relu(), rand(2, 3), dynamic=True)
        result = run(before, lambda x: x.relu(), lambda x: x.sum(0))
        assert reasons(result) == ["the replacement gives float32 [3], the pattern float32 [batch, 3]"]

    def test_the_same_rules_fire_in_float64(self) -> None:
        for dtype in (torch.float32, torch.float64, torch.float16):
            before = program(
                lambda x, w, b: x @ w + b,
                rand(2, 4, dtype=dtype),
                w=rand(4, 6, dtype=dtype),
                b=rand(6, dtype=dtype),
            )
            result = run(before, mul_add, linear)
            assert result.passes[0].rules == {"sample": 1}
            assert all(t.dtype == dtype for t in result.program.weights.values())


class TestConstants:
    def test_what_depends_on_weights_alone_is_stored(self) -> None:
        before = program(lambda x, w, b: x @ w + b, rand(2, 4), w=rand(4, 6), b=rand(6))
        result = run(before, mul_add, lambda x, w, b: F.linear(x, (w * 2).t() / 2, b))
        assert calls(result.program) == ["linear"]
        assert {tuple(t.shape) for t in result.program.weights.values()} == {(6, 4), (6,)}

    def test_constants_are_computed_in_float64_and_rounded_once(self) -> None:
        """(w + 1e8) - 1e8 is 0 in float32."""
        before = program(lambda x, w, b: x @ w + b, rand(2, 4), w=rand(4, 6), b=rand(6))
        result = run(before, mul_add, lambda x, w, b: F.linear(x, ((w + 1e8) - 1e8).t(), b))
        (folded,) = [t for t in result.program.weights.values() if t.dim() == 2]
        assert folded.dtype == torch.float32
        torch.testing.assert_close(folded, before.weights["w"].t(), rtol=0, atol=2e-8)

    def test_a_dtype_that_is_asked_for_is_float64_meanwhile(self) -> None:
        before = program(lambda x, w, b: x @ w + b, rand(2, 4), w=rand(4, 6), b=rand(6))

        def summed(x, w, b):
            return F.linear(x, torch.cumsum((w + 1e8)[None], 0, dtype=torch.float32)[0].t() - 1e8, b)

        (folded,) = [t for t in run(before, mul_add, summed).program.weights.values() if t.dim() == 2]
        assert folded.dtype == torch.float32
        torch.testing.assert_close(folded, before.weights["w"].t(), rtol=0, atol=2e-8)

    def test_the_bits_of_a_weight_are_those_that_it_has(self) -> None:
        before = program(lambda x, w: x * w, rand(4), w=rand(4))

        def pattern(x, w: Const):
            return x * w

        def bits(x, w):
            return x - w.view(torch.float16)[::2].to(torch.float32)

        result = run(before, pattern, bits)
        (folded,) = result.program.weights.values()
        assert torch.equal(folded, before.weights["w"].view(torch.float16)[::2].to(torch.float32))

    def test_a_replacement_may_use_one_of_several_results(self) -> None:
        before = program(lambda x: x.amax(0), rand(4, 3))
        result = run(before, lambda x: x.amax(0), lambda x: x.max(0)[0])
        assert calls(result.program) == ["max", "getitem"]
        same(before, result, rand(4, 3, seed=2))

    def test_sizes_that_depend_on_data_are_new_ones_in_each_place(self) -> None:
        before = program(lambda x, y: x.amax() * y.amax(), rand(4), rand(4, seed=1))
        result = run(before, lambda x: x.amax(), lambda x: x.masked_select(x > 0).sum())
        first, second = (n for n in result.program.calls() if "masked_select" in n.name)
        assert str(first.meta["val"].shape) != str(second.meta["val"].shape)

    def test_a_const_that_is_an_input_is_refused_with_the_reason(self) -> None:
        before = program(lambda x, w, b: x @ w + b, rand(2, 4), rand(4, 6), b=rand(6))
        result = run(before, mul_add, linear)
        assert calls(result.program) == ["matmul", "add"]
        assert any("'w' (args_1) is not known at compile time" in r for r in reasons(result))

    def test_weights_without_values(self) -> None:
        """Planning on the meta device: the fused weight is meta as well."""
        with torch.device("meta"):
            module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4)).eval()
        before = fxopt.trace(module, (torch.empty(1, 3, 8, 8, device="meta"),))
        result = PassManager.parse("fuse-conv-bn").run(before)
        assert calls(result.program) == ["conv2d"]
        assert all(t.is_meta for t in result.program.weights.values())

    def test_a_guard_that_asks_for_values_that_are_not_there_refuses(self) -> None:
        with torch.device("meta"):
            module = torch.nn.Linear(3, 3).eval()
        before = fxopt.trace(module, (torch.empty(2, 3, device="meta"),))

        def pattern(x, w: Const, b: Const):
            return F.linear(x, w, b)

        result = run(
            before,
            pattern,
            lambda x, w, b: x @ w.t() + b,
            lambda m: None if bool((m["w"] == 0).all()) else m.refuse("no"),
        )
        assert "has no values (device meta)" in reasons(result)[0]

    def test_a_replacement_may_return_a_weight(self) -> None:
        def pattern(w: Const, z: Const):
            return w + z

        before = program(lambda x, w, z: x * (w + z), rand(3), w=rand(3), z=torch.zeros(3))
        result = run(before, pattern, lambda w, z: w)
        assert calls(result.program) == ["mul"]
        assert list(result.program.weights) == ["w"]
        assert result.program.weights["w"] is before.weights["w"]


def _named(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: torch.neg(torch.tanh(function(x)))


class TestRefusals:
    def test_a_replacement_that_raises_is_refused_with_its_reason(self) -> None:
        before = program(lambda x, w, b: x @ w + b, rand(2, 3, 4), w=rand(2, 4, 6), b=rand(6))
        result = run(before, mul_add, linear)
        assert not result.passes[0].changed
        assert any("t() expects a tensor with <= 2 dimensions" in r for r in reasons(result))

    def test_the_guard_is_asked_before_the_replacement(self) -> None:
        before = program(lambda x, w, b: x @ w + b, rand(2, 3, 4), w=rand(2, 4, 6), b=rand(6))
        result = run(
            before, mul_add, linear, lambda m: None if m["w"].dim() == 2 else m.refuse("w is not a matrix")
        )
        assert reasons(result) == ["w is not a matrix"]

    @pytest.mark.parametrize("verdict", [True, False, "no", 0])
    def test_a_guard_returns_none_or_a_refusal(self, verdict: object) -> None:
        before = program(lambda x: x.relu(), rand(2, 3))
        result = run(before, lambda x: x.relu(), lambda x: x.abs(), lambda m: m.refuse("not today"))
        assert reasons(result) == ["not today"]
        with pytest.raises(PassError, match=r"the guard returned .*; expected None or match\.refuse"):
            run(before, lambda x: x.relu(), lambda x: x.abs(), lambda m: verdict)

    def test_a_guard_that_fails_names_its_rule(self) -> None:
        before = program(lambda x: x.relu(), rand(2, 3))
        with pytest.raises(PassError, match="rule 'sample': the guard fails: ZeroDivisionError"):
            run(before, lambda x: x.relu(), lambda x: x.abs(), lambda m: 1 // 0)
        with pytest.raises(PassError, match="the pattern has no argument 'y'; its arguments are x"):
            run(before, lambda x: x.relu(), lambda x: x.abs(), lambda m: m["y"])

    def test_the_nearest_miss_is_told(self) -> None:
        before = program(lambda x: torch.tanh(x.exp()).neg() + torch.neg(x), rand(2, 3))
        result = run(before, lambda x: torch.tanh(x.sin()).neg(), lambda x: x)
        (refusal,) = result.passes[0].refusals
        assert (refusal.node, refusal.rule) == ("exp", "sample")
        assert refusal.reason == "nearest miss, 2 matched: expected aten.sin.default, found aten.exp.default"
        assert refusal.where.startswith("test_rules.py:")

    def test_the_miss_of_an_optional_argument_is_told_of_the_pattern_that_has_it(self) -> None:
        def pattern(x, w: Const, b: Const | None):
            return torch.nn.functional.linear(x.exp(), w, b).relu()

        class Layer(torch.nn.Linear):
            def forward(self, x):
                return super().forward(x.tanh()).relu()

        for bias in (True, False):
            before = fxopt.trace(Layer(3, 3, bias=bias).eval(), (rand(2, 3),))
            result = run(before, pattern, lambda x, w, b: x)
            (refusal,) = result.passes[0].refusals
            assert refusal.reason == (
                "nearest miss, 2 matched: expected aten.exp.default, found aten.tanh.default"
            )
            assert refusal.node == "tanh" and refusal.where.startswith("test_rules.py:")

    def test_an_argument_that_the_pattern_does_not_give_is_told_by_its_name(self) -> None:
        w = rand(3, 3)
        biased = fxopt.trace(
            torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU()).eval(), (rand(2, 3),)
        )

        def pattern(x, w: Const):
            return torch.nn.functional.linear(x, w).relu()

        result = run(biased, pattern, lambda x, w: x)
        (refusal,) = result.passes[0].refusals
        assert refusal.reason == (
            "nearest miss, 2 matched: expected no 'bias' of aten.linear.default, found the weight _0_bias"
        )
        assert refusal.node == "linear" and refusal.where.endswith(" 0")
        bare = program(lambda x: torch.nn.functional.linear(x, w).relu(), rand(2, 3))

        def given(x, w: Const, b: Const):
            return torch.nn.functional.linear(x, w, b).relu()

        assert reasons(run(bare, given, lambda x, w, b: x)) == [
            "nearest miss, 2 matched: expected a tensor for 'b', found nothing"
        ]

    def test_a_literal_that_differs_is_told_with_its_argument(self) -> None:
        before = program(lambda x: x.softmax(0).relu(), rand(2, 3))
        result = run(before, lambda x: x.softmax(1).relu(), lambda x: x)
        assert reasons(result) == [
            "nearest miss, 2 matched: expected 1 for 'dim' of aten.softmax.int, found 0"
        ]

    def test_a_size_that_varies_is_told(self) -> None:
        before = program(lambda x: x.reshape(x.shape[0], 12).relu(), rand(2, 3, 4), dynamic=True)

        def pattern(x, size: list[int]):
            return x.reshape(size).relu()

        assert reasons(run(before, pattern, lambda x, size: x)) == [
            "nearest miss, 2 matched: expected list[int] for 'size', found [sym_size, 12], where sym_size varies"
        ]
        before = program(lambda x: (x * x.shape[0]).relu(), rand(2, 3), dynamic=True)

        def scaled(x, k: int):
            return (x * k).relu()

        assert reasons(run(before, scaled, lambda x, k: x)) == [
            "nearest miss, 2 matched: expected int for 'k', found the size sym_size, which varies"
        ]

    def test_an_op_that_the_program_does_not_have_is_told(self) -> None:
        result = run(program(lambda x: x.relu(), rand(2)), lambda x: x.sin().cos(), lambda x: x)
        assert reasons(result) == ["the program has no aten.cos.default"]

    def test_of_several_rules_those_that_got_furthest_speak(self) -> None:
        rules = tuple(
            Rule(_named(f), lambda x: x, name=f.__name__) for f in (torch.sin, torch.cos, torch.exp)
        )
        made = type(
            "Several",
            (RewritePass,),
            {"rules": (*rules, Rule(lambda x: x.erf().neg(), lambda x: x, name="erf"))},
        )()

        def said(function: Callable[..., object]) -> list[tuple[str, str, str]]:
            (report,) = PassManager.of([made]).run(program(function, rand(2))).passes
            return [(r.rule, r.node, r.reason) for r in report.refusals]

        expected = "nearest miss, 2 matched: expected aten.{}.default, found aten.relu.default"
        near = said(lambda x: x.relu().tanh().neg())
        assert near == [(n, "relu", expected.format(n)) for n in ("sin", "cos", "exp")]  # erf stopped at neg
        assert said(lambda x: x.sin().tanh().neg()) == []
        used = said(lambda x: ((s := x.sin()).tanh().neg(), s))
        assert [u[:2] for u in used] == [("sin", "neg")]
        assert said(lambda x: x.relu()) == [("", "", "the program has no aten.neg.default")]

    def test_what_was_rewritten_after_all_is_no_refusal(self) -> None:
        """relu has another user until that goes."""

        def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = x.relu()
            return y.neg(), torch.atan2(x, y)

        rules = (
            Rule(lambda x: x.relu().neg(), lambda x: x.sigmoid(), name="wanted"),
            Rule(lambda x, y: torch.atan2(x, y), lambda x, y: x.cosh(), name="other"),
        )
        made = type("Made", (RewritePass,), {"rules": rules})()
        result = PassManager.of([made]).run(program(function, rand(2)))
        assert sorted(calls(result.program)) == ["cosh", "sigmoid"] and reasons(result) == []


class TestProvenance:
    def test_new_calls_carry_every_source_and_none_is_empty(self) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Tanh()).eval()
        before = fxopt.trace(model, (rand(2, 3),))
        result = run(before, lambda x: x.relu().tanh(), lambda x: (x * 2).sigmoid())
        for node in result.program.calls():
            assert origins_of(node)
        for op in ("mul", "sigmoid"):
            (node,) = [n for n in result.program.calls() if n.name.startswith(op)]
            assert {o.module for o in origins_of(node)} == {"1", "2"}


class TestBadRules:
    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            (lambda x: x, "computes nothing"),
            (lambda x: 3, "computes nothing"),
            (lambda x: (x.relu(), 3), "returns an argument or a number"),
            (lambda x: (x, x.relu()), "returns an argument or a number"),
            (lambda x, y: x.relu(), "does not use its argument 'y'"),
            (lambda x: x.no_such_method(), "does not run on tensors of any rank: .*no_such_method"),
            (lambda x: x.relu_(), "can't be recorded: aten.relu_.default writes in place"),
            (lambda x: x + rand(3), r"the pattern draws random numbers \(aten\.randn"),
            (lambda *x: x[0], r"argument '\*x' is not positional"),
            (lambda x, *, y: x + y, "is not positional"),
            (torch.relu, r"arguments of 'relu' can't be read; write `lambda x: relu\(x\)`"),
            (lambda: torch.ones(2), "takes no tensor"),
        ],
    )
    def test_a_bad_pattern_is_one_clear_error(self, pattern: Callable[..., object], message: str) -> None:
        with pytest.raises(PassError, match=message) as error:
            run(program(lambda x: x.relu(), rand(2, 3)), pattern, pattern)
        assert "pass 'sample': rule 'sample'" in str(error.value)
        assert "\n" not in str(error.value)

    def test_the_replacement_takes_the_patterns_arguments(self) -> None:
        with pytest.raises(PassError, match=r"the replacement takes \(y\), the pattern \(x\); they must be"):
            run(program(lambda x: x.relu(), rand(2, 3)), lambda x: x.relu(), lambda y: y)

    def test_a_bad_annotation_is_named(self) -> None:
        def pattern(x: str):
            return x.relu()  # type: ignore[attr-defined]

        with pytest.raises(PassError, match="argument 'x' is annotated"):
            run(program(lambda x: x.relu(), rand(2, 3)), pattern, lambda x: x)

    def test_an_annotation_that_can_not_be_read_is_named(self) -> None:
        def pattern(x: "NoSuchName"):  # type: ignore[name-defined]  # noqa: F821
            return x.relu()

        with pytest.raises(PassError, match="annotations can't be read: name 'NoSuchName'"):
            run(program(lambda x: x.relu(), rand(2, 3)), pattern, lambda x: x)

    def test_a_forgotten_staticmethod_is_said(self) -> None:
        class Forgot(RewritePass):
            """Its pattern is a method by mistake."""

            def pattern(x, y):  # type: ignore[override]
                return x + y

            @staticmethod
            def replacement(x, y):
                return y + x

        with pytest.raises(PassError, match="pattern is not static: write @staticmethod"):
            PassManager.of([Forgot()]).run(program(lambda x: x + x, rand(2)))

    def test_a_replacement_that_draws_random_numbers_is_an_error(self) -> None:
        with pytest.raises(PassError, match="the replacement draws random numbers"):
            run(program(lambda x: x.relu(), rand(2)), lambda x: x.relu(), lambda x: x + torch.rand_like(x))

    def test_a_replacement_that_writes_in_place_is_refused(self) -> None:
        before = program(lambda x: x.exp().relu(), rand(2))
        result = run(before, lambda x: x.relu(), lambda x: x.relu_())
        assert "aten.relu_.default writes in place" in reasons(result)[0]
        assert str(result.program) == str(before)
