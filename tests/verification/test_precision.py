"""In which precision an output is computed, whatever its dtype; the oracles judge by that."""

import torch
from torch import nn

from fxopt.frontend import trace
from fxopt.program import Program
from fxopt.report import Verdict
from fxopt.verification import Subject, check_programs, module_subject, subject_of, verify_runs
from fxopt.verification.precision import coarsest, output_precisions

f16, f32, f64, bf16 = torch.float16, torch.float32, torch.float64, torch.bfloat16


class Widened(nn.Module):
    """Small integers in, exact in float32; the result in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 100)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randint(1, 4, (100, 4)).float())
            self.linear.bias.copy_(torch.ones(100))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.round()).double()


def widened() -> tuple[nn.Module, Program]:
    torch.manual_seed(0)
    module = Widened().eval()
    return module, trace(module, (torch.randn(3, 4),), dynamic_shapes=[{0: "batch"}])


def precisions(function: object, *args: torch.Tensor) -> tuple[torch.dtype | None, ...]:
    class Of(nn.Module):
        def forward(self, *args: torch.Tensor) -> object:
            return function(*args)  # type: ignore[operator]

    return output_precisions(trace(Of().eval(), args))


def test_the_narrowest_dtype_on_the_path_counts():
    x = torch.randn(3)
    assert precisions(lambda x: (torch.exp(x).double() * 2, x.double() * 2, x.double()), x) == (
        f32,
        f64,
        None,
    )
    assert precisions(lambda x: x.half().float().exp(), x) == (f16,), "a cast that narrows rounds"
    assert precisions(lambda x: x.float().exp(), x.half()) == (f32,), "an input is what it is"
    assert precisions(lambda x: x.exp().argmax(), x) == (None,)
    assert precisions(lambda x: torch.where(x.exp() > 1, x.double(), 0.0) + 1, x) == (f64,)


def test_the_coarsest_of_dtypes():
    assert coarsest([f32, bf16, f64, None, torch.int64]) is bf16
    assert coarsest([torch.complex64, f64]) is f32
    assert coarsest([torch.bool]) is None


def test_a_widened_result_is_judged_as_what_it_is():
    module, program = widened()

    def moved(ulps: float) -> Subject:
        def run(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
            return [y * (1 + ulps * torch.finfo(f32).eps) for y in program.run_flat(tensors)]

        return Subject(program.signature, run)

    for reference in (subject_of(program), module_subject(module, program.signature)):
        assert verify_runs(reference, moved(1)).verdict is Verdict.EQUIVALENT
        assert verify_runs(reference, moved(1000)).verdict is Verdict.DIFFERENT


def test_algebra_sees_through_the_cast():
    """By the output's dtype alone the float64 programs might differ by what float32 rounds."""
    _, program = widened()

    def nearly(twin: Program) -> Program:
        wrong = twin.copy()
        wrong.weights["linear.bias"] = wrong.weights["linear.bias"] * (1 + 1e-9)
        return wrong

    report = check_programs(program, program.copy(), "equivalent", transform=nearly)
    assert report.verdict is Verdict.DIFFERENT
    assert "in float64" in report.reason
