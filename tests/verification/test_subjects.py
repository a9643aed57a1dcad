"""Subjects of programs and modules, open signatures, variations of the environment."""

import pytest
import torch
from torch import nn

from fxopt.errors import InputError
from fxopt.frontend import trace
from fxopt.verification import arguments_of, module_subject, open_signature, subject_of
from fxopt.verification.subjects import varied_runs
from tests.verification.models import conv_bn


def test_a_module_runs_in_eval_mode_and_keeps_its_flags():
    module = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.BatchNorm1d(8))
    module[0].eval()
    mean = module[2].running_mean.clone()
    x = torch.randn(4, 8)
    subject = module_subject(module, open_signature((x,), result=x))
    with torch.enable_grad():
        (y,), (again,), (wide,) = subject.run([x]), subject.run([x]), subject.double([x])
    assert torch.equal(y, again)
    assert not y.requires_grad
    assert wide.dtype is torch.float64
    torch.testing.assert_close(y, wide.float())
    assert [m.training for m in module.modules()] == [True, False, True, True]
    assert torch.equal(module[2].running_mean, mean)
    assert module[0].weight.dtype is torch.float32


def test_flags_are_restored_after_an_error():
    module = nn.Sequential(nn.Linear(8, 8))
    subject = module_subject(module, open_signature((torch.ones(2, 8),)))
    with pytest.raises(RuntimeError):
        subject.run([torch.ones(2, 9)])
    assert module.training


def test_a_program_knows_the_sizes_of_its_example():
    _, program = conv_bn()
    assert subject_of(program).example_sizes == {"batch": 2}


def test_the_float64_twin_is_made_once(monkeypatch: pytest.MonkeyPatch):
    _, program = conv_bn()
    made: list[object] = []
    original = subject_of.__globals__["double_program"]
    monkeypatch.setitem(subject_of.__globals__, "double_program", lambda p: made.append(p) or original(p))
    subject = subject_of(program)
    assert made == []
    for _ in range(2):
        assert subject.double([torch.randn(2, 3, 8, 8)])[0].dtype is torch.float64
    assert made == [program]


def test_an_open_signature_takes_any_size():
    def model(x: torch.Tensor, k: int, *, more: list[torch.Tensor]) -> dict[str, object]:
        return {"y": x * k + more[0], "n": len(x)}

    x = torch.ones(2, 3)
    signature = open_signature((x, 2), {"more": [x]}, model(x, 2, more=[x]))
    assert [s.name for s in signature.inputs] == ["input0", "input1", "input2"]
    assert [s.name for s in signature.computed_outputs] == ["output0", "output1"]
    big = torch.ones(5, 7)
    tensors = signature.flatten_inputs((big, 2), {"more": [big]})
    args, kwargs = arguments_of(signature, tensors)
    assert torch.equal(model(*args, **kwargs)["y"], 3 * big)
    with pytest.raises(InputError):
        signature.flatten_inputs((big, 3), {"more": [big]})
    with pytest.raises(InputError, match="input0 is a object: expected tensors"):
        open_signature((object(),))


def test_variations_leave_inputs_and_settings_alone():
    _, program = conv_bn()
    x = torch.randn(2, 3, 8, 8)
    before, threads, onednn = x.clone(), torch.get_num_threads(), torch.backends.mkldnn.enabled
    seen: list[tuple[bool, int, bool]] = []

    def run(tensors: list[torch.Tensor]) -> list[object]:
        strided = not tensors[0].is_contiguous()
        seen.append((torch.backends.mkldnn.enabled, torch.get_num_threads(), strided))
        outputs = program.run_flat([t.clone() for t in tensors])
        tensors[0].zero_()
        return outputs

    assert len(list(varied_runs(run, [x]))) == 4
    other = 2 if threads == 1 else 1
    assert seen == [
        (True, threads, False),
        (False, threads, False),
        (True, other, False),
        (True, threads, True),
    ]
    assert torch.equal(x, before)
    assert (torch.get_num_threads(), torch.backends.mkldnn.enabled) == (threads, onednn)


def test_a_variation_that_a_model_refuses_is_left_out():
    program = trace(nn.ReLU().eval(), (torch.randn(2, 3, 4, 4),))

    def run(tensors: list[torch.Tensor]) -> list[object]:
        return program.run_flat([tensors[0].view(2, 3, 4, 4)]) if tensors[0].is_contiguous() else refuse()

    def refuse() -> list[object]:
        raise RuntimeError("view size is not compatible")

    assert len(list(varied_runs(run, [torch.randn(2, 3, 4, 4)]))) == 3


def test_a_variation_that_leaves_the_domain_of_an_op_is_left_out():
    class Loss(nn.Module):
        def forward(self, x):
            return nn.functional.binary_cross_entropy(x.sigmoid(), torch.zeros_like(x))

    x = torch.linspace(-60, 5, 64)
    subject = subject_of(trace(Loss().eval(), (x,)))
    assert all(len(run) == 1 for run in subject.variations([x]))
