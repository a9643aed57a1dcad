"""`fxopt partition`: the table, the plan as JSON, the files, and one line for each mistake."""

import json
from pathlib import Path

import pytest

import fxopt
from fxopt.cli import main
from fxopt.passes.partition import PartitionPlan, Profile

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4))).eval()
    return net, (torch.zeros(32, 64),)
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("split_net.py").write_text(NET)
    links = {"bandwidth": 1e12, "latency": 0.0}
    Path("two.json").write_text(json.dumps({"devices": ["cpu:0", {"name": "cpu:1"}], "links": links}))
    return "split_net.py:build"


def test_the_table_and_the_bound(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["partition", net, "--devices", "two.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["0", "cpu:0", "2"], ["1", "cpu:1", "2"]]
    assert lines[3].startswith("bottleneck ") and "no split is under" in lines[3]


def test_the_plan_as_json_and_the_files(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["partition", net, "--devices", "two.json", "--json", "--output", "out/parts"]) == 0
    output = capsys.readouterr()
    plan = PartitionPlan.from_json(json.loads(output.out))
    assert [len(s.calls) for s in plan.stages] == [2, 2]
    staged = fxopt.load("out/parts")
    assert isinstance(staged, fxopt.Artifact)
    assert staged.target == "stages"


def test_a_pinned_module_and_links_by_name(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    links = [{"between": ["cpu:0", "cpu:1"], "bandwidth": 1e12, "latency": 0.0}]
    Path("named.json").write_text(json.dumps({"devices": ["cpu:0", "cpu:1"], "links": links}))
    assert main(["partition", net, "--devices", "named.json", "--pin", "0=cpu:1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["0", "cpu:1"]


def test_a_picture(net: str) -> None:
    assert main(["partition", net, "--devices", "two.json", "--picture", "plan.svg", "--quiet"]) == 0
    assert "0: cpu:0" in Path("plan.svg").read_text()


def test_another_objective(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["partition", net, "--devices", "two.json", "--objective", "memory"]) == 0
    assert "most weights 33.3 KB; no split is under" in capsys.readouterr().out


def test_times_of_a_file_or_measured_here(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    times = {"linear": 3.0, "linear_1": 1.0, "linear_2": 1.0, "linear_3": 1.0}
    Path("times.json").write_text(Profile(times).dumps())
    assert main(["partition", net, "--devices", "two.json", "--cost", "times.json"]) == 0
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:3]] == ["1", "3"]
    assert main(["partition", net, "--devices", "two.json", "--cost", "profile"]) == 0
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:3]] == ["2", "2"]


def test_devices_that_share_layers(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["partition", net, "--devices", "two.json", "--tensor-parallel", "2"]) == 0
    assert "cpu:0+cpu:1" in capsys.readouterr().out


def test_all_ways_are_told(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--tensor-parallel", "auto", "--replicas", "auto"]
    assert main(["partition", net, "--devices", "two.json", *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "2 replicas; this is one of them" in lines
    table = lines[lines.index("") + 1 :]
    assert table[0].split() == ["way", "bottleneck", "latency", "bubble", "memory", "batches", "a", "second"]
    assert sorted(line[:9] for line in table[1:]) == ["1 x 1 x 2", "1 x 2 x 1", "2 x 1 x 1"]
    assert main(["partition", net, "--devices", "two.json", "--replicas", "2", "--json"]) == 0
    assert PartitionPlan.from_json(json.loads(capsys.readouterr().out)).replicas == 2


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, [], "--devices mine.json can't be read"),
        ("{", [], "--devices mine.json can't be read"),
        ("3", [], '--devices mine.json: expected {"devices"'),
        ('{"device": []}', [], '--devices mine.json: expected {"devices"'),
        ('[{"name": 3}]', [], '--devices mine.json: expected {"devices"'),
        ('{"devices": ["cpu:0"], "links": [{}]}', [], '--devices mine.json: expected {"devices"'),
        ("[]", [], "partition needs a device at least"),
        ('["gpu"]', [], "torch knows no device 'gpu'"),
        ('["cpu:0"]', ["--pin", "0"], "--pin 0: expected MODULE=DEVICE"),
        ('["cpu:0"]', ["--pin", "9=cpu:0"], "no call comes from a module '9'"),
        ('["cpu:0"]', ["--picture", "plan.bmp"], "--picture plan.bmp: a picture is an .svg or a .dot file"),
        ('["cpu:0"]', ["--objective", "speed"], "no objective 'speed'; they are throughput, latency, memory"),
        ('["cpu:0"]', ["--cost", "none.json"], "cost none.json: No such file"),
        (
            '["cpu:0"]',
            ["--tensor-parallel", "two"],
            "--tensor-parallel two: expected auto, or a number from 1",
        ),
        ('["cpu:0"]', ["--replicas", "0"], "--replicas 0: expected auto, or a number from 1 up"),
        ('["cpu:0"]', ["--tensor-parallel", "2"], 'tensor_parallel is 2; expected "auto", or 1 to 1'),
        ('["cpu:0"]', ["--time-limit", "0"], "--time-limit 0: expected seconds above 0"),
        ('["cpu:0"]', ["--target", "onxn"], "unknown target 'onxn'; did you mean 'onnx'?"),
        ('["cpu:0"]', ["--output", "."], "folder of something else"),
        ('["cuda:0"]', ["--output", "parts"], "a stage is to run on 'cuda:0'"),
    ],
)
def test_mistakes(
    net: str, capsys: pytest.CaptureFixture[str], content: str | None, options: list[str], message: str
) -> None:
    if content is not None:
        Path("mine.json").write_text(content)
    assert main(["partition", net, "--devices", "mine.json", *options]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[-1].startswith("fxopt: error: ") and message in output.err
    assert not Path("parts").exists()
