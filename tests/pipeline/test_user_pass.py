"""A user's passes, written outside of the package: registered, made on the spot, tested with the kit."""

import pytest
import torch

import fxopt
from fxopt.errors import PassError
from fxopt.pipeline import PassManager, registry
from tests.passes.helpers import calls, program, rand, reasons
from tests.pipeline.user_pass import JoinMatmulBias, MyPass


def test_the_rule_fires_by_name_and_as_an_object() -> None:
    before = program(lambda x, w, b: x @ w + b, rand(2, 4), dynamic=True, w=rand(4, 6), b=rand(6))
    if registry.get("join-matmul-bias") is not JoinMatmulBias:
        registry.add(JoinMatmulBias)
    for manager in (PassManager.parse("join-matmul-bias"), PassManager.of([JoinMatmulBias()])):
        result = manager.run(before)
        assert calls(result.program) == ["linear"]
        (report,) = result.passes
        assert (report.name, report.changed, report.rewrites) == ("join-matmul-bias", True, 1)
        assert (report.nodes_before, report.nodes) == (6, 5)
        for batch in (1, 5):
            torch.testing.assert_close(result.program(rand(batch, 4)), before(rand(batch, 4)))
    assert fxopt.run_pipeline(before, "join-matmul-bias", check_each=True) is not before


def test_the_guards_reason_is_reported() -> None:
    before = program(lambda x, w, b: x @ w + b, rand(3, 2, 4), w=rand(3, 4, 6), b=rand(6))
    result = PassManager.of([JoinMatmulBias()]).run(before)
    assert reasons(result) == ["w is not a matrix"]
    assert result.passes[0].refusals[0].where.startswith("test_user_pass.py:")
    assert not result.passes[0].changed


def test_a_pass_of_plain_code() -> None:
    before = program(lambda x: x.relu().relu().neg().relu(), rand(2))
    result = PassManager.of([MyPass()]).run(before)
    assert calls(result.program) == ["relu", "neg", "relu"]
    assert set(reasons(result)) == {"its operand is no relu"}
    assert not PassManager.of([MyPass(least=3)]).run(before).passes[0].changed


@pytest.mark.parametrize("item", [JoinMatmulBias(), MyPass()], ids=["rule", "code"])
def test_the_kit_holds_them_to_their_contract(item: fxopt.Pass) -> None:
    from fxopt.testing import check_pass

    motifs = None if isinstance(item, JoinMatmulBias) else [lambda x: torch.relu(torch.relu(x))]
    counts = check_pass(item, examples=20, motifs=motifs, targets=())
    assert counts["fired"] >= 1


def test_registered_again_it_replaces_itself_only() -> None:
    registry.add(JoinMatmulBias)

    class Other(fxopt.Pass):
        """Wants its name."""

        @classmethod
        def pass_name(cls) -> str:
            return "join-matmul-bias"

    with pytest.raises(fxopt.PipelineError, match="is taken by"):
        fxopt.register_pass(Other)


class TestBase:
    def test_a_pass_is_a_frozen_dataclass(self) -> None:
        assert MyPass(least=2) == MyPass(least=2)
        assert repr(MyPass(least=2)) == "MyPass(least=2)"
        with pytest.raises(AttributeError):
            MyPass().least = 3  # type: ignore[misc]
        with pytest.raises(TypeError):
            MyPass(2)  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("cls", "name"),
        [
            ("FuseConvBn", "fuse-conv-bn"),
            ("O1Only", "o1-only"),
            ("HTTPThing", "http-thing"),
            ("A", "a"),
            ("Conv1x1Next", "conv-1x1-next"),
        ],
    )
    def test_the_name_is_the_class_in_kebab_case(self, cls: str, name: str) -> None:
        assert type(cls, (fxopt.Pass,), {}).pass_name() == name

    def test_the_summary_is_the_docstrings_first_line(self) -> None:
        assert JoinMatmulBias.summary() == "matmul(x, w) + b  ->  linear(x, w', b)."
        assert type("Bare", (fxopt.Pass,), {}).summary() == ""

    def test_declared_properties_are_sets_of_words(self) -> None:
        made = type("Declares", (fxopt.Pass,), {"requires": ["quantized"], "breaks": ("a", "b")})
        assert made.requires == frozenset({"quantized"})
        assert made.breaks == frozenset({"a", "b"})
        with pytest.raises(PassError, match=r"Wrong\.requires is 'quantized'; expected a set of words"):
            type("Wrong", (fxopt.Pass,), {"requires": "quantized"})
        with pytest.raises(PassError, match=r"Wrong\.contract is 'exact'"):
            type("Wrong", (fxopt.Pass,), {"contract": "exact"})

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ({}, "defines neither pattern and replacement nor rules"),
            ({"pattern": staticmethod(lambda x: x)}, "defines no replacement"),
            ({"replacement": staticmethod(lambda x: x)}, "defines no pattern"),
            ({"rules": (lambda x: x,)}, r"holds .*; expected fxopt\.Rule objects"),
        ],
    )
    def test_a_rewrite_pass_without_rules(self, members: dict[str, object], message: str) -> None:
        made = type("Empty", (fxopt.RewritePass,), members)
        with pytest.raises(PassError, match=message):
            PassManager.of([made()]).run(program(lambda x: x.relu(), rand(2)))

    def test_a_pattern_may_use_the_passs_options(self) -> None:
        class Scaled(fxopt.RewritePass):
            """x * factor  ->  x."""

            factor: float = 2.0

            def pattern(self, x):  # type: ignore[override]
                return x * self.factor

            def replacement(self, x):  # type: ignore[override]
                return x + 0.0

        before = program(lambda x: (x * 2.0) + (x * 3.0), rand(2))
        assert calls(PassManager.of([Scaled()]).run(before).program) == ["add", "mul", "add"]
        assert calls(PassManager.of([Scaled(factor=3.0)]).run(before).program) == ["mul", "add", "add"]
