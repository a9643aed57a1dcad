"""The manager: pipelines are checked when they are built, passes are held to what they say."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

import fxopt
from fxopt.errors import InputError, PassError, PipelineError
from fxopt.pipeline import Pass, PassManager, register_pipeline, registry
from fxopt.pipeline.named import NAMED
from fxopt.program import Program, origins_of
from fxopt.rewriting import Rewriter
from tests.passes.helpers import calls, program, rand


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone afterwards."""
    monkeypatch.setattr(registry, "_passes", registry.all())
    for name in list(NAMED):
        monkeypatch.setitem(NAMED, name, NAMED[name])


def bad(edit: Callable[[Rewriter], object], name: str = "Bad", **members: object) -> Pass:
    """A pass that does what no pass may."""
    made = type(name, (Pass,), {"run": lambda self, rewriter: edit(rewriter), **members})()
    assert isinstance(made, Pass)
    return made


def relu(rewriter: Rewriter) -> torch.fx.Node:
    return rewriter.nodes("aten.relu")[0]


def sample() -> Program:
    return program(lambda x, w: (x.abs().relu() @ w).neg(), rand(2, 3), dynamic=True, w=rand(3, 4))


class TestBuilding:
    def test_an_unknown_pass_is_named_with_the_nearest_and_a_caret(self) -> None:
        with pytest.raises(PipelineError) as error:
            PassManager.parse("O1,fixpoint(fold-constant)")
        lines = str(error.value).split("\n")
        assert "unknown pass 'fold-constant'; did you mean 'fold-constants'?" in lines[0]
        assert lines[1:] == ["  O1,fixpoint(fold-constant)", "              ^"]

    @pytest.mark.parametrize(
        ("text", "message", "column"),
        [
            ("O1,fold-constants{max_grwth=1}", "no option 'max_grwth'; did you mean 'max_growth'?", 18),
            ("fold-constants{max_growth=much}", "option 'max_growth' takes int, got 'much'", 15),
            ("O1,O0{x=1}", "O0: the named pipeline takes no options, got x", 3),
        ],
    )
    def test_a_bad_option_gets_a_caret(self, text: str, message: str, column: int) -> None:
        with pytest.raises(PipelineError) as error:
            PassManager.parse(text)
        first, echoed, caret = str(error.value).split("\n")
        assert message in first
        assert (echoed, caret) == (f"  {text}", " " * (column + 2) + "^")

    def test_a_mistake_in_a_named_pipeline_is_shown_in_its_own_text(self) -> None:
        register_pipeline("broken", lambda options: "eliminate-dead-code,no-such-pass")
        with pytest.raises(PipelineError) as error:
            PassManager.parse("O1,eliminate-dead-code,broken")
        assert str(error.value).split("\n")[1] == "  eliminate-dead-code,no-such-pass"
        del NAMED["broken"]

    def test_a_named_pipeline_that_contains_itself(self) -> None:
        register_pipeline("chicken", lambda options: "eliminate-dead-code,egg")
        register_pipeline("egg", lambda options: "fixpoint(chicken)")
        with pytest.raises(PipelineError, match="'chicken' contains itself: chicken > egg > chicken"):
            PassManager.parse("chicken")
        del NAMED["chicken"], NAMED["egg"]

    def test_named_pipelines_print_short_and_expand_in_full(self) -> None:
        manager = PassManager.parse("O0,clean,O1")
        assert str(manager) == "O0,clean,O1"
        assert "fuse-conv-bn" in manager.expand()
        assert PassManager.parse(manager.expand()).expand() == manager.expand()
        assert "fuse-conv-bn" not in PassManager.parse("clean").expand()
        assert str(PassManager.parse("")) == PassManager.parse("O0").expand() == ""

    def test_options_at_their_defaults_are_one_pipeline_with_none(self) -> None:
        written, plain = (PassManager.parse(f"fold-constants{o}") for o in ("{max_growth=1MB}", ""))
        assert str(written) == "fold-constants{max_growth=1MB}"
        assert written.expand() == plain.expand() == "fold-constants"
        assert written.hash() == plain.hash()
        assert PassManager.parse("fold-constants{max_growth=2MB}").hash() != plain.hash()

    def test_the_hash_is_stable_across_processes(self) -> None:
        code = "import fxopt; print(fxopt.PassManager.parse('clean').hash())"
        out = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(fxopt.__file__).parents[1],
        )
        assert out.stdout.strip() == PassManager.parse("clean").hash()
        assert PassManager.parse("clean").hash() != PassManager.parse("O1").hash()

    def test_passes_lists_those_of_a_fixpoint_once(self) -> None:
        manager = PassManager.parse(
            "fixpoint(eliminate-dead-code,fixpoint(fold-constants)),eliminate-dead-code"
        )
        names = [p.pass_name() for p in manager.passes()]
        assert names == ["eliminate-dead-code", "fold-constants", "eliminate-dead-code"]

    def test_of_takes_passes_and_says_what_it_got_instead(self) -> None:
        quantize = Quantize()
        assert PassManager.of([quantize]).passes() == [quantize]
        assert PassManager.parse(quantize).passes() == PassManager.parse([quantize]).passes() == [quantize]
        manager = PassManager.of([quantize])
        assert PassManager.parse(manager) is manager
        with pytest.raises(
            PipelineError, match=r"expected pipeline text or passes, got .*; write Quantize\(\)"
        ):
            PassManager.of([Quantize])  # type: ignore[list-item]
        with pytest.raises(PipelineError, match="expected pipeline text or passes, got 'O1'"):
            PassManager.of(["O1"])  # type: ignore[list-item]


class Quantize(Pass):
    """Establishes a property."""

    establishes: ClassVar = frozenset({"quantized"})
    breaks: ClassVar = frozenset({"trainable-norms"})

    def run(self, rewriter: Rewriter) -> None: ...


class NeedsQuantized(Pass):
    """Requires it."""

    requires: ClassVar = frozenset({"quantized"})

    def run(self, rewriter: Rewriter) -> None: ...


class NotQuantized(Pass):
    """Excludes it."""

    excludes: ClassVar = frozenset({"quantized"})

    def run(self, rewriter: Rewriter) -> None: ...


class NeedsNorms(Pass):
    """Requires what Quantize breaks."""

    requires: ClassVar = frozenset({"trainable-norms"})

    def run(self, rewriter: Rewriter) -> None: ...


class MakesNorms(Pass):
    """Establishes it again."""

    establishes: ClassVar = frozenset({"trainable-norms"})
    breaks: ClassVar = frozenset({"quantized"})

    def run(self, rewriter: Rewriter) -> None: ...


class NeedsData(Pass):
    """Needs calibration data."""

    needs_calibration: ClassVar = True

    def run(self, rewriter: Rewriter) -> None:
        rewriter.attach([len(batch) for batch in rewriter.calibration])  # type: ignore[attr-defined]


class TestProperties:
    def test_an_illegal_order_is_refused_when_the_pipeline_is_built(self) -> None:
        with pytest.raises(
            PipelineError, match="requires 'trainable-norms', which 'quantize' before it breaks"
        ):
            PassManager.of([Quantize(), NeedsNorms()])
        with pytest.raises(
            PipelineError, match="can't run on a program that is 'quantized', as 'quantize' makes it"
        ):
            PassManager.of([Quantize(), NotQuantized()])

    def test_what_is_broken_may_be_established_again(self) -> None:
        PassManager.of([Quantize(), MakesNorms(), NeedsNorms(), NotQuantized()])

    def test_a_fixpoint_comes_round_again(self) -> None:
        for cls in (Quantize, NotQuantized):
            registry.add(cls)
        PassManager.parse("not-quantized,quantize")
        with pytest.raises(PipelineError, match="can't run on a program that is 'quantized'"):
            PassManager.parse("fixpoint(not-quantized,quantize)")

    def test_what_the_pipeline_does_not_decide_is_checked_when_it_runs(self) -> None:
        before = sample()
        with pytest.raises(
            PipelineError, match="pass 'needs-quantized' requires a program that is 'quantized'"
        ):
            PassManager.of([NeedsQuantized()]).run(before)
        quantized = PassManager.of([Quantize()]).run(before).program
        assert PassManager.of([NeedsQuantized()]).run(quantized).program.properties == {"quantized"}
        with pytest.raises(PipelineError, match="'not-quantized' can't run on a program that is 'quantized'"):
            PassManager.of([NotQuantized()]).run(quantized)
        assert PassManager.of([MakesNorms()]).run(quantized).program.properties == {"trainable-norms"}
        assert before.properties == frozenset()

    def test_calibration_data_is_asked_for_before_anything_runs(self) -> None:
        with pytest.raises(PipelineError, match="'needs-data' needs calibration data: pass calibration="):
            PassManager.of([bad(lambda r: 1 / 0), NeedsData()]).run(sample())

    def test_data_that_can_be_read_once_serves_every_pass(self) -> None:
        def batches() -> Iterator[torch.Tensor]:
            yield from (rand(2, 3), rand(5, 3))

        result = PassManager.of([NeedsData(), NeedsData()]).run(sample(), calibration=batches())
        assert result.attachments == ([2, 5], [2, 5])


def swap_argument(r: Rewriter) -> None:
    relu(r).args = (relu(r).args[0].args[0],)


def replace_uses(r: Rewriter) -> None:
    relu(r).replace_all_uses_with(relu(r).args[0])


def erase(r: Rewriter) -> None:
    node = relu(r)
    node.replace_all_uses_with(node.args[0])
    r.program.graph.erase_node(node)


def lie_about_a_value(r: Rewriter) -> None:
    relu(r).meta["val"] = relu(r).meta["val"].double()


def forget_origins(r: Rewriter) -> None:
    relu(r).meta["origins"] = ()


def write_a_weight(r: Rewriter) -> None:
    r.program.weights["w"].zero_()


def after_a_rewrite_of_the_same_node(r: Rewriter) -> None:
    node = relu(r)
    with r.rewrite("legal", node.args[0]):
        r.replace(node.args[0], r.call("aten.exp", node.args[0].args[0]))
    node.args = (node.args[0].args[0],)


class TestClaims:
    @pytest.mark.parametrize(
        "edit",
        [swap_argument, replace_uses, erase, lie_about_a_value, forget_origins, write_a_weight, after_a_rewrite_of_the_same_node],
        ids=lambda f: f.__name__,
    )  # fmt: skip
    def test_edits_around_the_rewriter_are_caught(self, edit: Callable[[Rewriter], None]) -> None:
        before = sample()
        with pytest.raises(PassError, match=r"pass 'bad' .* around the Rewriter"):
            PassManager.of([bad(edit)]).run(before)

    def test_changed_is_what_the_journal_says(self) -> None:
        def nothing(r: Rewriter) -> None:
            node = relu(r)
            with r.rewrite("looks", node):
                r.call("aten.exp", node.args[0])  # made and thought better of
            with r.rewrite("same", node):
                r.replace(node, node)

        before = sample()
        result = PassManager.of([bad(nothing)]).run(before)
        (report,) = result.passes
        assert (report.changed, report.rewrites, report.rules) == (False, 0, {})
        assert str(result.program) == str(before)

    def test_an_ill_formed_program_names_its_pass(self) -> None:
        def lie(r: Rewriter) -> None:
            node = relu(r)
            with r.rewrite("lie", node):
                made = r.call("aten.abs", node.args[0])
                del made.meta["val"]
                made.meta["val"] = node.meta["val"]
                made.kwargs = {"no_such_argument": 1}
                r.replace(node, made)

        with pytest.raises(PassError, match=r"pass 'bad'.* left the program ill-formed: "):
            PassManager.of([bad(lie)]).run(sample())

    def test_a_given_program_that_is_ill_formed_is_no_passs_fault(self) -> None:
        before = sample()
        del next(iter(before.calls())).meta["val"]
        with pytest.raises(PassError, match=r"^the program is ill-formed: abs"):
            PassManager.parse("eliminate-dead-code").run(before)

    def test_a_crash_names_the_pass_and_the_line(self) -> None:
        def crash(r: Rewriter) -> None:
            raise KeyError("x")

        with pytest.raises(
            PassError, match=r"^pass 'bad' failed: KeyError: 'x' \(at test_manager\.py:\d+\)$"
        ):
            PassManager.of([bad(crash)]).run(sample())

    def test_a_pass_error_gets_the_passs_name_and_other_errors_keep_their_class(self) -> None:
        def outside(r: Rewriter) -> None:
            r.call("aten.relu", relu(r))

        with pytest.raises(PassError, match=r"^pass 'bad': call\(\) outside of a rewrite"):
            PassManager.of([bad(outside)]).run(sample())

        def wrong_input(r: Rewriter) -> None:
            raise InputError("three inputs are too many")

        with pytest.raises(InputError, match=r"^pass 'bad': three inputs are too many$"):
            PassManager.of([bad(wrong_input)]).run(sample())

    def test_a_decision_by_the_examples_size_is_an_error(self) -> None:
        """What holds for the example's batch of 2 need not hold for another."""

        def decide(r: Rewriter) -> None:
            if relu(r).meta["val"].shape[0] == 2:
                r.refuse(relu(r), "two rows")

        with pytest.raises(
            PassError, match=r"pass 'bad' failed: it branches on a size that varies \(Eq\(.*2\)"
        ):
            PassManager.of([bad(decide)]).run(sample())
        fixed = program(lambda x: x.relu(), rand(2, 3))
        assert PassManager.of([bad(decide)]).run(fixed).passes[0].refusals

    def test_an_interrupt_goes_through(self) -> None:
        def interrupt(r: Rewriter) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            PassManager.of([bad(interrupt)]).run(sample())


class TestRuns:
    def test_the_callers_program_is_left_alone_and_the_report_is_complete(self) -> None:
        before = program(lambda x: torch.relu(x) + torch.relu(x), rand(2, 3), dynamic=True)
        text, weights = str(before), dict(before.weights)
        result = PassManager.parse("eliminate-common-subexpressions,eliminate-dead-code").run(before)
        assert (str(before), before.weights) == (text, weights)
        assert [p.name for p in result.passes] == ["eliminate-common-subexpressions", "eliminate-dead-code"]
        first = result.passes[0]
        assert (first.changed, first.rewrites, first.nodes_before - first.nodes) == (True, 1, 1)
        assert first.rules == {"eliminate-common-subexpressions": 1}
        assert 0 <= first.seconds < 60
        assert [len(j.rewrites) for j in result.journals] == [1, 0]

    def test_the_empty_pipeline_copies(self) -> None:
        before = sample()
        result = PassManager.parse("").run(before)
        assert result.program is not before
        assert str(result.program) == str(before)
        assert (result.passes, result.program.history) == ((), before.history)

    def test_history_says_what_was_run(self) -> None:
        before = sample()
        once = PassManager.parse("fold-constants{max_growth=5}").run(before).program
        twice = PassManager.parse("fixpoint(fold-constants)").run(once).program
        assert twice.history == ("fold-constants{max_growth=5}", "fixpoint(fold-constants)")

    def test_weights_that_nothing_changed_are_shared(self) -> None:
        before = program(lambda x, w: F.linear(x.abs().relu(), w).neg(), rand(2, 3), w=rand(4, 3))
        after = PassManager.parse("O1").run(before).program
        assert set(map(id, after.weights.values())) & set(map(id, before.weights.values()))

    def test_a_fixpoint_runs_until_nothing_changes(self) -> None:
        text = "fixpoint(eliminate-common-subexpressions,fold-constants,eliminate-dead-code)"
        before = program(lambda x, w: x @ (w.t() * 2) + x @ (w.t() * 2), rand(2, 3), w=rand(4, 3))
        result = PassManager.parse(text).run(before)
        assert calls(result.program) == ["matmul", "add"]
        assert not any(p.changed for p in result.passes[-3:])
        assert any(p.changed for p in result.passes[-6:-3])

    def test_a_fixpoint_in_a_fixpoint(self) -> None:
        text = "fixpoint(fixpoint(eliminate-common-subexpressions),fold-constants)"
        before = program(lambda x, w: x @ (w * 2) + x @ (w * 2), rand(2, 3), w=rand(3, 3))
        result = PassManager.parse(text).run(before)
        assert calls(result.program) == ["matmul", "add"]
        # Each fixpoint ends with a round that changed nothing: two inner ones, an outer one around the second.
        assert [p.name for p in result.passes].count("eliminate-common-subexpressions") >= 3

    def test_a_fixpoint_without_end_names_its_passes(self) -> None:
        class Toggle(Pass):
            """relu to abs and back."""

            def run(self, rewriter: Rewriter) -> None:
                for node in rewriter.nodes():
                    other = "aten.abs" if "relu" in str(node.target) else "aten.relu"
                    with rewriter.rewrite("toggle", node):
                        rewriter.replace(node, rewriter.call(other, node.args[0]))

        registry.add(Toggle)
        with pytest.raises(PassError, match="32 rounds; the passes toggle undo one another"):
            PassManager.parse("fixpoint(eliminate-dead-code,toggle)").run(
                program(lambda x: x.relu(), rand(2))
            )

    def test_an_analysis_is_kept_from_pass_to_pass_until_something_changes(self) -> None:
        runs: list[int] = []

        @dataclass
        class Count:
            calls: int

            @classmethod
            def compute(cls, p: Program) -> "Count":
                runs.append(1)
                return cls(len(list(p.calls())))

        def ask(r: Rewriter) -> None:
            r.attach(r.analysis(Count).calls)

        def drop(r: Rewriter) -> None:
            node = relu(r)
            with r.rewrite("drop", node):
                r.replace(node, node.args[0])

        asks = [bad(ask, f"Ask{i}") for i in range(4)]
        result = PassManager.of([asks[0], asks[1], bad(drop), asks[2], asks[3]]).run(sample())
        assert result.attachments == (4, 4, 3, 3)
        assert len(runs) == 2

    def test_every_node_has_an_origin_after_o1(self) -> None:
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4, 2)
        ).eval()  # fmt: skip
        before = fxopt.trace(model, (rand(2, 3, 3, 3),), dynamic_shapes={"input": {0: "batch"}})
        after = PassManager.parse("O1").run(before).program
        assert all(origins_of(n) for n in after.calls())


def test_options_of_a_pass_are_set_wherever_it_stands() -> None:
    manager = PassManager.parse("clean,int8{observer=minmax}")
    changed = manager.with_options("insert-fake-quant", {"layers": ["a=float"], "observer": "mse"})
    assert str(changed) == 'clean,int8{observer=mse,layers=["a=float"]}'
    assert str(manager) == "clean,int8{observer=minmax}"
    text = "fixpoint(prune{ratio=0.5}),fold-constants"
    assert str(PassManager.parse(text).with_options("prune", {"ratio": 0.25})) == text.replace("5", "25")
    assert str(PassManager.parse("O1").with_options("prune", {"ratio": 0.25})) == "O1"
    with pytest.raises(PipelineError, match="nothing"):
        manager.with_options("insert-fake-quant", {"nothing": 1})
