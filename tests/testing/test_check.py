"""check_pass raises no alarm for right passes; that it finds wrong ones: tests/diagnosis/test_seeded_faults.py."""

import re

import pytest

from fxopt.pipeline import Pass, registry
from fxopt.testing import CheckFailure, ProgramBuilder, check_pass, reproducer
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
