"""What the README shows can be run as it stands."""

import re
from pathlib import Path

import pytest

from fxopt.cli.app import app, main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "net.py", "exec"), {"__name__": "__main__"})
    shape, verdict = capsys.readouterr().out.splitlines()
    assert shape == "torch.Size([5, 10])"
    assert verdict.startswith("equivalent")
    Path("net.py").write_text(code)
    lines = re.findall(r"^fxopt (.*)$", README, re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["optimize", "verify", "bench", "passes"]
    for line in (line for line in lines if not line.startswith("bench")):
        assert main(line.split()) == 0, line
    assert Path("out/model.onnx").is_file()


def test_the_verbs_exist():
    verbs = {command.callback.__name__ for command in app.registered_commands}
    shown = set(re.findall(r"^fxopt (\w+)", README, re.MULTILINE))
    assert shown
    assert shown <= verbs


def test_the_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert set(re.findall(r"make ([a-z]+)\b", text)) - {"an"} <= targets


def test_the_files_that_it_names_exist():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
