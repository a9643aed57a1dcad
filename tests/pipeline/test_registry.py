"""The registry: one owner a name, entry points, plugins."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

import fxopt
from fxopt.errors import PipelineError
from fxopt.pipeline import Pass, PassManager, load_plugin, register_pass, registry
from fxopt.pipeline.registry import PassRegistry
from fxopt.rewriting import Rewriter

MODULE = sys.modules["fxopt.pipeline.registry"]


def pass_of(name: str, module: str = __name__) -> type[Pass]:
    return type(
        name, (Pass,), {"__doc__": "Does nothing.", "__module__": module, "run": lambda self, r: None}
    )


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> PassRegistry:
    """What a test registers is gone afterwards."""
    monkeypatch.setattr(registry, "_passes", registry.all())
    return registry


def test_the_same_class_again_replaces_it() -> None:
    first, second = pass_of("Again"), pass_of("Again")
    assert register_pass(first) is first
    register_pass(second)
    assert registry.get("again") is second


def test_another_owner_of_a_name_is_an_error_that_names_both() -> None:
    register_pass(pass_of("Mine", "some.package"))
    with pytest.raises(
        PipelineError, match=r"'mine' of other\.package\.Mine is taken by some\.package\.Mine"
    ):
        register_pass(pass_of("Mine", "other.package"))


@pytest.mark.parametrize("name", ["O0", "Clean", "Fixpoint"])
def test_the_names_of_pipelines_are_taken(name: str) -> None:
    known = {"O0": "o0"}.get(name, name.lower())
    if known in ("clean", "fixpoint"):
        with pytest.raises(PipelineError, match="is taken by a named pipeline"):
            register_pass(pass_of(name))


@pytest.mark.parametrize("thing", [3, int, lambda: None, Rewriter])
def test_only_passes_are_registered(thing: object) -> None:
    with pytest.raises(PipelineError, match=r"is not a subclass of fxopt\.Pass"):
        register_pass(thing)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("fold-constant", "fold-constants"),
        ("fold_constants", "fold-constants"),
        ("FoldConstants", "fold-constants"),
        ("o1", "O1"),
        ("fixpont", "fixpoint"),
    ],
)
def test_the_nearest_name_is_offered(wrong: str, right: str) -> None:
    with pytest.raises(PipelineError, match=f"unknown pass '{wrong}'; did you mean '{right}'"):
        PassManager.parse(wrong)


def test_a_name_that_is_near_none() -> None:
    with pytest.raises(PipelineError, match="unknown pass 'qqqq'; `fxopt passes` lists them"):
        registry.get("qqqq")


class Entered(Pass):
    """Comes from another package."""

    def run(self, rewriter: Rewriter) -> None: ...


def entry(monkeypatch: pytest.MonkeyPatch, value: str, **attributes: object) -> PassRegistry:
    module = ModuleType("some_package")
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, "some_package", module)
    points = [EntryPoint(name="one", value=value, group="fxopt.passes")]
    monkeypatch.setattr(MODULE, "entry_points", lambda group: points if group == "fxopt.passes" else [])
    return PassRegistry()


def test_entry_points_are_loaded_when_a_name_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    own = entry(monkeypatch, "some_package:Entered", Entered=Entered)
    assert own.get("entered") is Entered
    assert "entered" in own.all()


def test_an_entry_point_may_be_a_module_that_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    own = entry(monkeypatch, "some_package")
    assert "entered" not in own


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "some_package:Missing",
            r"entry point 'one' \(some_package:Missing\) fails: AttributeError.*repair or",
        ),
        ("no_such_package_at_all", "entry point 'one' .* fails: ModuleNotFoundError"),
        ("some_package:number", r"is 3; expected a subclass of fxopt\.Pass or a module"),
    ],
)
def test_a_broken_entry_point_is_named(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    own = entry(monkeypatch, value, number=3)
    for _ in range(2):  # the second time it is no half-loaded registry
        with pytest.raises(PipelineError, match=message):
            own.get("entered")


def plugin(folder: Path, text: str, name: str = "plugin_of_user.py") -> str:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return str(file)


PASS = """
import fxopt

@fxopt.register_pass
class FromPlugin(fxopt.Pass):
    '''Mine.'''
    factor: float = 1.0
    def run(self, rewriter): pass
"""


def test_a_plugin_registers_its_passes(tmp_path: Path) -> None:
    module = load_plugin(plugin(tmp_path, PASS))
    assert registry.get("from-plugin") is module.FromPlugin
    assert str(PassManager.parse("from-plugin{factor=0.5}")) == "from-plugin{factor=0.5}"


def test_a_plugin_loaded_again_replaces_what_it_registered(tmp_path: Path) -> None:
    load_plugin(plugin(tmp_path, PASS))
    load_plugin(plugin(tmp_path, PASS.replace("Mine.", "Still mine.")))
    assert registry.get("from-plugin").summary() == "Still mine."


def test_two_plugins_with_one_name_for_a_pass(tmp_path: Path) -> None:
    load_plugin(plugin(tmp_path, PASS, "one.py"))
    with pytest.raises(PipelineError, match=r"'from-plugin' of .*two\.py: FromPlugin is taken by .*one\.py"):
        load_plugin(plugin(tmp_path, PASS, "two.py"))


def test_a_plugin_that_was_imported_as_a_module_is_the_same_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = plugin(tmp_path, PASS, "imported_plugin.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("imported_plugin")
    load_plugin(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n1 / 0\n", "fails at broken_plugin.py:2: ZeroDivisionError: division by zero"),
        ("x = 1\ny = (\n", "fails at broken_plugin.py:2: SyntaxError"),
        ("import no_such_module_here", "fails at broken_plugin.py:1: ModuleNotFoundError"),
        ("import sys\nsys.exit(3)", "fails at broken_plugin.py:2: SystemExit: 3"),
        ("import fxopt\n@fxopt.register_pass\nclass O(int): pass", "is not a subclass"),
    ],
)
def test_a_plugin_that_fails_names_the_error_and_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message) as error:
        load_plugin(plugin(tmp_path, text, "broken_plugin.py"))
    assert "broken_plugin.py" in str(error.value)
    assert "\n" not in str(error.value)
    assert "fxopt_plugin_broken_plugin" not in sys.modules


def test_a_plugin_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"none\.py' does not exist"):
        load_plugin(str(tmp_path / "none.py"))
    with pytest.raises(PipelineError, match="is no file"):
        load_plugin(str(tmp_path))
    with pytest.raises(PipelineError, match=r"is no Python file; expected a name that ends in \.py"):
        load_plugin(plugin(tmp_path, PASS, "plugin.txt"))


def test_a_plugins_pass_runs(tmp_path: Path) -> None:
    """The way of `--plugin FILE.py`."""
    text = Path(__file__).with_name("user_pass.py").read_text(encoding="utf-8")
    text = text.replace("JoinMatmulBias", "PluginMatmulBias").replace("MyPass", "PluginPass")
    load_plugin(plugin(tmp_path, text, "user_pass_plugin.py"))
    assert issubclass(registry.get("plugin-matmul-bias"), fxopt.RewritePass)
    written = "plugin-matmul-bias,plugin-pass{least=2}"
    assert str(PassManager.parse(written)) == written


def test_a_plugin_given_by_a_relative_path_names_the_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("relative_plugin.py").write_text("import torch\nx = 1 / 0\n")
    with pytest.raises(PipelineError, match=r"fails at relative_plugin\.py:2: ZeroDivisionError"):
        load_plugin("relative_plugin.py")
