"""Data files, and the calls that are made of them."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from fxopt.program import Signature, TensorSpec
from fxopt.program.records import DataError, calls, read_npz, write_npz


def signature(*specs: TensorSpec) -> Signature:
    tree = pytree.tree_structure((tuple(s.name for s in specs), {}))
    return Signature(specs, (), tree, pytree.tree_structure(()))


def test_npz_round_trip_and_fixed_batches(tmp_path: Path):
    write_npz(tmp_path / "d.npz", {"y": torch.arange(7), "x": torch.randn(7, 3)})
    arrays = read_npz(tmp_path / "d.npz")
    takes = signature(TensorSpec("x", torch.float32, (2, 3)), TensorSpec("y", torch.int64, (2,)))
    parts = calls(arrays, takes)
    assert [tuple(t.shape for t in part) for part in parts] == [((2, 3), (2,))] * 3
    assert torch.equal(torch.cat([part[1] for part in parts]), torch.arange(6))


def test_a_dynamic_batch_takes_all_records_or_the_given_size():
    arrays = {"x": np.zeros((7, 3), np.float64), "of no input": np.zeros(3)}
    takes = signature(TensorSpec("x", torch.float32, ("batch", 3)))
    assert [part[0].shape[0] for part in calls(arrays, takes)] == [7]
    assert [part[0].shape[0] for part in calls(arrays, takes, batch=3)] == [3, 3, 1]
    assert calls(arrays, takes)[0][0].dtype == torch.float32


def test_many_records_are_fed_in_moderate_batches():
    takes = signature(TensorSpec("x", torch.float32, ("batch",)))
    sizes = [len(part[0]) for part in calls({"x": np.zeros(1000, np.float32)}, takes)]
    assert sum(sizes) == 1000
    assert max(sizes) == 256


def test_arrays_that_fit_as_they_are_make_one_call():
    takes = signature(TensorSpec("x", torch.float32, ("batch", 3)), TensorSpec("scale", torch.float32, ()))
    (call,) = calls({"x": np.zeros((2, 3), np.float32), "scale": np.array(2.0, np.float32)}, takes)
    assert [t.shape for t in call] == [(2, 3), ()]


def test_keyword_arguments_go_where_the_signature_names_them():
    specs = (TensorSpec("x", torch.float32, (2,)), TensorSpec("mask", torch.bool, (2,)))
    tree = pytree.tree_structure((("x",), {"mask": "mask"}))
    takes = Signature(specs, (), tree, pytree.tree_structure(()), arguments=("x", "mask"))
    (call,) = calls({"mask": np.ones(2, bool), "x": np.zeros(2, np.float32)}, takes)
    assert [t.dtype for t in call] == [torch.float32, torch.bool]


def test_a_missing_input_is_named():
    takes = signature(TensorSpec("x", torch.float32, (2,)))
    with pytest.raises(DataError, match="no array named 'x'; it has y"):
        calls({"y": np.zeros(2)}, takes)


def test_less_than_one_batch():
    takes = signature(TensorSpec("x", torch.float32, (4,)))
    with pytest.raises(DataError, match="3 records, one batch of the model takes 4"):
        calls({"x": np.zeros(3)}, takes)


def test_bfloat16_is_written_as_float32(tmp_path: Path):
    write_npz(tmp_path / "d.npz", {"x": torch.ones(2, dtype=torch.bfloat16)})
    assert read_npz(tmp_path / "d.npz")["x"].dtype == np.float32


def test_unreadable_data_is_one_line(tmp_path: Path):
    path = tmp_path / "d.npz"
    with pytest.raises(DataError, match="can't read"):
        read_npz(path)
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(DataError, match="can't read"):
        read_npz(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="a single array"):
        read_npz(tmp_path / "one.npy")
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="can't read"):
        read_npz(path)
    path.write_bytes(b"junk")
    with pytest.raises(
        DataError, match=r"damaged, or no \.npz file; expected an \.npz with one array per input"
    ):
        read_npz(path)


@pytest.mark.parametrize(
    "array", [np.array(["a"]), np.zeros(2, "datetime64[s]"), np.zeros(2, np.longdouble), np.zeros(2, "V4")]
)
def test_arrays_of_other_things_than_numbers_are_refused(array: np.ndarray, tmp_path: Path):
    np.savez(tmp_path / "d.npz", x=array)
    with pytest.raises(DataError, match=r"the array 'x' holds .*, expected numbers that torch has"):
        read_npz(tmp_path / "d.npz")


def test_the_order_of_bytes_is_the_machines_own(tmp_path: Path):
    np.savez(tmp_path / "d.npz", x=np.array([1.5, 2.0], dtype=">f4"))
    takes = signature(TensorSpec("x", torch.float32, (2,)))
    (call,) = calls(read_npz(tmp_path / "d.npz"), takes)
    assert torch.equal(call[0], torch.tensor([1.5, 2.0]))  # type: ignore[arg-type]


def test_no_records_are_no_call():
    takes = signature(TensorSpec("x", torch.float32, ("batch", 3)))
    with pytest.raises(DataError, match="the data has no records"):
        calls({"x": np.zeros((0, 3), np.float32)}, takes)


def test_arrays_must_agree_on_the_records():
    takes = signature(TensorSpec("x", torch.float32, (2, 3)), TensorSpec("y", torch.float32, (2,)))
    with pytest.raises(DataError, match="axis 0 of every array must be the records"):
        calls({"x": np.zeros((4, 3)), "y": np.zeros(6)}, takes)


def test_records_of_another_dtype_are_converted_and_told():
    takes = signature(TensorSpec("x", torch.float32, (2,)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for same in (np.array([0.5, np.nan]), np.array([1, 2], np.uint8), np.array([0.5, 2], np.float16)):
            assert calls({"x": same}, takes)[0][0].dtype == torch.float32
    with pytest.warns(UserWarning, match="the array 'x' holds float64: rounded to float32"):
        calls({"x": np.array([0.1, 0.2])}, takes)
    integers = signature(TensorSpec("x", torch.int32, (2,)))
    with pytest.raises(DataError, match="'x' holds float64, the model takes int32: convert it"):
        calls({"x": np.array([1.0, 2.0])}, integers)
    with pytest.raises(DataError, match="'x' holds int64 beyond what int32"):
        calls({"x": np.array([1, 2**40])}, integers)
    assert calls({"x": np.array([1, 2])}, integers)[0][0].dtype == torch.int32
