"""Right candidates are equivalent, seeded wrong ones different, on real small models."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fxopt.frontend import trace
from fxopt.program import Program
from fxopt.report import Verdict, VerifyReport
from fxopt.verification import Subject, module_subject, open_signature, subject_of, verify_runs
from tests.verification.models import block, changed, conv_bn, folded

Run = Callable[[list[torch.Tensor]], list[object]]


def verified(program: Program, module: nn.Module, **options: object) -> VerifyReport:
    candidate = dataclasses.replace(module_subject(module, program.signature), double=None, name="candidate")
    return verify_runs(subject_of(program), candidate, **options)


def verified_run(program: Program, run: Run, **options: object) -> VerifyReport:
    return verify_runs(subject_of(program), Subject(program.signature, run, name="candidate"), **options)


def without_onednn(program: Program) -> Run:
    # The other flags are left alone: setting TF32 warns where there is no Intel GPU.
    flags = {"deterministic": None, "allow_tf32": None, "fp32_precision": None}

    def run(tensors: list[torch.Tensor]) -> list[object]:
        with torch.backends.mkldnn.flags(enabled=False, **flags):
            return program.run_flat(
                [t.to(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors]
            )

    return run


@pytest.mark.parametrize("seed", range(4))
def test_a_right_fold_is_equivalent(seed: int):
    module, program = conv_bn(seed)
    report = verified(program, folded(module), seed=10 * seed)
    assert report.ok, report.reason
    assert report.oracle == "float64"
    assert 0 < report.ratio <= 5
    assert 0 < report.max_abs_error < 1e-5
    assert report.counterexample is None
    assert len({case.split(",")[0] for case in report.inputs_tried} - {"batch=1"}) == 2
    assert any(case.startswith("batch=1") for case in report.inputs_tried)


@pytest.mark.parametrize("build", [conv_bn, block])
@pytest.mark.parametrize("seed", range(3))
def test_other_kernels_are_equivalent(build: Callable[[int], tuple[nn.Module, Program]], seed: int):
    module, program = build(seed)
    for report in (
        verified_run(program, without_onednn(program), seed=seed),
        verified(program, module, seed=seed),
        verified_run(program, lambda tensors: program.run_flat(tensors), seed=seed),
    ):
        assert report.ok, report.reason


def test_other_formulas_are_equivalent():
    class Original(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return torch.softmax(x, -1), nn.functional.gelu(x), x @ y, nn.functional.layer_norm(x, [32])

    class Other(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
            e = (x - x.amax(-1, keepdim=True)).exp()
            centred = x - x.mean(-1, keepdim=True)
            norm = centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt()
            product = x[:, 16:] @ y[16:] + x[:, :16] @ y[:16]
            return e / e.sum(-1, keepdim=True), x * 0.5 * (1 + torch.erf(x / 2**0.5)), product, norm

    example = (torch.randn(4, 32), torch.randn(32, 8))
    program = trace(Original().eval(), example, dynamic_shapes={"x": {0: "n"}, "y": None})
    for seed in range(3):
        report = verified(program, Other().eval(), seed=seed)
        assert report.ok, report.reason
    assert len(report.outputs) == 4


def half_weights(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.copy_(parameter.half())


WRONG_CONV = {
    "no eps": lambda m: folded(m, eps=0),
    "eps 1e-3": lambda m: folded(m, eps=100),
    "sign of the mean": lambda m: folded(m, sign=-1),
    "bias missing": lambda m: folded(m, bias=False),
    "half weights": lambda m: changed(m, half_weights),
    "no activation": lambda m: changed(m, lambda c: setattr(c, "act", nn.Identity().eval())),
    "one channel": lambda m: changed(folded(m), lambda c: c.conv.weight[3].copy_(m.conv.weight[3])),
    "other padding": lambda m: changed(m, lambda c: setattr(c.conv, "padding_mode", "circular")),
}


@pytest.mark.parametrize("bug", WRONG_CONV)
def test_wrong_convolutions_are_found(bug: str):
    module, program = conv_bn()
    report = verified(program, WRONG_CONV[bug](module))
    assert report.verdict is Verdict.DIFFERENT, report.reason
    assert report.ratio > 5
    assert "output 'output'" in report.reason
    assert report.counterexample is not None
    assert report.counterexample.case in report.inputs_tried


WRONG_BLOCK = {
    "gelu tanh": lambda c: setattr(c, "approximate", "tanh"),
    "layer norm eps": lambda c: setattr(c.norm, "eps", 1e-4),
    "softmax axis": lambda c: setattr(c, "axis", 1),
    "bias missing": lambda c: c.down.bias.zero_(),
    "weight transposed": lambda c: c.out.weight.copy_(c.out.weight.t().clone()),
}


@pytest.mark.parametrize("bug", WRONG_BLOCK)
def test_wrong_blocks_are_found(bug: str):
    module, program = block()
    report = verified(program, changed(module, WRONG_BLOCK[bug]))
    assert report.verdict is Verdict.DIFFERENT, report.reason


def test_the_counterexample_shows_the_difference():
    module, program = block()
    wrong = changed(module, WRONG_BLOCK["bias missing"])
    example = verified(program, wrong).counterexample
    assert example is not None
    with torch.no_grad():
        good, bad = (side(*example.args, **example.kwargs)[1] for side in (program, wrong))
    assert set(example.inputs) == {"x", "mask"}
    assert example.expected == float(good[example.index])
    assert example.actual == pytest.approx(float(bad[example.index]))
    assert (good - bad).abs().max() == pytest.approx(abs(example.expected - example.actual), rel=1e-3)


def test_a_batch_of_its_own_is_found():
    """Right at batch 2 (and 1), wrong above: what a check at the traced size only misses."""
    _, program = conv_bn()

    def run(tensors: list[torch.Tensor]) -> list[object]:
        (y,) = program.run_flat(tensors)
        return [torch.cat([y[:2], y[:1].expand(max(len(y) - 2, 0), -1)])]

    report = verified_run(program, run)
    assert report.verdict is Verdict.DIFFERENT
    assert report.counterexample.case.startswith("batch=3")


def test_a_lost_batch_dimension_is_a_shape():
    _, program = conv_bn()
    report = verified_run(program, lambda tensors: [program.run_flat(tensors)[0][:1]])
    assert report.verdict is Verdict.DIFFERENT
    assert "it has shape (1, 10), not (2, 10)" in report.reason
    assert math.isnan(report.ratio)


def test_size_one_is_tried():
    """A squeeze that drops a batch of one."""
    _, program = conv_bn()
    report = verified_run(program, lambda tensors: [program.run_flat(tensors)[0].squeeze(0)])
    assert report.verdict is Verdict.DIFFERENT
    assert report.counterexample.case.startswith("batch=1")


def test_another_dtype_is_found():
    _, program = conv_bn()
    report = verified_run(program, lambda tensors: [program.run_flat(tensors)[0].double()])
    assert report.verdict is Verdict.DIFFERENT
    assert "dtype f64, not f32" in report.reason


def test_swapped_outputs_are_found():
    _, program = block()
    assert verified_run(program, lambda tensors: program.run_flat(tensors)[::-1]).verdict is Verdict.DIFFERENT


def test_a_missing_output_is_found():
    _, program = block()
    report = verified_run(program, lambda tensors: program.run_flat(tensors)[:1])
    assert report.verdict is Verdict.DIFFERENT
    assert "it returns 1 output, expected 2" in report.reason


def test_a_write_to_the_input_is_found():
    _, program = conv_bn()

    def run(tensors: list[torch.Tensor]) -> list[object]:
        outputs = program.run_flat(tensors)
        tensors[0][0, 0, 0, 0] += 1
        return outputs

    report = verified_run(program, run)
    assert report.verdict is Verdict.DIFFERENT
    assert "candidate writes to its input 'x'" in report.reason


def test_inputs_of_the_caller_are_left_alone():
    _, program = conv_bn()
    mine = torch.ones(2, 3, 8, 8)

    def run(tensors: list[torch.Tensor]) -> list[object]:
        tensors[0].zero_()
        return []

    verify_runs(Subject(program.signature, run), Subject(program.signature, run), inputs=[(mine,)])
    assert torch.equal(mine, torch.ones(2, 3, 8, 8))


@pytest.mark.filterwarnings("ignore:weights hold NaN")
def test_nan_in_weights_is_equal_on_both_sides():
    module, _ = conv_bn()
    with torch.no_grad():
        module.head.weight[2, 3] = math.nan
    program = trace(module, (torch.randn(2, 3, 8, 8),), dynamic_shapes={"x": {0: "batch"}})
    report = verified(program, folded(module))
    assert report.ok, report.reason
    elsewhere = changed(folded(module), lambda c: c.head.weight.copy_(c.head.weight.nan_to_num(1.0)))
    report = verified(program, elsewhere)
    assert report.verdict is Verdict.DIFFERENT
    assert "NaN or infinite on one side only" in report.reason
    assert report.ratio == math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_precision(dtype: torch.dtype):
    module, _ = conv_bn()
    other = changed(module, lambda c: c.to(dtype))
    program = trace(other, (torch.randn(2, 3, 8, 8).to(dtype),), dynamic_shapes={"x": {0: "batch"}})
    report = verified(program, folded(other))
    assert report.ok, report.reason
    assert not verified(program, folded(other, sign=-1)).ok
    assert not verified(program, changed(other, lambda c: setattr(c, "act", nn.Identity().eval()))).ok


class Refuses(nn.Module):
    """Takes lengths from 40 up only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] < 40:
            raise ValueError("too short")
        return x.cumsum(1)


def _any_length(module: nn.Module) -> Program:
    return trace(nn.Identity().eval(), (torch.randn(2, 50),), dynamic_shapes=[{0: "batch", 1: "length"}])


def test_sizes_that_the_reference_refuses_are_passed_over():
    signature = _any_length(Refuses()).signature
    reference = module_subject(Refuses(), signature)
    report = verify_runs(reference, module_subject(Refuses(), signature))
    assert report.ok, report.reason
    assert len({case.split(", normal")[0] for case in report.inputs_tried}) >= 2
    assert any("refuses" in note and "too short" in note for note in report.notes)


def test_known_sizes_are_tried_before_larger_ones():
    signature = _any_length(Refuses()).signature
    known = {"batch": 2, "length": 50}
    reference = dataclasses.replace(module_subject(Refuses(), signature), example_sizes=known)
    report = verify_runs(reference, module_subject(Refuses(), signature))
    assert report.ok
    assert report.inputs_tried[0].startswith("batch=2, length=50")


def test_a_reference_that_refuses_everything_is_undecided():
    def run(tensors: list[torch.Tensor]) -> list[object]:
        raise RuntimeError("no")

    signature = _any_length(Refuses()).signature
    report = verify_runs(Subject(signature, run, name="broken"), Subject(signature, lambda t: t))
    assert report.verdict is Verdict.UNDECIDED
    assert "broken refuses every drawn input" in report.reason


def raising(sizes: set[int], base: Run) -> Run:
    def run(tensors: list[torch.Tensor]) -> list[object]:
        if tensors[0].shape[0] in sizes:
            raise RuntimeError(f"batch {tensors[0].shape[0]}")
        return base(tensors)

    return run


def test_a_candidate_that_raises_is_different():
    _, program = conv_bn()
    report = verified_run(program, raising({3}, program.run_flat))
    assert report.verdict is Verdict.DIFFERENT
    assert "candidate raises where ConvBn runs: batch 3" in report.reason


def test_given_inputs_on_which_sides_raise():
    _, program = conv_bn()
    signature = program.signature
    sides = {
        n: Subject(signature, raising(s, program.run_flat), name=n) for n, s in (("a", {2}), ("b", set()))
    }
    given = [(torch.randn(2, 3, 8, 8),), (torch.randn(3, 3, 8, 8),)]
    both = verify_runs(sides["a"], sides["a"], inputs=given)
    assert both.ok
    assert both.inputs_tried == ("inputs[0] (batch=2)", "inputs[1] (batch=3)")
    assert verify_runs(sides["a"], sides["a"], inputs=given[:1]).verdict is Verdict.UNDECIDED
    assert verify_runs(sides["a"], sides["b"], inputs=given).verdict is Verdict.DIFFERENT
    assert verify_runs(sides["b"], sides["a"], inputs=given).verdict is Verdict.DIFFERENT


def test_an_empty_batch_is_no_reason_to_fail():
    _, program = conv_bn()
    given = [(torch.randn(n, 3, 8, 8),) for n in (0, 2, 3)]
    report = verified_run(program, raising({0}, program.run_flat), inputs=given)
    assert report.ok
    assert "which is empty" in report.notes[0]
    assert verified_run(program, program.run_flat, inputs=given).ok


def test_what_can_not_run_here_is_no_verdict():
    _, program = conv_bn()

    def run(tensors: list[torch.Tensor]) -> list[object]:
        raise ModuleNotFoundError("onnxruntime")

    with pytest.raises(ModuleNotFoundError):
        verified_run(program, run)


def test_other_inputs_are_a_difference():
    _, program = conv_bn()
    _, other = block()
    report = verify_runs(subject_of(program), subject_of(other))
    assert report.verdict is Verdict.DIFFERENT
    assert report.reason.startswith("Block takes 2 tensors (")


def test_without_float64_noise_decides():
    module, program = conv_bn()
    reference = dataclasses.replace(subject_of(program), double=None)
    candidate = dataclasses.replace(module_subject(folded(module), program.signature), double=None)
    report = verify_runs(reference, candidate)
    assert report.ok, report.reason
    assert report.oracle == "noise"
    assert any("no float64 reference" in note for note in report.notes)
    wrong = dataclasses.replace(module_subject(folded(module, eps=100), program.signature), double=None)
    assert verify_runs(reference, wrong).verdict is Verdict.DIFFERENT


def test_a_float64_run_that_fails_falls_back_to_noise():
    module, program = conv_bn()

    def double(tensors: list[torch.Tensor]) -> list[object]:
        raise RuntimeError("no kernel for Double")

    reference = dataclasses.replace(subject_of(program), double=double)
    candidate = dataclasses.replace(module_subject(folded(module), program.signature), double=None)
    report = verify_runs(reference, candidate)
    assert report.ok
    assert report.oracle == "noise"
    assert "does not run in float64: no kernel for Double" in report.notes[0]


def test_nothing_moves_the_original():
    """A linear layer without oneDNN rounds one way only: a small difference can't be told from rounding."""
    program = trace(nn.Linear(64, 64).eval(), (torch.randn(4, 64),), dynamic_shapes=[{0: "batch"}])
    reference = Subject(
        program.signature, program.run_flat, perturbed=lambda tensors: [program.run_flat(tensors)]
    )

    def off_by(relative: float) -> VerifyReport:
        run: Run = lambda tensors: [y * (1 + relative) for y in program.run_flat(tensors)]  # noqa: E731
        return verify_runs(reference, Subject(program.signature, run))

    assert off_by(0).ok
    assert off_by(2e-5).verdict is Verdict.UNDECIDED
    assert off_by(2e-3).verdict is Verdict.DIFFERENT


def test_the_candidates_float64_serves_where_the_reference_has_none():
    module, program = conv_bn()
    reference = Subject(program.signature, program.run_flat, name="file")
    report = verify_runs(reference, subject_of(program))
    assert report.ok
    assert report.oracle == "float64"
    assert "judged against the float64 form of ConvBn" in report.notes
    wrong = Subject(program.signature, module_subject(folded(module, sign=-1), program.signature).run)
    report = verify_runs(wrong, subject_of(program))
    assert report.verdict is Verdict.DIFFERENT
    example = report.counterexample
    assert example.actual == pytest.approx(float(program(*example.args)[example.index]))


class Chosen(nn.Module):
    """The best of classes of which two have the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 4, bias=False)
        with torch.no_grad():
            self.linear.weight[3] = self.linear.weight[0]
            self.linear.weight[1:3] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).abs().argmax(1)


def test_ties_that_rounding_decides_are_no_difference():
    torch.manual_seed(0)
    program = trace(Chosen().eval(), (torch.randn(4, 16),), dynamic_shapes=[{0: "batch"}])
    normal = [(torch.randn(n, 16),) for n in (2, 3)]
    assert all(bool((program(*x) == 0).all()) for x in normal)
    report = verified_run(program, lambda tensors: [3 - program.run_flat(tensors)[0]], inputs=normal)
    assert report.ok, report.reason
    assert "rounding decides" in report.outputs[0].reason
    report = verified_run(program, lambda tensors: [2 - program.run_flat(tensors)[0]], inputs=normal)
    assert report.verdict is Verdict.DIFFERENT


class EqualSpread(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(5, -1).var(0, correction=0)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(2.0**-23, Verdict.UNDECIDED), (2.0**-21, Verdict.UNDECIDED), (1e-4, Verdict.DIFFERENT)],
)
def test_a_spread_of_equal_elements_is_judged_by_the_rounding_of_their_mean(error: float, verdict: Verdict):
    """torch's mean of five equal numbers is exact, so that its variance is 0; another is off by an eps or few: no
    rounding is told from another, but an error is."""
    program = trace(EqualSpread().eval(), (torch.randn(8),))
    inputs = [(torch.randn(8, generator=torch.Generator().manual_seed(s)),) for s in range(3)]
    assert all(bool((program(*x) == 0).all()) for x in inputs)
    report = verified_run(program, lambda tensors: [(error * tensors[0]) ** 2], inputs=inputs)
    assert report.verdict is verdict, report.reason


def test_algebra_needs_the_references_own_float64():
    """A rewritten float64 program is compared with the one that it was made from, or not at all."""
    _, program = conv_bn()

    def algebra(tensors: list[torch.Tensor]) -> list[object]:
        raise AssertionError("not to be run")

    file = Subject(program.signature, program.run_flat)
    report = verify_runs(file, subject_of(program), algebra=algebra)
    assert report.ok
    assert report.oracle == "float64"


def test_exact_and_approximate_contracts():
    module, program = conv_bn()
    right = module_subject(folded(module), program.signature)
    exact = verify_runs(subject_of(program), right, contract="exact")
    assert exact.verdict is Verdict.DIFFERENT
    assert exact.oracle == "bitwise"
    assert verify_runs(subject_of(program), subject_of(program), contract="exact").ok
    wrong = module_subject(folded(module, sign=-1), program.signature)
    loose = verify_runs(subject_of(program), wrong, contract="approximate")
    assert loose.verdict is Verdict.UNDECIDED
    assert "the contract lets values change" in loose.reason
    shape = Subject(program.signature, lambda tensors: [program.run_flat(tensors)[0].t()])
    assert verify_runs(subject_of(program), shape, contract="approximate").verdict is Verdict.DIFFERENT
    with pytest.raises(ValueError, match="unknown contract 'rough'"):
        verify_runs(subject_of(program), right, contract="rough")


def test_modules_without_a_spec():
    module, _ = conv_bn()
    given = [(torch.randn(n, 3, 8, 8),) for n in (2, 3)]
    signature = open_signature(given[0], result=module(*given[0]))
    reference = module_subject(module, signature)
    assert verify_runs(reference, module_subject(folded(module), signature), inputs=given).ok
    wrong = module_subject(folded(module, eps=100), signature)
    assert verify_runs(reference, wrong, inputs=given).verdict is Verdict.DIFFERENT


def test_a_random_reference_is_undecided():
    """Its reruns differ by more than any rounding, so nothing can be told."""
    program = trace(nn.Linear(8, 8).eval(), (torch.randn(2, 8),))
    noisy: Run = lambda tensors: [y * torch.rand_like(y) for y in program.run_flat(tensors)]  # noqa: E731
    report = verify_runs(Subject(program.signature, noisy), Subject(program.signature, program.run_flat))
    assert report.verdict is not Verdict.EQUIVALENT


def test_the_same_seed_gives_the_same_report():
    module, program = conv_bn()
    first, second = (verified(program, folded(module), seed=3) for _ in range(2))
    assert dataclasses.replace(first, seconds=0.0) == dataclasses.replace(second, seconds=0.0)


def test_numbers_computed_from_sizes_are_compared():
    class Sizes(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            return x.relu(), x.shape[0] * 2

    program = trace(Sizes().eval(), (torch.randn(4, 3),), dynamic_shapes=[{0: "batch"}])
    assert verified_run(program, program.run_flat).ok
    as_tensor: Run = lambda tensors: [tensors[0].relu(), torch.tensor(2 * len(tensors[0]))]  # noqa: E731
    assert verified_run(program, as_tensor).ok
    report = verified_run(program, lambda tensors: [tensors[0].relu(), 2 * len(tensors[0]) + 1])
    assert report.verdict is Verdict.DIFFERENT
    assert "the numbers differ; it is 5, expected 4" in report.reason
