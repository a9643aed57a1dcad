"""check_pass raises no alarm for right passes; that it finds wrong ones: tests/diagnosis/test_seeded_faults.py."""

import re

import pytest
import torch
from torch.fx import Node

from fxopt.errors import LoweringError, VerificationError
from fxopt.lowering import lower
from fxopt.passes.eliminate.eliminate_dead_code import EliminateDeadCode
from fxopt.passes.quantize.insert_fake_quant import InsertFakeQuant
from fxopt.pipeline import Contract, Pass, registry
from fxopt.program import Program
from fxopt.rewriting import Rewriter
from fxopt.testing import CheckFailure, ProgramBuilder, check_once, check_pass, reproducer
from fxopt.testing.check import _check_target
from tests.testing.wrong_passes import PAIRS

EXAMPLES = 60


@pytest.mark.parametrize(
    "right", sorted(set(PAIRS.values()), key=lambda c: c.__name__), ids=lambda cls: cls.__name__
)
def test_its_right_twin_raises_no_alarm(right: type[Pass]) -> None:
    counts = check_pass(right(), examples=20, targets=())
    assert counts["fired"] > 0


def test_the_script_repeats_the_failure() -> None:
    wrong = next(iter(PAIRS))
    with pytest.raises(CheckFailure) as failure:
        check_pass(wrong(), examples=EXAMPLES, targets=(), shrink=False)
    script = str(failure.value).split("repeat it with:\n\n", 1)[1]
    with pytest.raises(CheckFailure, match=re.escape(str(failure.value).split(":", 1)[0])):
        exec(compile(script, "script", "exec"), {})


def test_the_script_checks_as_the_pass_was_checked() -> None:
    item = registry.get("eliminate-dead-code")()
    b = ProgramBuilder()
    program = b.finish(b.call("aten.relu", b.input((b.batch, 3))))
    assert reproducer(item, program).endswith("check_once(EliminateDeadCode(), program)")
    script = reproducer(item, program, idempotent=False, targets=("eager", "onnx"))
    assert script.endswith("program, idempotent=False, targets=('eager', 'onnx'))")


def test_a_pass_that_never_fires_fails() -> None:
    class Idle(Pass):
        """Does nothing."""

        def run(self, rewriter: object) -> None:
            return None

    with pytest.raises(CheckFailure, match="changed 0 of"):
        check_pass(Idle(), examples=10)


def test_the_float64_program_is_judged_by_the_bound_of_the_algebra() -> None:
    """A right fold whose float64 results were 5.07 of their own roundings apart: no truth lies above float64."""
    b = ProgramBuilder()
    b.input((b.batch, 4))
    b.call("aten.conv1d", b.input((b.batch, 3, 3)), b.weight((3, 3, 3)), None, [1], [1], [1], 1)
    x = b.input((b.batch, 6, 6, 6, 6))
    conv = b.call("aten.conv3d", x, b.weight((6, 6, 6, 6, 6)), b.weight((6,)), [1] * 3, [1] * 3, [1] * 3, 1)
    shift, variance = b.weight((6,)), b.weight((6,), kind="positive")
    norm = b.call("aten.batch_norm", conv, None, None, shift, variance, False, 0.5, 0.5, True)
    assert check_once(registry.get("fuse-conv-bn")(), b.finish(norm)) == 1


def test_files_are_held_to_what_is_finite() -> None:
    """onnxruntime's PRelu makes 0 of 0 times NaN."""
    b = ProgramBuilder()
    program = b.finish(b.call("aten.prelu", b.input((b.batch, 4)), b.weight((4,), kind="nan")))
    with pytest.raises(VerificationError, match="NaN or infinite"):
        lower(program, "onnx")
    assert check_once(EliminateDeadCode(), program, targets=("onnx",)) == 0


def _transposed(dtype: torch.dtype) -> Program:
    b = ProgramBuilder()
    x = b.input((b.batch, 2, 4), dtype=dtype)
    made = b.call("aten.conv_transpose1d", x, b.weight((2, 3, 2), dtype=dtype))
    return b.finish(b.call("aten.relu", made))


def test_what_a_target_did_not_take_before_either_is_no_mistake_of_the_pass() -> None:
    program = _transposed(torch.float64)
    with pytest.raises(LoweringError, match="can't be lowered to onnx"):
        lower(program, "onnx")
    assert check_once(EliminateDeadCode(), program, targets=("onnx",)) == 0


def test_a_result_that_a_target_does_not_take_any_more_fails() -> None:
    before, after = _transposed(torch.float32), _transposed(torch.float64)
    _check_target(before, before, "onnx")
    _check_target(before, after, "eager")
    with pytest.raises(CheckFailure, match=r"the result fails on onnx: .* can't be lowered to onnx"):
        _check_target(before, after, "onnx")


def test_a_pass_that_calibrates_gets_data() -> None:
    counts = check_pass(InsertFakeQuant(), examples=5, targets=())
    assert counts["fired"] > 0


def test_a_pass_that_requires_a_property_gets_programs_that_have_it() -> None:
    class CountRoundings(Pass):
        """Sees what insert-fake-quant leaves."""

        contract = Contract.APPROXIMATE
        requires = frozenset({"quantized"})

        def run(self, rewriter) -> None:
            seen.append(len(rewriter.nodes("fxopt.fake_quantize")))

    seen: list[int] = []
    check_pass(CountRoundings(), examples=5, targets=(), min_fired=0)
    assert any(seen)


def test_a_property_that_no_pass_establishes_is_told() -> None:
    class NeedsWings(Pass):
        """Flies."""

        requires = frozenset({"wings"})

    with pytest.raises(CheckFailure, match="no registered pass establishes what needs-wings requires"):
        check_pass(NeedsWings(), examples=5)


def test_a_rule_that_fires_in_float32_alone_fails() -> None:
    class Narrow(Pass):
        """Leaves out what does nothing, in one dtype."""

        contract = Contract.EQUIVALENT

        def run(self, rewriter: Rewriter) -> None:
            for node in rewriter.nodes(torch.ops.aten.mul.Tensor):
                x = node.args[0]
                assert isinstance(x, Node)
                if node.meta["val"].dtype is torch.float32:
                    with rewriter.rewrite("narrow", node):
                        rewriter.replace(node, x)

    b = ProgramBuilder()
    program = b.finish(b.call("aten.relu", b.call("aten.mul.Tensor", b.input((b.batch, 4)), 1.0)))
    with pytest.raises(CheckFailure, match="not the same rules"):
        check_once(Narrow(), program)
