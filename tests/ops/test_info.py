"""The table: looked up by overload, then packet; loaded on the first look; the user's word wins."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from fxopt.ops import OpInfo, is_view, op_info, op_key, register_op, registered_ops
from fxopt.ops.info import Aliasing
from fxopt.ops.table.entry import Draw, call, entry

aten = torch.ops.aten

ZOO = """
_unsafe_view add.Tensor addmm alias arange avg_pool2d batch_norm bitwise_and.Tensor cat chunk
contiguous conv2d conv_transpose2d.input cos cumsum diff dropout embedding eq.Tensor expand
flatten.using_ints gather ge.Scalar gelu group_norm hardtanh index.Tensor layer_norm le.Tensor
linear lstm.input max_pool2d mean.dim mul.Tensor ne.Scalar neg new_ones permute pow.Tensor_Scalar
relu reshape rsqrt scaled_dot_product_attention select.int silu sin slice.Tensor split.Tensor
squeeze.dim sub.Tensor tanh to.device to.dtype to.dtype_layout transpose.int unflatten.int unsqueeze
view zeros
"""
"""What fifteen models export to: CNNs, an MLP, U-Net, LSTM, BERT, GPT-2, Llama, ViT, ConvNeXt."""


@pytest.fixture
def relu() -> Iterator[OpInfo]:
    saved = op_info("aten.relu")
    yield saved
    register_op(saved)


@pytest.mark.parametrize("name", ZOO.split())
def test_the_models_ops_are_in_the_table(name: str) -> None:
    info = op_info(f"aten.{name}")
    assert info.samples is not None


def test_size() -> None:
    assert len(registered_ops()) > 350


def test_keys() -> None:
    assert op_key(aten.add.Tensor) == "aten.add.Tensor"
    assert op_key(aten.relu.default) == "aten.relu.default"
    assert op_key(aten.add) == "aten.add"
    assert op_key("aten.add") == "aten.add"
    assert op_key(len) == "builtins.len"


def test_an_overload_before_its_packet() -> None:
    assert op_info(aten.view.default) is op_info(aten.view) is registered_ops()["aten.view"]
    assert op_info(aten.view.dtype) is registered_ops()["aten.view.dtype"]
    assert op_info("aten.div.Tensor") is registered_ops()["aten.div"]
    assert op_info("aten.div.Tensor_mode").linear_in == ()


def test_an_unknown_op_is_opaque() -> None:
    info = op_info("nowhere.thing.default")
    assert info == OpInfo(op="nowhere.thing.default")


def test_the_users_entry_wins_and_is_seen_at_once(relu: OpInfo) -> None:
    assert not is_view(aten.relu.default)
    mine = register_op(OpInfo(op="aten.relu", aliasing=Aliasing.MAYBE))
    assert op_info(aten.relu.default) is op_info("aten.relu") is mine
    assert is_view(aten.relu.default)


def test_the_table_has_one_entry_an_op() -> None:
    with pytest.raises(ValueError, match=r"aten\.relu is in the table twice"):
        entry("relu", lambda d: [call(d(2))])


def test_samples_repeat() -> None:
    ((first, _), *_), ((second, _), *_) = (list(op_info("aten.linear").samples()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_draws() -> None:
    d = Draw()
    assert d(2, 3).dtype == torch.float64
    assert sorted(d.integers(4, 8).tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(set(d.integers(9, 3).tolist())) == 3
    assert d.mask(4).sum() == 2
    assert d.positive(99).min() >= 0.5
    assert d.unit(99).abs().max() < 1


FRESH = """
import sys
import fxopt.ops
assert "fxopt.ops.table" not in sys.modules
from fxopt.ops import OpInfo, op_info, register_op
mine = register_op(OpInfo(op="aten.relu"))
assert op_info("aten.relu") is mine, "the table came later and replaced it"
assert op_info("aten.linear").index_map
"""


@pytest.mark.parametrize("program", [FRESH, "import fxopt.ops.table.shape"])
def test_the_table_loads_on_the_first_look_in_any_order(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=120)
