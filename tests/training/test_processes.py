"""Under torchrun the same script trains on its share of the batches in each process."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import fxopt
from tests.training.taught import pair, same_weights
from tests.training.test_loop import cross_entropy

ROOT = Path(__file__).parents[2]

SCRIPT = """
import os, sys
import torch, fxopt
from tests.training.taught import pair
from tests.training.test_loop import Score, cross_entropy

torch.set_num_threads(1)
teacher, student, data = pair()
tuned = fxopt.finetune(student, data, loss=cross_entropy, epochs=3, learning_rate=0.01, dropout=False,
                       metric=Score(data), checkpoint=sys.argv[1] + "/run")
tuned.save(sys.argv[1] + "/rank" + os.environ.get("RANK", "0") + ".fxopt")
"""


@pytest.mark.slow
def test_two_processes_train_as_one_on_batches_twice_as_large(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (fxopt.load(tmp_path / f"rank{i}.fxopt") for i in range(2))
    assert isinstance(first, fxopt.Program) and isinstance(second, fxopt.Program)
    assert same_weights(first, second)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["best.fxopt", "checkpoint.train"]

    _, student, data = pair()
    merged = [
        tuple(torch.cat(both) for both in zip(*data[i : i + 2], strict=True)) for i in range(0, len(data), 2)
    ]
    alone = fxopt.finetune(
        student, merged, loss=cross_entropy, epochs=3, learning_rate=0.01, dropout=False, validation=data
    )
    for name, weight in alone.weights.items():
        torch.testing.assert_close(first.weights[name], weight, rtol=1e-4, atol=1e-5)
