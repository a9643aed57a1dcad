"""How long calls take: kinds, rates, files of either."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt.errors import InputError
from fxopt.frontend import trace
from fxopt.passes.partition import Profile, Rates, read_cost
from fxopt.passes.partition._times import DEFAULT_RATES, kind_of, seconds_of


class Kinds(nn.Module):
    """A call of each kind."""

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            F.conv2d(x, w),
            F.conv2d(x, w[:, :, :1, :1]),
            F.conv2d(x, w[:, :, :, :1]),
            F.conv2d(x, w[:, :, :1, :]),
            F.conv1d(x[:, :, 0], w[:, :, 0]),
            F.conv2d(x, w[:, :1], groups=4),
            F.conv_transpose2d(x, w),
            F.max_pool2d(x, 2),
            F.linear(x, w[0, 0, :, :1].expand(3, 8)),
            x.gelu() if hasattr(x, "gelu") else F.gelu(x),
            x.cumsum(0),
        )


def test_kinds() -> None:
    program = trace(Kinds().eval(), (torch.zeros(2, 4, 8, 8), torch.zeros(4, 4, 3, 3)))
    kinds = [kind_of(n) for n in program.calls()]
    assert [k for k in kinds if k != "other"] == [
        "convolution",
        "pointwise convolution",
        "convolution",
        "convolution",
        "convolution",
        "grouped convolution",
        "transposed convolution",
        "window",
        "product",
        "elementwise",
    ]


class TestRates:
    PROGRAM = trace(
        nn.Sequential(nn.Linear(100, 50), nn.GELU(), nn.Flatten(0), nn.ReLU()).eval(), torch.zeros(10, 100)
    )

    def times(self, rates: Rates) -> list[float]:
        return [round(s, 9) for s in seconds_of(self.PROGRAM, rates).values()]

    def test_operations_or_bytes_whichever_take_longer(self) -> None:
        assert self.times(Rates(1e9, 1e12, 1e-6)) == pytest.approx([101e-6, 1.5e-6, 0.0, 1.5e-6], rel=1e-2)
        assert self.times(Rates(1e12, 1e9, 0.0)) == pytest.approx([26.2e-6, 4e-6, 0.0, 4e-6], rel=1e-2)

    def test_an_op_its_kind_and_views_may_have_their_own(self) -> None:
        slow = Rates(1e30, 1e30, 1.0)
        assert self.times(Rates(1e30, 1e30, 0.0, {"product": slow})) == [1.0, 0.0, 0.0, 0.0]
        assert self.times(Rates(1e30, 1e30, 0.0, {"elementwise": slow})) == [0.0, 1.0, 0.0, 1.0]
        assert self.times(Rates(1e30, 1e30, 0.0, {"view": slow})) == [0.0, 0.0, 1.0, 0.0]
        assert self.times(
            Rates(1e30, 1e30, 0.0, {"elementwise": slow, "aten.gelu": Rates(1e30, 1e30, 2.0)})
        ) == [
            0.0,
            2.0,
            0.0,
            1.0,
        ]

    def test_the_usual_ones(self) -> None:
        assert seconds_of(self.PROGRAM) == seconds_of(self.PROGRAM, DEFAULT_RATES)
        assert all(s > 0 for s in seconds_of(self.PROGRAM).values())

    def test_numbers_take_no_time(self) -> None:
        program = trace(Sized().eval(), (torch.zeros(2, 3),), dynamic_shapes=({0: "batch"},))
        times = {n.name: s for n, s in seconds_of(program, Rates(1.0, 1.0, 1.0)).items()}
        assert {name: s == 0 for name, s in times.items()} == {
            "sym_size": True,
            "add": True,
            "new_zeros": False,
        }

    def test_several_results_are_one_call(self) -> None:
        program = trace(Several().eval(), (torch.zeros(2, 3),))
        times = list(seconds_of(program, Rates(1.0, 1e30, 1.0, {"view": Rates(1.0, 1.0, 5.0)})).values())
        assert times == [7.0, 0.0, 0.0, 3.0]

    @pytest.mark.parametrize(
        "numbers", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, -1.0), (float("nan"), 1.0, 0.0)]
    )
    def test_what_are_no_rates_is_one_line(self, numbers: tuple[float, float, float]) -> None:
        with pytest.raises(InputError, match="flops and bandwidth must be above zero"):
            Rates(*numbers)

    def test_the_table(self) -> None:
        rates = Rates(2e9, 3e9, 4e-6, {"view": Rates(1e9, 2.5e9, 1e-6)}, "here")
        lines = [line.split() for line in rates.table().splitlines()]
        assert lines == [
            ["calls", "GFLOP/s", "GB/s", "a", "call"], ["view", "1.0", "2.5", "1.0", "us"],
            ["all", "others", "2.0", "3.0", "4.0", "us"], ["here"],
        ]  # fmt: skip
        assert len(Rates().table().splitlines()) == 2
        assert (Rates().flops, Rates().bandwidth, Rates().overhead) == (5e10, 2.4e10, 8e-6)


class Sized(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(x.shape[0] + 1)


class Several(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values, places = x.max(1)
        return values + places


class TestFiles:
    def test_rates_and_profiles(self, tmp_path: Path) -> None:
        file = tmp_path / "cost.json"
        for cost in (Rates(1.0, 2.0, 3.0, {"view": Rates()}, "here"), Profile({"linear": 1.0}, "here")):
            file.write_text(cost.dumps())
            assert read_cost(file) == cost
            assert read_cost(str(file)) == cost

    @pytest.mark.parametrize("content", ["{", "3", '{"flops": "x"}', '{"seconds": 3}', '{"flops": 0}'])
    def test_what_is_neither_is_one_line(self, tmp_path: Path, content: str) -> None:
        file = tmp_path / "cost.json"
        file.write_text(content)
        with pytest.raises(InputError, match=r"cost .*: expected rates|rates: flops") as error:
            read_cost(file)
        assert "\n" not in str(error.value)

    def test_a_file_that_is_not_there(self) -> None:
        with pytest.raises(InputError, match=r"cost none\.json: No such file"):
            read_cost("none.json")

    def test_a_profile_of_another_program(self) -> None:
        with pytest.raises(InputError, match="which is no call"):
            seconds_of(TestRates.PROGRAM, Profile(json.loads('{"conv2d": 1.0}')))
