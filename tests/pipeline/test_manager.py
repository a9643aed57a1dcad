"""The manager: pipelines are checked when they are built, passes are held to what they say."""

import enum
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch

import fxopt
from fxopt.errors import PassError, PipelineError
from fxopt.pipeline import Instrument, Pass, PassManager, RewriteLimit, load_plugin, registry
from fxopt.pipeline.options import make_pass, option_help
from fxopt.pipeline.registry import PassRegistry
from fxopt.pipeline.text import Named
from fxopt.rewriting import Rewriter
from tests.passes.helpers import calls, program, rand


class Mode(enum.Enum):
    FAST = "fast"
    SAFE = "safe"


class Options(Pass):
    """Has an option of each kind."""

    ratio: float = 0.5
    """How much."""
    mode: Mode = Mode.FAST
    norm: Literal["l1", "l2"] = "l2"
    sizes: list[int] | None = None
    flag: bool = False

    def run(self, rewriter: Rewriter) -> None:
        pass


class Needed(Pass):
    """Has an option without a default."""

    count: int

    def run(self, rewriter: Rewriter) -> None:
        pass


def made(cls: type[Pass], **options: object) -> Pass:
    return make_pass(cls, Named(cls.pass_name(), tuple(options.items())))  # type: ignore[arg-type]


def test_options_are_converted_to_their_fields_types() -> None:
    item = made(Options, ratio=1, mode="safe", norm="l1", sizes=[1, 2], flag=True)
    assert item == Options(ratio=1.0, mode=Mode.SAFE, norm="l1", sizes=[1, 2], flag=True)
    assert isinstance(item.ratio, float)
    assert made(Options, sizes=None) == Options()


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (Options, {"ration": 1}, "no option 'ration'; did you mean 'ratio'"),
        (Options, {"ratio": "big"}, "option 'ratio' takes float, got 'big'"),
        (Options, {"norm": "l3"}, "option 'norm' takes 'l1' or 'l2', got 'l3'"),
        (Options, {"mode": "slow"}, "option 'mode' takes 'fast' or 'safe'"),
        (Options, {"flag": 1}, "option 'flag' takes bool"),
        (Options, {"sizes": [1, "a"]}, "option 'sizes' takes"),
        (Needed, {}, "needs the option 'count'"),
    ],
)
def test_a_bad_option_is_one_clear_error(cls: type[Pass], options: dict[str, object], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        made(cls, **options)


def test_option_help_is_the_string_under_the_field() -> None:
    assert option_help(Options)[0] == ("ratio", "float", "0.5", "How much.")


def test_an_unknown_pass_is_named_with_the_nearest_and_a_caret() -> None:
    with pytest.raises(PipelineError) as error:
        PassManager.parse("O1,fold-constant")
    lines = str(error.value).split("\n")
    assert "unknown pass 'fold-constant'; did you mean 'fold-constants'?" in lines[0]
    assert lines[2].index("^") == len("  O1,")


def test_named_pipelines_print_short_and_expand_in_full() -> None:
    manager = PassManager.parse("O0,clean,O1")
    assert str(manager) == "O0,clean,O1"
    assert "fuse-conv-bn" in manager.expand()
    assert PassManager.parse(manager.expand()).expand() == manager.expand()
    assert "fuse-conv-bn" not in PassManager.parse("clean").expand()
    with pytest.raises(PipelineError, match="takes no options"):
        PassManager.parse("O1{x=1}")


def test_the_hash_is_stable_across_processes() -> None:
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


def test_a_name_has_one_owner() -> None:
    own = PassRegistry()
    own._loaded = True
    own.add(Options)
    own.add(Options)
    other = type("Options", (Pass,), {"__module__": "elsewhere"})
    with pytest.raises(
        PipelineError, match=r"'options' of elsewhere\.Options is taken by .*test_manager\.Options"
    ):
        own.add(other)


def test_plugins(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import fxopt\n"
        "@fxopt.register_pass\n"
        "class FromPlugin(fxopt.Pass):\n"
        '    """Mine."""\n'
        "    def run(self, rewriter): pass\n"
    )
    load_plugin(str(file))
    assert registry.get("from-plugin").summary() == "Mine."
    with pytest.raises(PipelineError, match="does not exist"):
        load_plugin(str(tmp_path / "none.py"))
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(PipelineError, match="ZeroDivisionError"):
        load_plugin(str(tmp_path / "broken.py"))


class Quantize(Pass):
    """Establishes a property."""

    establishes: ClassVar = frozenset({"quantized"})
    breaks: ClassVar = frozenset({"trainable-norms"})

    def run(self, rewriter: Rewriter) -> None:
        pass


class NeedsQuantized(Pass):
    """Requires it."""

    requires: ClassVar = frozenset({"quantized"})

    def run(self, rewriter: Rewriter) -> None:
        pass


class NotQuantized(Pass):
    """Excludes it."""

    excludes: ClassVar = frozenset({"quantized"})

    def run(self, rewriter: Rewriter) -> None:
        pass


class NeedsNorms(Pass):
    """Requires what Quantize breaks."""

    requires: ClassVar = frozenset({"trainable-norms"})

    def run(self, rewriter: Rewriter) -> None:
        pass


class NeedsData(Pass):
    """Needs calibration data."""

    needs_calibration: ClassVar = True

    def run(self, rewriter: Rewriter) -> None:
        assert rewriter.calibration


def test_an_illegal_order_is_refused_when_the_pipeline_is_built() -> None:
    with pytest.raises(PipelineError, match="requires 'trainable-norms', which 'quantize' before it breaks"):
        PassManager.of([Quantize(), NeedsNorms()])
    with pytest.raises(
        PipelineError, match="can't run on a program that is 'quantized', as 'quantize' makes it"
    ):
        PassManager.of([Quantize(), NotQuantized()])


def test_properties_travel_with_the_program() -> None:
    before = program(lambda x: x.relu(), rand(2))
    with pytest.raises(PipelineError, match="requires a program that is 'quantized'"):
        PassManager.of([NeedsQuantized()]).run(before)
    quantized = PassManager.of([Quantize()]).run(before).program
    assert PassManager.of([NeedsQuantized()]).run(quantized).program.properties == {"quantized"}
    assert before.properties == frozenset()


def test_calibration_data_is_asked_for_before_anything_runs() -> None:
    before = program(lambda x: x.relu(), rand(2))
    with pytest.raises(PipelineError, match="'needs-data' needs calibration data"):
        PassManager.of([NeedsData()]).run(before)
    PassManager.of([NeedsData()]).run(before, calibration=[rand(2)])


def bad(edit) -> Pass:
    class Bad(Pass):
        """Does what no pass may."""

        def run(self, rewriter: Rewriter) -> None:
            edit(rewriter)

    return Bad()


def relu(rewriter: Rewriter) -> torch.fx.Node:
    return rewriter.nodes("aten.relu")[0]


def test_edits_around_the_rewriter_are_caught() -> None:
    before = program(lambda x: x.abs().relu().neg(), rand(2, 3))

    def swap_argument(r: Rewriter) -> None:
        relu(r).args = (relu(r).args[0].args[0],)

    def replace_uses(r: Rewriter) -> None:
        relu(r).replace_all_uses_with(relu(r).args[0])

    def erase(r: Rewriter) -> None:
        node = relu(r)
        node.replace_all_uses_with(node.args[0])
        r.program.graph.erase_node(node)

    for edit in (swap_argument, replace_uses, erase):
        with pytest.raises(PassError, match="around the Rewriter"):
            PassManager.of([bad(edit)]).run(before)


def test_a_crash_names_the_pass() -> None:
    def crash(r: Rewriter) -> None:
        raise KeyError("x")

    with pytest.raises(PassError, match="pass 'bad' failed: KeyError"):
        PassManager.of([bad(crash)]).run(program(lambda x: x.relu(), rand(2)))


def test_the_callers_program_is_left_alone_and_the_report_is_complete() -> None:
    before = program(lambda x: torch.relu(x) + torch.relu(x), rand(2, 3), dynamic=True)
    text = str(before)
    result = PassManager.parse("eliminate-common-subexpressions,eliminate-dead-code").run(before)
    assert str(before) == text
    assert [p.name for p in result.passes] == ["eliminate-common-subexpressions", "eliminate-dead-code"]
    first = result.passes[0]
    assert (first.changed, first.rewrites, first.nodes_before - first.nodes) == (True, 1, 1)
    assert first.rules == {"eliminate-common-subexpressions": 1}
    assert first.seconds >= 0


def test_a_fixpoint_runs_until_nothing_changes() -> None:
    text = "fixpoint(eliminate-common-subexpressions,fold-constants,eliminate-dead-code)"
    before = program(lambda x, w: x @ (w.t() * 2) + x @ (w.t() * 2), rand(2, 3), w=rand(4, 3))
    result = PassManager.parse(text).run(before)
    assert calls(result.program) == ["matmul", "add"]
    assert not any(p.changed for p in result.passes[-3:])


def test_a_fixpoint_without_end_names_its_passes() -> None:
    class Toggle(Pass):
        """relu to abs and back."""

        def run(self, rewriter: Rewriter) -> None:
            for node in rewriter.nodes():
                other = "aten.abs" if "relu" in str(node.target) else "aten.relu"
                with rewriter.rewrite("toggle", node):
                    rewriter.replace(node, rewriter.call(other, node.args[0]))

    registry.add(Toggle)
    with pytest.raises(PassError, match="the passes toggle undo one another"):
        PassManager.parse("fixpoint(toggle)").run(program(lambda x: x.relu(), rand(2)))


def test_instruments_are_called_around_each_pass() -> None:
    events: list[str] = []

    class Log(Instrument):
        def begin(self, manager, program) -> None:
            events.append("begin")

        def before_pass(self, item, program) -> None:
            events.append(f"before {item.pass_name()}")

        def after_pass(self, item, program, report, journal) -> None:
            events.append(f"after {report.name} {report.changed}")

        def end(self, program, passes) -> None:
            events.append("end")

    PassManager.parse("eliminate-dead-code").run(program(lambda x: x.relu(), rand(2)), instruments=[Log()])
    assert events == ["begin", "before eliminate-dead-code", "after eliminate-dead-code False", "end"]


def test_a_rewrite_limit_keeps_the_first_ones() -> None:
    before = program(lambda x: torch.relu(x) + torch.relu(x) + torch.relu(x), rand(2))
    limit = RewriteLimit(1)
    result = PassManager.parse("eliminate-common-subexpressions").run(before, instruments=[limit])
    assert calls(result.program).count("relu") == 2
    assert len(limit.applied) == 1
    assert limit.asked == 2
