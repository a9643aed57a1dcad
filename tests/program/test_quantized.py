"""Integers that stand for floats: the numbers, the signature that carries them, runs in floats."""

import dataclasses
import json

import pytest
import torch

from fxopt.errors import ArtifactError, InputError
from fxopt.program import (
    InFloats,
    Quantized,
    Signature,
    TensorSpec,
    in_floats,
    signature_from_json,
    signature_to_json,
)
from fxopt.verification import open_signature
from fxopt.verification.subjects import Subject, subject_in_floats

PIXELS = Quantized(0.5, 3)


def signature() -> Signature:
    """Takes integers for floats and integers for their own sake, gives integers for floats and floats."""
    x = torch.zeros(2, dtype=torch.uint8)
    plain = open_signature((x, x), None, (x, torch.zeros(2)))
    inputs = (dataclasses.replace(plain.inputs[0], quantized=PIXELS), plain.inputs[1])
    outputs = (dataclasses.replace(plain.outputs[0], quantized=Quantized(2.0, -1, "int8")), plain.outputs[1])
    return dataclasses.replace(plain, inputs=inputs, outputs=outputs)


class Twice:
    """Adds its inputs."""

    def __init__(self) -> None:
        self.signature = signature()

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        x, y = tensors
        assert x.dtype is torch.uint8
        return [(x + y).to(torch.int8), x.float()]

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self.run_flat(list(args))


def test_integers_are_the_nearest_and_clipped() -> None:
    x = torch.tensor([0.25, 0.75, -1.5, -9.0, 1000.0])
    assert PIXELS.integers(x).tolist() == [3, 5, 0, 0, 255], "halves go to the even number of steps"
    assert Quantized(0.5, 3, "int8").integers(x).tolist() == [3, 5, 0, -15, 127]


def test_floats_are_steps_from_the_zero_point() -> None:
    q = torch.tensor([0, 3, 5], dtype=torch.uint8)
    assert PIXELS.floats(q).tolist() == [-1.5, 0.0, 1.0]
    assert PIXELS.floats(q, torch.float64).dtype is torch.float64


def test_every_integer_comes_back() -> None:
    q = torch.arange(256, dtype=torch.uint8)
    for numbers in (Quantized(0.1, 0), Quantized(1e-7, 255), Quantized(3.7e5, 128)):
        assert torch.equal(numbers.integers(numbers.floats(q)), q)


def test_a_signature_names_what_stands_for_floats() -> None:
    found = signature()
    assert found.integer_inputs == {"input0": PIXELS}
    assert found.integer_outputs == {"output0": Quantized(2.0, -1, "int8")}
    assert [s.dtype for s in found.in_floats().tensor_inputs] == [torch.float32, torch.uint8]
    assert [s.dtype for s in found.in_floats().outputs] == [torch.float32, torch.float32]
    assert found.in_floats().integer_inputs == found.in_floats().integer_outputs == {}


def test_floats_that_become_integers_in_a_file_are_no_integers_yet() -> None:
    spec = TensorSpec("x", torch.float32, (2,), quantized=PIXELS)
    assert spec.stands_for_floats is None
    assert dataclasses.replace(spec, dtype=torch.uint8).stands_for_floats == PIXELS


def test_json_keeps_the_numbers() -> None:
    text = json.dumps(signature_to_json(signature()))
    assert signature_from_json(json.loads(text)) == signature()


@pytest.mark.parametrize(
    "entry",
    [{"scale": "1"}, {"scale": 1.0, "zero_point": 0, "kind": "int4"}, 3, {"scale": 1.0, "kind": "uint8"}],
)
def test_json_of_no_numbers_is_refused(entry: object) -> None:
    found = signature_to_json(signature())
    found["inputs"][0]["quantized"] = entry  # type: ignore[index]
    with pytest.raises(ArtifactError, match="malformed scale of 'input0' in the file"):
        signature_from_json(found)


def test_floats_in_the_place_of_integers_are_told_how() -> None:
    q, x = torch.zeros(2, dtype=torch.uint8), torch.zeros(2)
    with pytest.raises(
        InputError, match=r"got torch.float32: round it with io_scales\['input0'\].integers\(x\)"
    ):
        signature().flatten_inputs((x, q))
    with pytest.raises(InputError, match=r"got torch.float32$"):
        signature().flatten_inputs((q, x))
    with pytest.raises(InputError, match=r"got torch.int64$"):
        signature().flatten_inputs((q.long(), q))


def test_a_run_in_floats() -> None:
    run = in_floats(Twice())
    assert isinstance(run, InFloats)
    y, x = run(torch.tensor([1.0, -1.5]), torch.tensor([4, 6], dtype=torch.uint8))
    assert y.tolist() == [20.0, 14.0], "5 + 4 and 0 + 6, one more, in steps of 2"
    assert x.tolist() == [5.0, 0.0]


def test_what_takes_floats_stays_itself() -> None:
    run = Twice()
    run.signature = run.signature.in_floats()
    assert in_floats(run) is run


def test_a_subject_in_floats() -> None:
    """Its float64 form and its variations too."""
    own = Twice()
    run = own.run_flat
    subject = subject_in_floats(
        Subject(
            own.signature, run, double=run, perturbed=lambda t: [run(t)], perturbed_double=lambda t: [run(t)]
        )
    )
    given = [torch.tensor([1.0, -1.5]), torch.tensor([4, 6], dtype=torch.uint8)]
    assert subject.signature == own.signature.in_floats()
    assert (
        subject.double is not None and subject.perturbed is not None and subject.perturbed_double is not None
    )
    single, double = subject.run(given), subject.double(given)
    assert single[0].tolist() == double[0].tolist() == [20.0, 14.0]
    assert (single[0].dtype, double[0].dtype) == (torch.float32, torch.float64)
    ((y, _),), ((z, _),) = subject.perturbed(given), subject.perturbed_double(given)
    assert (y.dtype, z.dtype) == (torch.float32, torch.float64) and torch.equal(y.double(), z)
    bare = subject_in_floats(Subject(own.signature, run))
    assert bare.double is bare.perturbed is bare.perturbed_double is None


def test_a_subject_of_floats_stays_itself() -> None:
    subject = Subject(signature().in_floats(), Twice().run_flat)
    assert subject_in_floats(subject) is subject


def test_results_beyond_the_signature_stay() -> None:
    """That there is another number of them, the comparison tells."""
    q = torch.zeros(2, dtype=torch.int8)
    assert len(signature().outputs_in_floats([q])) == 1
    assert len(signature().outputs_in_floats([q, q, q])) == 3
