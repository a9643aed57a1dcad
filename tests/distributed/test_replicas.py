"""Several copies of all stages in processes of their own: each record once, in order, whoever is killed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fxopt
from fxopt.distributed.pipeline import _Place
from fxopt.distributed.shards import among
from fxopt.lowering import lower
from fxopt.passes.partition import Link, PartitionPlan, partition
from tests.distributed import processes, test_processes
from tests.distributed.models import ids, words
from tests.traced import traced

NEAR = Link(bandwidth=1e12, latency=0.0)


class TestShares:
    @given(st.lists(st.integers(1, 1000), max_size=60), st.integers(1, 6))
    def test_each_shard_once_and_no_share_is_far_from_the_least(self, costs: list[int], count: int) -> None:
        dearest_first = dict(enumerate(sorted(costs, reverse=True)))
        found = among(dearest_first, count)
        assert sorted(shard for own in found for shard in own) == list(dearest_first)
        totals = [sum(dearest_first[s] for s in own) for own in found]
        assert max(totals) - min(totals) <= max(costs, default=0)

    def test_the_dearest_goes_to_who_has_the_least(self) -> None:
        assert among({7: 5, 3: 4, 1: 3, 2: 3, 0: 1}, 2) == [[7, 2], [3, 1, 0]]


class TestPlaces:
    def test_two_replicas_of_two_stages_that_two_share(self) -> None:
        places = [_Place(r, r % 4, 4, r // 4, 2, 2) for r in range(8)]
        assert [p.before for p in places] == [None, None, 0, 1, None, None, 4, 5]
        assert [p.behind for p in places] == [2, 3, None, None, 6, 7, None, None]
        assert [p.last for p in places] == [3] * 4 + [7] * 4


@pytest.mark.slow
class TestProcesses:
    @pytest.mark.parametrize(("sharers", "devices"), [(1, 2), (2, 2)])
    def test_what_the_program_gives_in_order(self, tmp_path: Path, sharers: int, devices: int) -> None:
        program = traced("gpt2", True)
        plan = partition(
            program,
            [f"cpu:{i}" for i in range(2 * devices)],
            tensor_parallel=sharers,
            replicas=2,
            links=NEAR,
            time_limit=2,
        )
        assert (plan.replicas, plan.tensor_parallel * len(plan.stages)) == (2, devices)
        lower(plan, "stages", path=tmp_path / "parts")
        words = torch.randint(0, 20, (30, 12), generator=torch.Generator().manual_seed(0))
        np.savez(tmp_path / "x.npz", **{program.signature.inputs[0].name: words.numpy()})
        options = ["--data", "x.npz", "--output", "y.npz", "--batch", "4"]
        run = processes.launch(
            "parts", *options, module="fxopt.distributed", home=tmp_path, processes=2 * devices
        )
        _, told = run.communicate(timeout=180)
        assert run.returncode == 0, told
        (found,) = np.load(tmp_path / "y.npz").values()
        expected = program(words)
        assert isinstance(expected, torch.Tensor)
        assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)

    def test_whoever_is_killed_nothing_is_lost_or_done_twice(self, folder: Path, tmp_path: Path) -> None:
        how = test_processes.STAGES
        assert test_processes.kills(how, folder, tmp_path / "y.npz", 3, seed=1, processes=4) >= 3

    def test_machines_that_hold_their_own_stage_alone(self, folder: Path, tmp_path: Path) -> None:
        port, runs = processes.free_port(), []
        for number in range(2):
            home = tmp_path / str(number)
            (home / "stages").mkdir(parents=True)
            for name in ("stages.json", f"stage{number}.onnx"):
                shutil.copy(folder / "stages" / name, home / "stages")
            meeting = ["--nnodes", "2", "--node-rank", str(number), "--master-addr", "127.0.0.1"]
            meeting += ["--master-port", str(port)]
            options = ["stages", "--data", str(folder / "short.npz"), "--output", "y.npz", "--batch", "4"]
            runs.append(
                processes.launch(
                    *options, module="fxopt.distributed", home=home, processes=1, rendezvous=meeting
                )
            )
        for run in runs:
            _, told = run.communicate(timeout=120)
            assert run.returncode == 0, told
        assert test_processes.same(tmp_path / "0" / "y.npz", folder, "short")
        assert [f.name for f in (tmp_path / "1").iterdir()] == ["stages"]

    def test_bad_records_of_both(self, folder: Path, tmp_path: Path) -> None:
        x = ids(400)
        bad = [3, 199, 200, 399]
        x[bad] = 11
        np.savez(tmp_path / "bad.npz", ids=x.numpy())
        run = test_processes.start(
            test_processes.STAGES,
            folder,
            tmp_path / "y.npz",
            data=str(tmp_path / "bad.npz"),
            home=tmp_path,
            processes=4,
        )
        _, told = run.communicate(timeout=120)
        assert run.returncode == 1, told
        assert np.flatnonzero(np.isnan(np.load(tmp_path / "y.npz")["mean"]).any(1)).tolist() == bad


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stages, data, and what one process makes of it."""
    path = tmp_path_factory.mktemp("run")
    plan: PartitionPlan = partition(words(), ["cpu:0", "cpu:1"], links=NEAR)
    artifact = lower(plan, "stages", path=path / "stages", stage_target="onnx", verify=False)
    x = ids(test_processes.RECORDS // 10)
    np.savez(path / "short.npz", ids=x.numpy())
    fxopt.run(artifact, {"ids": x}, output=path / "short.expected.npz", batch=4)
    return path
