"""What is installed and built: requirements, exact versions, the wheel's content, the make targets."""

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fxopt

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]
PINNED = {
    canonicalize_name(name): version
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE
    )
}


def test_base_dependencies():
    names = {Requirement(text).name for text in PROJECT["dependencies"]}
    assert names == {
        "torch", "networkx", "onnx", "onnxsim", "onnxscript", "numpy", "safetensors", "rich", "typer",
    }  # fmt: skip


@pytest.mark.parametrize("text", sorted(set(REQUIREMENTS)))
def test_every_requirement_is_pinned_within_its_range(text: str):
    requirement = Requirement(text)
    assert requirement.specifier, f"{text} has no range"
    assert PINNED[canonicalize_name(requirement.name)] in requirement.specifier


def test_constraints_are_exact():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    loose = [
        line for line in lines if not line.startswith("#") and not re.fullmatch(r"[\w.-]+==[\w.]+", line)
    ]
    assert not loose


def test_import_name_of_the_links():
    """The links at the root are for readers; imported under those names, every class would exist twice."""
    for name in ("passes", "lowering"):
        assert (ROOT / name).resolve() == ROOT / "fxopt" / name
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {name}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert re.search(r"ImportError: .*fxopt", done.stderr), done.stderr


def test_the_typed_marker_is_there():
    assert (ROOT / "fxopt" / "py.typed").is_file()


def test_ci_runs_the_readme_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_version_is_in_one_place():
    assert PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", fxopt.__version__)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None, reason="builds with the environment's setuptools"
)
def test_the_wheel_has_the_package_and_nothing_else(tmp_path: Path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    info = f"fxopt-{fxopt.__version__}.dist-info/"
    assert {name for name in inside if not name.startswith(("fxopt/", info))} == set()
    sources = {f.relative_to(ROOT).as_posix() for f in (ROOT / "fxopt").rglob("*.py")}
    assert sources | {"fxopt/py.typed"} <= inside
