"""Sums over what weights see, and how the weights are gone through in parts."""

import pytest
import torch
import torch.nn.functional as F

from fxopt.analysis.channels import Coupling, Product
from fxopt.errors import InputError
from fxopt.passes.prune import _moments
from fxopt.passes.prune._moments import Moments, matrix_of, moments_of, own_bias, readers_of, weight_of
from fxopt.program import Program
from tests.passes.helpers import program, rand


def readers(p: Program) -> dict[str, Product]:
    return readers_of(Coupling.compute(p).demand.constants.products)


def chain(x: torch.Tensor, **weights: torch.Tensor) -> torch.Tensor:
    for weight in weights.values():
        x = F.linear(x, weight).relu()
    return x


def square(count: int, size: int = 4) -> Program:
    return program(chain, rand(6, size), **{f"w{i}": rand(size, size, seed=i) for i in range(count)})


def test_means_and_products() -> None:
    one, other = rand(5, 3).double(), rand(2, 3, seed=1).double()
    sums = Moments()
    sums.add(one)
    both = Moments()
    both.add(other)
    both = both + sums
    rows = torch.cat([one, other])
    assert both.count == 7 and both.is_finite
    assert torch.allclose(both.mean, rows.mean(0), rtol=1e-12)
    assert torch.allclose(both.gram(centred=False), rows.T @ rows / 7, rtol=1e-12)
    assert torch.allclose(both.gram(centred=True), torch.cov(rows.T, correction=0), rtol=1e-12)
    both.add(torch.full((1, 3), torch.inf))
    assert not both.is_finite


@pytest.mark.parametrize(
    ("most", "parts"), [(1024, [4]), (1023, [3, 1]), (512, [2, 2]), (511, [1, 1, 1, 1]), (1, [1, 1, 1, 1])]
)
def test_sums_held_at_once(monkeypatch: pytest.MonkeyPatch, most: int, parts: list[int]) -> None:
    """Those of a row of four take 2 * 4 * 4 numbers of 8 bytes."""
    monkeypatch.setattr(_moments, "_BYTES", most)
    found = readers(square(4))
    assert [list(p) for p in _moments._parts(found)] == [
        list(found)[sum(parts[:i]) : sum(parts[: i + 1])] for i in range(len(parts))
    ]
    assert list(_moments._parts({})) == []


def test_parts_see_the_same_and_halves_are_of_even_and_odd_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    before = square(3)
    data = [rand(6, 4, seed=s) for s in range(3)]
    whole = dict(moments_of(before, readers(before), data, "test"))
    monkeypatch.setattr(_moments, "_BYTES", 1)
    single = dict(moments_of(before, readers(before), iter(data), "test"))
    assert list(whole) == list(single) == ["w0", "w1", "w2"]
    for name, halves in whole.items():
        assert [h.count for h in halves] == [12, 6]
        for one, other in zip(halves, single[name], strict=True):
            assert torch.equal(one.gram(centred=True), other.gram(centred=True))
    even = torch.cat([data[0], data[2]]).double()
    assert torch.allclose(whole["w0"][0].mean, even.mean(0))


def test_a_single_record_without_a_batch() -> None:
    before = program(F.linear, rand(4), weight=rand(3, 4))
    ((_, (even, _)),) = moments_of(before, readers(before), [rand(4, seed=1)], "test")
    assert even.count == 1
    assert torch.allclose(even.mean, rand(4, seed=1).double())


def test_what_a_window_sees() -> None:
    before = program(
        lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1),
        rand(2, 3, 5, 5),
        w=rand(4, 3, 3, 3),
        b=rand(4),
    )
    (product,) = readers(before).values()
    x = rand(2, 3, 5, 5, seed=1)
    seen = _moments._features(product, x)
    windows = F.unfold(x, 3, padding=1, stride=2).transpose(1, 2).flatten(0, 1)
    assert torch.allclose(seen, windows)


def test_a_weight_and_its_matrix() -> None:
    before = program(lambda x, w: F.conv_transpose2d(x, w), rand(2, 3, 5, 5), w=rand(3, 4, 2, 2))
    (product,) = readers(before).values()
    weight = before.weights["w"]
    matrix = matrix_of(product, weight)
    assert matrix.shape == (4, 12)
    assert torch.equal(matrix[1], weight[:, 1].flatten())
    assert torch.equal(weight_of(product, matrix, weight), weight)


def test_readers_are_weights_of_one_call_whose_rows_see_all_channels() -> None:
    def net(
        x: torch.Tensor, d: torch.Tensor, g: torch.Tensor, s: torch.Tensor, w: torch.Tensor
    ) -> torch.Tensor:
        x = F.conv1d(x, d, groups=4)
        x = F.conv1d(F.conv1d(F.conv1d(x, g, groups=2), s), s)
        return F.conv1d(x, w)

    before = program(net, rand(2, 4, 6), d=rand(4, 1, 1), g=rand(4, 2, 1), s=rand(4, 4, 1), w=rand(3, 4, 1))
    assert list(readers(before)) == ["w"]


def test_a_bias_of_its_own() -> None:
    def net(
        x: torch.Tensor, w: torch.Tensor, v: torch.Tensor, u: torch.Tensor, b: torch.Tensor, c: torch.Tensor
    ):
        return F.linear(F.linear(F.linear(x, w, b), v, b), u, c), F.linear(x, w + 0)

    before = program(net, rand(2, 4), w=rand(4, 4), v=rand(4, 4), u=rand(4, 4), b=rand(4), c=rand(4))
    found = {name: own_bias(p) for name, p in readers(before).items()}
    assert found == {"v": None, "u": "c"}
    assert [own_bias(p) for p in readers(square(1)).values()] == [None]


def test_no_data() -> None:
    before = square(1)
    with pytest.raises(InputError, match="the calibration data is empty: refitting needs at least one batch"):
        list(moments_of(before, readers(before), [], "refitting"))
