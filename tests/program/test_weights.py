import copy

import pytest
import safetensors.torch
import torch
from torch import nn

from fxopt.errors import ArtifactError
from fxopt.program.weights import PackedWeights, compact, pack_weights, tighten, unpack_weights

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.uint16, torch.bool, torch.float8_e4m3fn, torch.float8_e8m0fnu,
]  # fmt: skip


def content(packed: PackedWeights) -> bytes:
    return b"".join(packed.buffers)


def unpack(packed: PackedWeights, data: bytes | None = None) -> dict[str, torch.Tensor]:
    data = content(packed) if data is None else data
    return unpack_weights(packed.table, packed.storages, memoryview(bytearray(data)))


def assert_same(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    assert list(before) == list(after)
    for name, tensor in before.items():
        other = after[name]
        assert (other.dtype, other.shape, other.stride()) == (tensor.dtype, tensor.shape, tensor.stride()), (
            name
        )
        assert (type(other), other.requires_grad) == (type(tensor), tensor.requires_grad), name
        assert bytes(other.detach().reshape(-1).view(torch.uint8)) == bytes(
            tensor.detach().reshape(-1).view(torch.uint8)
        ), name


def overlapping() -> dict[str, torch.Tensor]:
    whole = torch.randn(30)
    return {"all": whole, "head": whole[:10], "square": whole[5:].view(5, 5).t()}


CASES: dict[str, dict[str, torch.Tensor]] = {
    "plain": {"w": torch.randn(3, 4), "b": torch.randn(3)},
    "dtypes": {str(d): torch.randint(0, 2, (3, 5)).to(d) for d in DTYPES},
    "no dimension": {"scalar": torch.tensor(2.5), "flag": torch.tensor(True)},
    "no elements": {"none": torch.zeros(0, 3), "nor here": torch.zeros(2, 0, 2, dtype=torch.int64)},
    "transposed": {"w": torch.randn(4, 3).t(), "cube": torch.randn(2, 3, 4).permute(2, 0, 1)},
    "channels last": {"w": torch.randn(8, 1, 3, 3).to(memory_format=torch.channels_last)},
    "expanded": {"w": torch.randn(3, 1).expand(3, 4)},
    "overlapping": overlapping(),
    "special values": {"w": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])},
    "parameters": {
        "p": nn.Parameter(torch.randn(2)),
        "frozen": nn.Parameter(torch.randn(2), requires_grad=False),
        "buffer": torch.randn(2),
        "trained": torch.randn(2, requires_grad=True),
    },
    "names": {"a.b.0.weight": torch.ones(1), "ümlaut": torch.ones(2), "": torch.ones(3)},
    "nothing": {},
}


@pytest.mark.parametrize("case", CASES)
def test_weights_come_back_as_they_were(case: str):
    assert_same(CASES[case], unpack(pack_weights(CASES[case])))


@pytest.mark.parametrize("case", CASES)
def test_others_can_read_the_file(case: str):
    packed = pack_weights(CASES[case])
    read = safetensors.torch.load(content(packed))
    assert set(read) == {s["name"] for s in packed.storages}
    for name, tensor in CASES[case].items():
        if name in read and tensor.is_contiguous() and case != "overlapping":
            assert bytes(read[name].reshape(-1).view(torch.uint8)) == bytes(
                tensor.detach().reshape(-1).view(torch.uint8)
            )


def test_the_same_weights_give_the_same_bytes():
    first, second = (pack_weights({k: v.clone() for k, v in CASES["dtypes"].items()}) for _ in range(2))
    assert content(first) == content(second)
    assert first.table == second.table


def test_contiguous_weights_are_not_copied():
    weight = torch.randn(100)
    packed = pack_weights({"w": weight})
    weight[0] = 42.0
    assert content(packed).endswith(bytes(weight.view(torch.uint8)))


def test_overlapping_weights_stay_shared():
    after = unpack(pack_weights(overlapping()))
    after["all"][6] = 42.0
    assert after["head"][6] == after["square"][1, 0] == 42.0


def test_memory_between_rows_is_not_written():
    secret = torch.full((100, 10), 7.25)
    view = secret[:, :2]
    view.zero_()
    packed = pack_weights({"w": view})
    assert sum(len(b) for b in packed.buffers) < 1000
    assert b"\x00\x00\xe8\x40" not in content(packed)
    assert torch.equal(unpack(packed)["w"], view)


def test_weights_on_meta_keep_shape_and_dtype():
    after = unpack(pack_weights({"w": torch.empty(1000, 1000, dtype=torch.bfloat16, device="meta")}))
    assert after["w"].is_meta
    assert after["w"].shape == (1000, 1000)
    assert after["w"].dtype == torch.bfloat16


def test_sparse_weights_are_refused():
    with pytest.raises(ArtifactError, match=r"'w' has the layout torch\.sparse_coo"):
        pack_weights({"w": torch.eye(3).to_sparse()})


def damage(packed: PackedWeights, table: str, key: str, value: object) -> PackedWeights:
    twin = copy.deepcopy(PackedWeights(packed.table, packed.storages))
    getattr(twin, table)[0][key] = value
    return PackedWeights(twin.table, twin.storages, packed.buffers)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("table", "shape", [100, 100]),
        ("table", "shape", [3]),
        ("table", "shape", [-1, 4]),
        ("table", "shape", [1.5, 4]),
        ("table", "shape", "x"),
        ("table", "stride", [1 << 61, 1 << 61]),
        ("table", "stride", [-4, 1]),
        ("table", "offset", 5),
        ("table", "offset", True),
        ("table", "dtype", "float64"),
        ("table", "dtype", "nn"),
        ("table", "dtype", 3),
        ("table", "storage", "other"),
        ("table", "storage", None),
        ("table", "device", "warp:9"),
        ("storages", "shape", [3, 5]),
        ("storages", "shape", [1 << 40, 1 << 40]),
        ("storages", "dtype", "float16"),
        ("storages", "name", "other"),
    ],
)
def test_a_table_that_lies_is_refused(table: str, key: str, value: object):
    packed = damage(pack_weights({"w": torch.randn(3, 4)}), table, key, value)
    with pytest.raises(ArtifactError, match=r"table of weights|unknown dtype"):
        unpack(packed)


@pytest.mark.parametrize("table", [None, {}, [1], [[]], [{}], "x"])
def test_a_table_of_another_form_is_refused(table: object):
    packed = pack_weights({"w": torch.randn(3, 4)})
    with pytest.raises(ArtifactError, match="table of weights"):
        unpack(PackedWeights(table, packed.storages, packed.buffers))  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="table of weights"):
        unpack(PackedWeights(packed.table, table, packed.buffers))  # type: ignore[arg-type]


def test_another_head_is_refused():
    packed = pack_weights({"w": torch.randn(3, 4)})
    data = content(packed).replace(b'"F32"', b'"I32"')
    with pytest.raises(ArtifactError, match="head"):
        unpack(packed, data)


@pytest.mark.parametrize("case", CASES)
def test_tightened_weights_are_the_same(case: str):
    assert_same(
        {k: v.detach() for k, v in CASES[case].items()},
        tighten({k: v.detach() for k, v in CASES[case].items()}),
    )


def test_a_view_is_copied_out_of_large_memory():
    large = torch.randn(1000)
    tight = tighten({"w": large[10:20].view(2, 5), "other": large[500:510]})
    assert {n: t.untyped_storage().nbytes() for n, t in tight.items()} == {"w": 40, "other": 40}


def test_compact_closes_gaps_and_keeps_the_order_of_dimensions():
    strided = torch.randn(6, 8, 10)[::2, :, ::5].permute(2, 0, 1)
    tight = compact(strided)
    assert torch.equal(tight, strided)
    assert tight.stride() == (1, 16, 2)
