"""Data through an artifact in this process: order, batches, records set aside, what is gone on with."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fxopt
from fxopt.distributed.job import rejected_file
from fxopt.errors import FxoptError, InputError
from fxopt.lowering import Artifact
from fxopt.program.records import DataError
from tests.distributed.models import Words, ids, words


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return fxopt.lower(words(), "onnx")


def outputs(results: fxopt.Results) -> dict[str, torch.Tensor]:
    assert isinstance(results.outputs, dict)
    return results.outputs


@pytest.mark.parametrize("devices", [None, ["cpu"], ["cpu", "cpu", "cpu"]])
@pytest.mark.parametrize("batch", [None, 1, 7, 5000])
def test_arrays_give_the_models_containers_in_order(
    artifact: Artifact, devices: list[str] | None, batch: int | None
) -> None:
    x = ids(600)
    results = fxopt.run(artifact, {"ids": x}, devices=devices, batch=batch)
    expected = words()(x)
    assert isinstance(expected, dict)
    torch.testing.assert_close(outputs(results)["mean"], expected["mean"])
    assert torch.equal(outputs(results)["twice"], expected["twice"])
    assert (results.count, results.rejected, results.resumed) == (600, {}, 0)


def test_a_list_of_calls_gives_a_list_of_results(artifact: Artifact) -> None:
    calls = [ids(1 + n % 3, 1 + n % 7, n) for n in range(40)]
    results = fxopt.run(artifact, [calls[0], (calls[1],), {"ids": calls[2]}, *calls[3:]])
    assert isinstance(results.outputs, list)
    for x, got in zip(calls, results.outputs, strict=True):
        torch.testing.assert_close(got, words()(x))


def test_results_of_calls_have_memory_of_their_own() -> None:
    program = fxopt.trace(torch.nn.Flatten(0).eval(), (torch.zeros(3),))
    x = torch.ones(3)
    first, other = fxopt.run(program, [(x,), (x,)]).outputs  # type: ignore[misc]  # a list
    x.zero_()
    first[0] = 2.0
    assert (first.tolist(), other.tolist()) == ([2.0, 1.0, 1.0], [1.0] * 3)


def test_programs_and_files_run_too(tmp_path: Path) -> None:
    file = tmp_path / "words.fxopt"
    fxopt.lower(words(), "eager", path=file)
    x = ids(9)
    for subject in (words(), file, str(file)):
        assert torch.equal(outputs(fxopt.run(subject, {"ids": x}))["twice"], x * 2)


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
def test_a_bad_record_is_set_aside_with_its_reason_and_the_others_come_through(target: str) -> None:
    x = ids(300)
    x[17] = 99
    x[299, 2] = 10
    results = fxopt.run(fxopt.lower(words(), target, verify=False), {"ids": x}, batch=64)
    assert sorted(results.rejected) == [17, 299]
    assert "can't be run" in results.rejected[17]
    got = outputs(results)
    assert got["mean"][17].isnan().all() and (got["twice"][17] == 0).all()
    kept = [i for i in range(300) if i not in results.rejected]
    assert torch.equal(got["twice"][kept], x[kept] * 2)
    assert not got["mean"][kept].isnan().any()


def test_a_bad_call_is_none_in_its_place(artifact: Artifact) -> None:
    results = fxopt.run(artifact, [ids(2), torch.zeros(2, 5), ids(1), (ids(1), ids(1)), "no tensor"])
    assert isinstance(results.outputs, list)
    assert [o is None for o in results.outputs] == [False, True, False, True, True]
    assert "must have dtype torch.int64, got torch.float32" in results.rejected[1]


def test_if_the_model_takes_no_record_that_is_an_error_and_nothing_is_left(
    artifact: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"takes no record of the data; of the first it says: .*idx=99"):
        fxopt.run(artifact, {"ids": ids(5) * 0 + 99}, output=tmp_path / "y.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [4, 5, 8, 1])
def test_a_fixed_batch_loses_no_record(count: int) -> None:
    x = ids(count)
    got = outputs(fxopt.run(fxopt.lower(words(4), "eager"), {"ids": x}))
    expected = torch.cat([Words.forward(_module(), part)["mean"] for part in x.split(1)])
    torch.testing.assert_close(got["mean"], expected)
    assert torch.equal(got["twice"], x * 2)


def test_a_bad_record_in_a_fixed_batch_is_found_too() -> None:
    x = ids(6)
    x[4] = 77
    results = fxopt.run(fxopt.lower(words(4), "eager"), {"ids": x})
    assert sorted(results.rejected) == [4]
    assert torch.equal(outputs(results)["twice"][[0, 1, 2, 3, 5]], x[[0, 1, 2, 3, 5]] * 2)


def _module() -> Words:
    torch.manual_seed(0)
    return Words().eval()


class Total(nn.Module):
    """Its result is of all records together."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Takes [batch, 2], gives a number."""
        return x.sum()


@pytest.mark.parametrize("dynamic", [True, False])
def test_an_output_without_an_axis_of_records_is_refused_for_arrays(dynamic: bool) -> None:
    shapes = ({0: "batch"},) if dynamic else None
    program = fxopt.trace(Total(), (torch.zeros(3, 2),), dynamic_shapes=shapes)
    with pytest.raises(DataError, match=r"output 'output' has no axis of records.*a list of calls"):
        fxopt.run(program, {"x": torch.ones(7, 2)})
    assert fxopt.run(program, [torch.ones(3, 2), torch.ones(3, 2)]).outputs == [torch.tensor(6.0)] * 2


class Repeated(nn.Module):
    """Its result has twice as many rows as there are records."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Takes [batch, 2], gives [2 batch, 2]."""
        return torch.cat([x, x])


def test_an_output_with_other_rows_than_records_is_refused_at_the_first_batch() -> None:
    program = fxopt.trace(Repeated(), (torch.zeros(3, 2),), dynamic_shapes=({0: "batch"},))
    with pytest.raises(DataError, match="output 'output' has no axis of records"):
        fxopt.run(program, {"x": torch.ones(7, 2)})


class Pair(nn.Module):
    """A tensor and a Python number."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Takes [n]."""
        return x + 1, x.shape[0] * 2


def test_numbers_come_through_as_numbers() -> None:
    program = fxopt.trace(Pair(), (torch.zeros(3),), dynamic_shapes=({0: "n"},))
    results = fxopt.run(program, [torch.zeros(2), torch.zeros(4)])
    assert isinstance(results.outputs, list)
    assert [number for _, number in results.outputs] == [4, 8]


def test_bfloat16_comes_through_and_is_written_as_float32(tmp_path: Path) -> None:
    net = nn.Linear(3, 2).bfloat16().eval()
    x = torch.randn(5, 3).bfloat16()
    program = fxopt.trace(net, (x,), dynamic_shapes=({0: "batch"},))
    results = fxopt.run(program, {"input": x})
    assert isinstance(results.outputs, torch.Tensor)
    assert torch.equal(results.outputs, net(x))
    fxopt.run(program, {"input": x}, output=tmp_path / "y.npz")
    (written,) = np.load(tmp_path / "y.npz").values()
    assert np.array_equal(written, net(x).float().detach().numpy())


def test_output_is_one_array_a_name_and_the_folder_of_parts_is_gone(
    artifact: Artifact, tmp_path: Path
) -> None:
    x = ids(50)
    results = fxopt.run(artifact, {"ids": x}, output=tmp_path / "y.npz", batch=8)
    assert results.outputs is None
    written = np.load(tmp_path / "y.npz")
    assert sorted(written.files) == ["mean", "twice"]
    assert np.array_equal(written["twice"], x.numpy() * 2)
    assert [f.name for f in tmp_path.iterdir()] == ["y.npz"]


def test_calls_that_differ_in_shape_are_written_flat_with_their_shapes(
    artifact: Artifact, tmp_path: Path
) -> None:
    calls = [ids(2, 3), ids(2, 1), torch.full((1, 1), 99)]
    results = fxopt.run(artifact, calls, output=tmp_path / "y.npz")
    written = np.load(tmp_path / "y.npz")
    assert written["mean"].shape == (3, 2, 3)
    assert np.isnan(written["mean"][2]).all()
    assert written["twice.shapes"].tolist() == [[2, 3], [2, 1], [2, 3]]
    assert np.array_equal(written["twice.values"][6:8], calls[1].numpy().ravel() * 2)
    reasons = json.loads(rejected_file(tmp_path / "y.npz").read_text())
    assert reasons == {"2": results.rejected[2]}


def test_reasons_of_an_earlier_run_do_not_stay(artifact: Artifact, tmp_path: Path) -> None:
    x = ids(5)
    x[1] = 50
    fxopt.run(artifact, {"ids": x}, output=tmp_path / "y.npz")
    assert rejected_file(tmp_path / "y.npz").is_file()
    fxopt.run(artifact, {"ids": ids(5)}, output=tmp_path / "y.npz")
    assert not rejected_file(tmp_path / "y.npz").exists()


class Stopping(fxopt.Artifact):
    """An artifact that stops after some calls, as a killed process does, and counts those it ran."""

    def __init__(self, inner: Artifact, after: int) -> None:
        super().__init__("onnx", inner.signature, path=inner.path)
        self.inner, self.left, self.ran = inner, after, 0

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """Runs, or stops."""
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.ran += 1
        return self.inner.run_flat(tensors)


@pytest.mark.parametrize("after", [0, 1, 7, 24])
def test_a_run_that_was_stopped_goes_on_and_does_nothing_twice(tmp_path: Path, after: int) -> None:
    artifact = fxopt.lower(words(), "eager", path=tmp_path / "words.fxopt")
    x, output = ids(100), tmp_path / "y.npz"
    first = Stopping(artifact, after)
    with pytest.raises(KeyboardInterrupt):
        fxopt.run(first, {"ids": x}, output=output, batch=4)
    assert not output.exists()
    second = Stopping(artifact, -1)
    results = fxopt.run(second, {"ids": x}, output=output, batch=4)
    assert first.ran + second.ran == 25
    assert results.resumed == after
    assert np.array_equal(np.load(output)["twice"], x.numpy() * 2)


class Failing(Stopping):
    """An artifact that fails at one call alone, after some, with what is no fault of the record."""

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """Runs, or fails."""
        self.left -= 1
        if self.left == 0:
            raise MemoryError("no room")
        time.sleep(0.002)  # as a model that takes its time: the other thread is at a call of its own
        self.ran += 1
        return self.inner.run_flat(tensors)


def test_when_one_thread_fails_the_others_stop_and_a_later_run_goes_on(tmp_path: Path) -> None:
    artifact = fxopt.lower(words(), "eager", path=tmp_path / "words.fxopt")
    x, output = ids(800), tmp_path / "y.npz"
    first = Failing(artifact, 10)
    with pytest.raises(MemoryError, match="no room"):
        fxopt.run(first, {"ids": x}, output=output, batch=4, devices=["cpu", "cpu"])
    assert first.ran < 100, "of 200 batches"
    assert fxopt.run(artifact, {"ids": x}, output=output, batch=4).resumed >= 8
    assert np.array_equal(np.load(output)["twice"], x.numpy() * 2)


class Counting(Stopping):
    """An artifact that counts the calls that it is asked for, those that fail too."""

    def attempt(self, tensors: list[torch.Tensor]) -> list[object]:
        """Counts, then runs."""
        self.ran += 1
        return self.inner.attempt(tensors)


def test_one_bad_record_of_a_batch_is_found_by_halves() -> None:
    x = ids(256)
    x[200] = 99
    counting = Counting(fxopt.lower(words(), "eager", verify=False), -1)
    assert sorted(fxopt.run(counting, {"ids": x}, batch=256).rejected) == [200]
    assert counting.ran == 1 + 2 * 8


def test_a_part_that_is_cut_off_is_made_again(tmp_path: Path) -> None:
    artifact = fxopt.lower(words(), "eager", path=tmp_path / "words.fxopt")
    x, output = ids(40), tmp_path / "y.npz"
    with pytest.raises(KeyboardInterrupt):
        fxopt.run(Stopping(artifact, 6), {"ids": x}, output=output, batch=4)
    part = next((tmp_path / "y.npz.parts").glob("0*.safetensors"))
    part.write_bytes(part.read_bytes()[:-9])
    assert fxopt.run(artifact, {"ids": x}, output=output, batch=4).resumed == 5
    assert np.array_equal(np.load(output)["twice"], x.numpy() * 2)


@pytest.mark.parametrize("change", ["data", "artifact", "batch", "manifest"])
def test_parts_of_another_run_are_not_mixed_in(tmp_path: Path, change: str) -> None:
    artifact = fxopt.lower(words(), "eager", path=tmp_path / "words.fxopt")
    other = fxopt.lower(words(), "torchscript", path=tmp_path / "words.pt")
    x, output = ids(40), tmp_path / "y.npz"
    with pytest.raises(KeyboardInterrupt):
        fxopt.run(Stopping(artifact, 6), {"ids": x}, output=output, batch=4)
    if change == "manifest":
        (tmp_path / "y.npz.parts" / "run.json").unlink()
    message = "of a run that is not known" if change == "manifest" else r"another run \(\w+ differs\)"
    with pytest.raises(InputError, match=message):
        fxopt.run(
            other if change == "artifact" else artifact,
            {"ids": x + 1 if change == "data" else x},
            output=output,
            batch=5 if change == "batch" else 4,
        )
    assert (tmp_path / "y.npz.parts").is_dir()


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ({"ids": ids(4)}, {"devices": ["cuda:7"]}, InputError, "the device 'cuda:7' is not here"),
        ({"ids": ids(4)}, {"devices": ["gpu"]}, InputError, "the device 'gpu' is not here"),
        ({"ids": ids(4)}, {"devices": ["cpu", "meta"]}, InputError, "the device meta has no values"),
        ({"ids": ids(4)}, {"devices": []}, InputError, "devices is empty"),
        ({"ids": ids(4)}, {"devices": "cpu"}, InputError, r'such as devices=\["cpu"\]'),
        ({"ids": ids(4)}, {"output": "nowhere/y.npz"}, InputError, "the folder nowhere does not exist"),
        ({"ids": ids(4)}, {"output": "y.csv"}, InputError, "a name that ends in .npz"),
        ({"ids": ids(4)}, {"batch": 0}, InputError, "records from 1 up"),
        ({"ids": ids(4)}, {"timeout": 0}, InputError, "seconds above 0"),
        ([ids(4)], {"batch": 2}, InputError, "batch= is for arrays"),
        ({"ids": "words"}, {}, DataError, "the data for 'ids' is no array"),
        ({"ids": [[1, 2], [3]]}, {}, DataError, "the data for 'ids' is no array"),
        ({"x": ids(4)}, {}, DataError, "no array named 'ids'"),
        ({"ids": ids(0)}, {}, DataError, "the data has no records"),
        ([], {}, InputError, "the data is empty"),
        (ids(4), {}, InputError, "the data is a Tensor; expected a dict of arrays"),
        (7, {}, InputError, "the data is a int"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    data: object, options: dict[str, object], error: type[FxoptError], message: str
) -> None:
    with pytest.raises(error, match=message):
        fxopt.run(words(), data, **options)  # type: ignore[arg-type]


def test_a_batch_other_than_the_fixed_one_is_refused() -> None:
    with pytest.raises(InputError, match="takes 4 records at a time, batch is 3"):
        fxopt.run(words(4), {"ids": ids(8)}, batch=3)
