"""Shell completion: what it offers is what there is."""

import os
import subprocess
import sys

import pytest

from fxopt.cli.completion import pass_names, pipeline_names, target_names, ways_to_use
from fxopt.lowering import get_target
from fxopt.lowering.target import target_names as registered
from fxopt.pipeline import registry
from fxopt.pipeline.named import NAMED


def test_the_names_are_those_of_the_registries():
    built_in = {name for name, cls in registry.all().items() if cls.__module__.startswith("fxopt.passes.")}
    assert set(pass_names("")) == built_in | set(NAMED)
    assert [get_target(name).name for name in target_names("")] == target_names("")
    targets = {n for n in registered() if type(get_target(n)).__module__.startswith("fxopt.")}
    assert set(target_names("")) == targets


def test_the_last_pass_of_a_pipeline_is_completed():
    assert pipeline_names("O1,fuse-c") == ["O1,fuse-conv-bn"]
    assert pipeline_names("O") == ["O0", "O1", "O2"]


def test_ways_to_use_devices():
    assert ways_to_use("a") == ["auto"]
    assert ways_to_use("") == ["auto", "1", "2", "4", "8"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("fxopt partition net.py:build --replicas a", "auto"),
        ("fxopt partition net.py:build --tensor-parallel a", "auto"),
        ("fxopt opt", "optimize"),
        ("fxopt passes fuse-conv", "fuse-conv-bn"),
        ("fxopt optimize net.py:build --target on", "onnx onnx:onnxruntime onnx:tensorrt onnx:mobile"),
    ],
)
def test_bash(words: str, offered: str):
    environment = {
        **os.environ,
        "_FXOPT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    done = subprocess.run(
        [sys.executable, "-m", "fxopt"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == offered.split()
