"""Instruments: called in order around each pass; limits, dumps, checks, reproducers."""

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import fxopt
from fxopt.errors import PassError, PipelineError, VerificationError
from fxopt.pipeline import (
    CheckEach,
    CrashReproducer,
    DiffAfterChange,
    Failure,
    Instrument,
    Pass,
    PassManager,
    RewriteLimit,
    StructuralVerify,
    load_plugin,
)
from fxopt.program import Program
from fxopt.report import PassReport
from fxopt.rewriting import Journal, Rewriter
from tests.passes.helpers import calls, program, rand


class Log(Instrument):
    """Notes what it is told."""

    def __init__(self, events: list[str], name: str = "") -> None:
        self.events, self.name = events, name

    def begin(self, manager: PassManager, program: Program) -> None:
        self.events.append(f"{self.name}begin {manager}")

    def before_pass(self, item: Pass, program: Program) -> None:
        self.events.append(f"{self.name}before {item.pass_name()}")

    def after_pass(self, item: Pass, program: Program, report: PassReport, journal: Journal) -> None:
        self.events.append(f"{self.name}after {report.name} {report.changed} {len(journal.rewrites)}")

    def failed(self, failure: Failure) -> str | None:
        self.events.append(f"{self.name}failed {failure.item.pass_name()}")
        return f"{self.name}says so"

    def end(self, program: Program, passes: Sequence[PassReport]) -> None:
        self.events.append(f"{self.name}end {len(passes)}")


class Crash(Pass):
    """Fails."""

    after: int = 0

    def run(self, rewriter: Rewriter) -> None:
        raise KeyError("half way")


def test_hooks_are_called_in_order() -> None:
    events: list[str] = []
    before = program(lambda x: x.relu() + x.relu(), rand(2))
    PassManager.parse("eliminate-dead-code,eliminate-common-subexpressions").run(
        before, instruments=[Log(events, "1 "), Log(events, "2 ")]
    )
    each = [
        "begin eliminate-dead-code,eliminate-common-subexpressions",
        "before eliminate-dead-code",
        "after eliminate-dead-code False 0",
        "before eliminate-common-subexpressions",
        "after eliminate-common-subexpressions True 1",
        "end 2",
    ]
    assert events == [f"{i} {e}" for e in each for i in (1, 2)]


def test_a_failure_is_told_and_what_instruments_say_is_in_the_message() -> None:
    events: list[str] = []
    with pytest.raises(
        PassError, match=r"pass 'crash' failed: KeyError: 'half way' .*; 1 says so; 2 says so"
    ):
        PassManager.of([Crash()]).run(
            program(lambda x: x.relu(), rand(2)), instruments=[Log(events, "1 "), Log(events, "2 ")]
        )
    assert events[-2:] == ["1 failed crash", "2 failed crash"]


def test_a_rewrite_limit_keeps_the_first_ones_of_the_whole_run() -> None:
    before = program(lambda x: (torch.relu(x) + torch.relu(x)) + torch.relu(x), rand(2))
    text = "eliminate-common-subexpressions,eliminate-common-subexpressions"
    for limit, relus in ((0, 3), (1, 2), (2, 1), (9, 1)):
        instrument = RewriteLimit(limit)
        result = PassManager.parse(text).run(before, instruments=[instrument])
        assert calls(result.program).count("relu") == relus
        assert len(instrument.applied) == min(limit, 2) == sum(p.rewrites for p in result.passes)


def test_two_limits_are_both_asked() -> None:
    before = program(lambda x: (torch.relu(x) + torch.relu(x)) + torch.relu(x), rand(2))
    result = PassManager.parse("eliminate-common-subexpressions").run(
        before, instruments=[RewriteLimit(1), RewriteLimit(5)]
    )
    assert calls(result.program).count("relu") == 2


def test_the_diff_is_written_after_each_change_only() -> None:
    stream = io.StringIO()
    before = program(lambda x: x.relu() + x.relu(), rand(2))
    PassManager.parse("eliminate-dead-code,eliminate-common-subexpressions").run(
        before, instruments=[DiffAfterChange(stream)]
    )
    text = stream.getvalue()
    assert text.startswith("# after eliminate-common-subexpressions\n")
    assert "+  %add: f32[2] = add(%relu_1, %relu_1)" in text
    assert "eliminate-dead-code" not in text


def test_check_each_compares_what_changed() -> None:
    seen: list[tuple[int, int, str]] = []

    def check(before: Program, after: Program, item: Pass) -> None:
        seen.append((len(calls(before)), len(calls(after)), item.pass_name()))

    before = program(lambda x: x.relu() + x.relu(), rand(2))
    text = "eliminate-dead-code,eliminate-common-subexpressions"
    PassManager.parse(text).run(before, instruments=[CheckEach(check)])
    assert seen == [(3, 2, "eliminate-common-subexpressions")]


class Stale(Pass):
    """Leaves a value that is not what the op gives, by lying to the Rewriter about it."""

    def run(self, rewriter: Rewriter) -> None:
        (node,) = rewriter.nodes("aten.relu")
        with rewriter.rewrite("lie", node):
            made = rewriter.call("aten.sum.dim_IntList", node.args[0], [0], True)
            made.meta["val"] = node.meta["val"]
            rewriter.replace(node, made)


def test_structural_verify_infers_every_value_afresh() -> None:
    before = program(lambda x: x.relu(), rand(2, 3))
    PassManager.of([Stale()]).run(before)
    with pytest.raises(PassError, match=r"pass 'stale' left the program ill-formed: .*its value is stale"):
        PassManager.of([Stale()]).run(before, instruments=[StructuralVerify()])
    PassManager.of([Stale()]).run(before, instruments=[StructuralVerify(values=False)])


class NeedsData(Pass):
    """Fails over its data."""

    needs_calibration: ClassVar[bool] = True

    def run(self, rewriter: Rewriter) -> None:
        total = sum(float(batch[0].sum()) for batch in rewriter.calibration)  # type: ignore[attr-defined]
        raise ValueError(f"the sum is {total}")


class TestReproducer:
    PLUGIN = """
import fxopt

@fxopt.register_pass
class CrashAtRelu(fxopt.Pass):
    '''Fails where there is a relu.'''
    word: str = "a"
    def run(self, rewriter):
        for node in rewriter.nodes("aten.relu"):
            raise RuntimeError(f"no {node.name} for {self.word}")
"""

    def folder(self, tmp_path: Path, pipeline: str, **options: object) -> tuple[Path, PassError]:
        before = program(lambda x: x.relu().neg() + x.relu(), rand(2, 3), dynamic=True)
        reproducer = CrashReproducer(tmp_path / "crashes")
        with pytest.raises(PassError) as error:
            PassManager.parse(pipeline).run(before, instruments=[reproducer], **options)  # type: ignore[arg-type]
        assert reproducer.written is not None
        return reproducer.written, error.value

    def test_the_folder_repeats_the_failure(self, tmp_path: Path) -> None:
        plugin = tmp_path / "crash_plugin.py"
        plugin.write_text(self.PLUGIN, encoding="utf-8")
        load_plugin(str(plugin))
        text = 'eliminate-common-subexpressions,fixpoint(eliminate-dead-code,crash-at-relu{word="b c"}),fold-constants'
        folder, error = self.folder(tmp_path, text)
        assert f"; repeat it with: python {folder / 'reproduce.py'}" in str(error)
        assert "no relu for b c" in (folder / "error.txt").read_text(encoding="utf-8")
        # The round is finished, then the fixpoint is begun anew.
        assert (folder / "pipeline.txt").read_text(encoding="utf-8").strip() == (
            'crash-at-relu{word="b c"},fixpoint(eliminate-dead-code,crash-at-relu{word="b c"}),fold-constants'
        )
        stored = fxopt.load(folder / "program.fxopt")
        assert isinstance(stored, Program)
        assert calls(stored) == ["relu", "neg", "add"]  # as it was before the pass that failed
        again = subprocess.run(
            [sys.executable, str(folder / "reproduce.py")],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(fxopt.__file__).parents[1],
            env={"PYTHONPATH": str(Path(fxopt.__file__).parents[1]), "PATH": ""},
        )
        assert again.returncode != 0
        assert "pass 'crash-at-relu' failed: RuntimeError: no relu for b c" in again.stderr

    def test_the_same_failure_finds_its_folder(self, tmp_path: Path) -> None:
        plugin = tmp_path / "crash_plugin.py"
        plugin.write_text(self.PLUGIN, encoding="utf-8")
        load_plugin(str(plugin))
        first, _ = self.folder(tmp_path, "crash-at-relu")
        second, _ = self.folder(tmp_path, "crash-at-relu")
        other, _ = self.folder(tmp_path, "crash-at-relu{word=x}")
        assert first == second != other
        assert sorted(p.name for p in (tmp_path / "crashes").iterdir()) == sorted([first.name, other.name])

    def test_calibration_data_comes_along(self, tmp_path: Path) -> None:
        before = program(lambda x: x.relu(), rand(2, 3))
        data = ((torch.full((2, 3), float(i)), 5) for i in range(4))
        reproducer = CrashReproducer(tmp_path)
        with pytest.raises(PassError, match=r"the sum is 36\.0"):
            PassManager.of([NeedsData()]).run(before, calibration=data, instruments=[reproducer])
        assert reproducer.written is not None
        from safetensors.torch import load_file

        stored = load_file(reproducer.written / "calibration.safetensors")
        assert {k: float(t[0, 0]) for k, t in stored.items()} == {f"{i}.0": float(i) for i in range(4)}
        script = (reproducer.written / "reproduce.py").read_text(encoding="utf-8")
        assert "calibration=calibration" in script
        compile(script, "reproduce.py", "exec")

    def test_a_failed_check_is_repeated_with_the_check(self, tmp_path: Path) -> None:
        def check(before: Program, after: Program, item: Pass) -> None:
            raise VerificationError(f"pass {item.pass_name()!r} changed the function", {"kept": True})

        reproducer = CrashReproducer(tmp_path)
        before = program(lambda x: x.relu() + x.relu(), rand(2))
        with pytest.raises(VerificationError, match="changed the function; repeat it with") as error:
            PassManager.parse("eliminate-common-subexpressions").run(
                before, instruments=[reproducer, CheckEach(check)]
            )
        assert error.value.report == {"kept": True}
        assert reproducer.written is not None
        assert "check_each=True" in (reproducer.written / "reproduce.py").read_text(encoding="utf-8")

    def test_a_pass_that_no_import_reaches_is_said(self, tmp_path: Path) -> None:
        class Local(Pass):
            """Is made in a function."""

            def run(self, rewriter: Rewriter) -> None:
                raise KeyError('a "quoted" \\ word')

        reproducer = CrashReproducer(tmp_path)
        with pytest.raises(PassError):
            PassManager.of([Local()]).run(program(lambda x: x.relu(), rand(2)), instruments=[reproducer])
        assert reproducer.written is not None
        script = (reproducer.written / "reproduce.py").read_text(encoding="utf-8")
        assert "# local is tests.pipeline.test_instruments.TestReproducer" in script
        compile(script, "reproduce.py", "exec")

    def test_a_mistake_in_what_was_asked_for_writes_nothing(self, tmp_path: Path) -> None:
        class Asks(Pass):
            """Is told nonsense."""

            def run(self, rewriter: Rewriter) -> None:
                raise PipelineError("the ratio is above 1")

        with pytest.raises(PipelineError, match=r"pass 'asks': the ratio is above 1\Z"):
            PassManager.of([Asks()]).run(
                program(lambda x: x.relu(), rand(2)), instruments=[CrashReproducer(tmp_path / "crashes")]
            )
        assert not (tmp_path / "crashes").exists()

    def test_run_pipeline_writes_one_unasked_if_the_weights_are_small(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        small = program(lambda x, w: x.relu() + w, rand(2), w=rand(2))
        with pytest.raises(PassError, match=r"repeat it with: python .*/crash-.*/reproduce\.py"):
            fxopt.run_pipeline(small, [Crash()])
        (folder,) = tmp_path.glob("fxopt-crash-*/crash-*")
        assert (folder / "program.fxopt").exists()
        given = CrashReproducer(tmp_path / "own", most_bytes=4)
        with pytest.raises(PassError, match="no reproducer was written: the weights are more than 4B; "):
            fxopt.run_pipeline(small, [Crash()], instruments=[given])
        assert not (tmp_path / "own").exists()

    def test_where_nothing_can_be_written_the_failure_is_still_told(self, tmp_path: Path) -> None:
        blocked = tmp_path / "file"
        blocked.write_text(json.dumps({}))
        with pytest.raises(PassError, match=r"pass 'crash' failed: KeyError.*; no reproducer was written: "):
            PassManager.of([Crash()]).run(
                program(lambda x: x.relu(), rand(2)), instruments=[CrashReproducer(blocked)]
            )
        assert [p.name for p in tmp_path.iterdir()] == ["file"]
