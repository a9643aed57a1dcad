"""Model factories: what they return, and one line for each way in which they go wrong."""

from pathlib import Path

import pytest
import torch

from fxopt.errors import PipelineError
from fxopt.factories import UserCodeError, read_factory, read_function, split_factory


def write(folder: Path, source: str, name: str = "net_of_user.py") -> Path:
    path = folder / name
    path.write_text(source, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/net.py:build", (Path("a/net.py"), "build")),
        ("c:/net.py:build", (Path("c:/net.py"), "build")),
        ("net.pt2", None),
        ("net.py", None),
        ("a:b", None),
    ],
)
def test_split(text: str, expected: object):
    assert split_factory(text) == expected


@pytest.mark.parametrize(
    ("returned", "args", "kwargs"),
    [
        ("('model', (1, 2))", (1, 2), {}),
        ("('model', [1])", (1,), {}),
        ("('model', 1)", (1,), {}),
        ("('model', (), {'a': 1})", (), {"a": 1}),
    ],
)
def test_a_factory_is_read(tmp_path: Path, returned: str, args: object, kwargs: object):
    source = read_factory(write(tmp_path, f"def build():\n    return {returned}\n"), "build")
    assert (source.name, source.model, source.args, source.kwargs) == ("build", "model", args, kwargs)


def test_a_factory_can_import_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.path", ["/nowhere"])
    write(tmp_path, "ANSWER = 42\n", "neighbour_of_net.py")
    path = write(tmp_path, "from neighbour_of_net import ANSWER\n\ndef build():\n    return ANSWER, ()\n")
    assert read_factory(path, "build").model == 42


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def bild(): ...\n", r"has no function 'build'; did you mean 'bild'\?"),
        ("def make(): ...\n", "has no function 'build'; it defines make"),
        ("build = 3\n", "has no function 'build'"),
        ("def build(): return 3\n", r"returned a int; expected \(model, args\) or \(model, args, kwargs\)"),
        ("def build(): return 1, 2, 3, 4\n", "returned a tuple of 4; expected"),
        ("def build(): return 1, {}\n", "a dict as args"),
        ("def build(): return 1, (), 5\n", "a int as kwargs"),
        ("def build(needed): ...\n", r"build failed: .*needed"),
        ("import no_such_module_anywhere\n", r"net_of_user\.py:1: ModuleNotFoundError: No module"),
        ("def build(:\n", r"can't be imported: net_of_user\.py:1: SyntaxError"),
        ("\ndef build():\n    return 1 / 0\n", r"net_of_user\.py:3: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(4)\n", r"net_of_user\.py:2: SystemExit: 4"),
        ("import sys\ndef build():\n    sys.exit()\n", r"net_of_user\.py:3: SystemExit"),
    ],
)
def test_a_wrong_factory_is_one_line(tmp_path: Path, source: str, message: str):
    with pytest.raises(UserCodeError, match=message) as caught:
        read_factory(write(tmp_path, source), "build")
    assert "\n" not in str(caught.value)


def test_random_weights_are_the_same_in_a_metric(tmp_path: Path):
    path = write(
        tmp_path,
        "import torch\ndef build():\n    return torch.rand(3), ()\ndef metric(run):\n    return build()[0]\n",
    )
    before = torch.random.get_rng_state()
    assert torch.equal(read_factory(path, "build").model, read_function(path, "metric")(None))  # type: ignore[arg-type]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(UserCodeError, match="does not exist"):
        read_factory(tmp_path / "missing.py", "build")


def test_an_error_of_fxopt_in_user_code_stays_itself(tmp_path: Path):
    path = write(tmp_path, "import fxopt\nraise fxopt.PipelineError('two owners')\n")
    with pytest.raises(PipelineError, match="two owners"):
        read_factory(path, "build")
