"""The nightly tools do what they say, on a small scale."""

import argparse
import ast
import gc
import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.fx import Graph

from fxopt.passes._names import aten_name
from fxopt.passes.eliminate.eliminate_dead_code import EliminateDeadCode
from fxopt.testing import CheckFailure
from tests.diagnosis.broken_passes import GeluByTanh
from tests.nightly import coverage_map, forks, fuzz, mutants, mutations, passes, reliability, zoo
from tests.zoo import names


def test_the_fuzzer_counts_what_it_checks(tmp_path: Path):
    fuzzer = fuzz.Fuzzer(lower_every=3, folder=tmp_path)
    for seed in range(4):
        fuzzer.once(seed)
    assert fuzzer.figures.programs == 4 and fuzzer.figures.lowered == 2 and not fuzzer.figures.hits
    assert sum(t.checked for t in fuzzer.figures.passes.values()) >= 4
    assert "eliminate-dead-weights" in fuzzer.figures.passes
    path = tmp_path / "fuzz.json"
    fuzz.add_to(path, fuzz.Figures("abc", 1.0, 2, 1, ["one"], {"p": fuzz.Tally(2, 1, 1)}))
    added = fuzz.add_to(path, fuzz.Figures("abc", 1.0, 3, 0, [], {"p": fuzz.Tally(3, 1, 1)}))
    assert (added.programs, added.hits, added.passes["p"].checked) == (5, ["one"], 5)
    assert fuzz.add_to(path, fuzz.Figures("def", 1.0, 3)).programs == 3


def test_a_hit_is_reduced_and_stored(tmp_path: Path):
    fuzzer = fuzz.Fuzzer(lower_every=100, folder=tmp_path)
    fuzzer.passes = [GeluByTanh(), EliminateDeadCode()]
    seed = 0
    while not fuzzer.figures.hits and seed < 30:
        fuzzer.once(seed)
        seed += 1
    (about,) = tmp_path.glob("*.json")
    assert json.loads(about.read_text())["pipeline"] == "gelu-by-tanh"
    assert about.with_suffix(".fxopt").is_file() and "reduced from" in fuzzer.figures.hits[0]


def test_mutants_are_other_programs_that_compile():
    file = "fxopt/passes/fuse/fuse_linear_bn.py"
    text = (mutations.ROOT / file).read_text()
    made = mutations.mutants_of(file)
    assert len(made) >= 3 and len({m.key for m, _ in made}) == len(made)
    for mutant, source in made:
        assert ast.dump(ast.parse(source)) != ast.dump(ast.parse(text)), mutant


def test_what_an_error_says_and_what_a_type_is_are_no_mutants():
    for file in mutants.sources():
        lines = (mutations.ROOT / file).read_text().splitlines()
        for mutant, _ in mutations.mutants_of(file):
            assert not lines[mutant.line - 1].lstrip().startswith(("raise ", '"""', "__all__", "@")), mutant


def test_what_tests_draw_from_is_no_mutant():
    for name, motif in (("smooth_quant", "_block"), ("insert_fake_quant", "_layers")):
        functions = {m.function for m, _ in mutations.mutants_of(f"fxopt/passes/quantize/{name}.py")}
        assert functions and motif not in functions


def test_code_that_runs_at_load_is_told():
    at_load = {m.function for m, _ in mutations.mutants_of("fxopt/passes/fuse/fuse_conv_bn.py") if m.at_load}
    assert at_load == {"FuseConvBn"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", {"a <= b"}),
        ("not a", {"a"}),
        ("a and b", {"a or b"}),
        ("a + 1", {"a - 1", "2"}),
        ("'a' + b", set()),
        ("return a", {"return None"}),
        ("f(x)", {"pass"}),
        ("if a:\n    f(x)", {"not a", "pass"}),
        ("if a == b:\n    c", {"a != b"}),
        ("if a < b:\n    c", {"a <= b", "not a < b"}),
    ],
)
def test_changes(source: str, expected: set[str]):
    found = {ast.unparse(new) for node in ast.walk(ast.parse(source)) for _, new in mutations.changes(node)}
    assert found == expected


def _forever() -> str:
    while True:
        pass


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda: "", "survived"),
        (lambda: "test_x", "killed"),
        (lambda: str(1 // 0), "killed"),
        (lambda: os._exit(3), "killed"),
        (_forever, "timeout"),
    ],
    ids=["passes", "fails", "raises", "crashes", "hangs"],
)
def test_how_a_mutant_ends(work: Callable[[], str], expected: str):
    end, said, _ = forks.fork(work, cpu_seconds=0.5)
    assert end == expected and (said == "test_x") == (said != "")


def test_a_test_that_hangs_ends_its_mutant_early():
    def work() -> str:
        forks.allow(0.1)
        return _forever()

    assert forks.fork(work, cpu_seconds=500)[0] == "timeout"


def test_what_became_of_a_mutant_holds_while_its_function_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mutations, "ROOT", tmp_path)
    path = tmp_path / "m.py"

    def sources(text: str) -> dict[str, str]:
        path.write_text(text)
        return {m.function: m.source for m, _ in mutations.mutants_of("m.py")}

    text = "def f(a):\n    return a + 1\n\nclass C:\n    def g(self):\n        return 2\n"
    before = sources(text)
    assert set(before) == {"f", "C.g"}
    assert sources("import os\n" + text.replace("2", "  2")) == before
    after = sources(text.replace("2", "3"))
    assert after["f"] == before["f"] and after["C.g"] != before["C.g"]


def test_shares_are_parts_of_the_same_order(monkeypatch: pytest.MonkeyPatch):
    assert mutants.share("2/3") == (2, 3)
    for wrong in ("0/2", "3/2"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected K/N"):
            mutants.share(wrong)
    chosen = mutants.Mutants.chosen
    options = argparse.Namespace(file=["passes/_names"], again=False, seed=1, sample=None)
    parts = []
    for number in (1, 2):
        options.share = (number, 2)
        parts.append([m.key for m, _ in chosen(SimpleNamespace(options=options))])  # type: ignore[arg-type]
    made = {m.key for m, _ in mutations.mutants_of("fxopt/passes/_names.py")}
    assert set(parts[0]) | set(parts[1]) == made and len(parts[0]) + len(parts[1]) == len(made)


def test_a_fork_runs_the_changed_function():
    file = "fxopt/passes/_names.py"
    live = forks.Functions({str(mutations.ROOT / file): file})
    gc.unfreeze()
    made = mutations.mutants_of(file)
    (source,) = [s for m, s in made if m.function == "aten_name" and m.after == "return None"]
    codes = live.changed(file, source)
    assert codes is not None and [f.__name__ for f, _ in codes] == ["aten_name"]
    node = Graph().call_function(torch.ops.aten.relu.default)

    def work() -> str:
        for function, code in codes:
            function.__code__ = code
        return repr(aten_name(node))

    _, said, _ = forks.fork(work, cpu_seconds=5)
    assert (said, aten_name(node)) == ("None", "relu")


def test_functions_made_at_import_are_changed_too():
    file = "fxopt/passes/fuse/fuse_matmul_add.py"
    live = forks.Functions({str(mutations.ROOT / file): file})
    gc.unfreeze()
    (source,) = [s for m, s in mutations.mutants_of(file) if m.key.endswith("_biased.guard: 1 -> 2")]
    names = [f.__qualname__ for f, _ in live.changed(file, source) or ()]
    assert names.count("_biased") == 1 and names.count("_biased.<locals>.guard") > 1


@pytest.mark.slow
def test_a_mutant_is_imported_afresh():
    file = "fxopt/passes/_names.py"
    tests = ["tests/passes/eliminate/test_eliminate_dead_code.py"]
    assert forks.fresh(file, (mutations.ROOT / file).read_text(), tests, 60) == ("survived", "")
    end, _ = forks.fresh(file, "raise ImportError", tests, 60)
    assert end == "killed"
    file = "fxopt/rewriting/journal.py"  # whose doctest pytest would load from the file itself
    assert forks.fresh(file, "raise ImportError", [file], 60)[0] == "killed"


def test_lines_that_run(tmp_path: Path):
    lines: coverage_map.Lines = {}
    with coverage_map.traced({mutations.__file__: "m"}, lines):
        list(mutations.changes(ast.parse("a < b").body[0].value))
    kept = coverage_map.CoverageMap(tmp_path / "map.json", "abc")
    kept.measure(
        "t", "1", {mutations.__file__: "m"}, lambda: list(mutations.changes(ast.parse("a < b").body[0].value))
    )
    kept.measure(
        "t", "1", {mutations.__file__: "m"}, lambda: [importlib.import_module("this"), kept.tests["t"]]
    )
    kept.measure(
        "t", "1", {mutations.__file__: "m"}, lambda: list(mutations.changes(ast.parse("a < b").body[0].value))
    )
    kept.save()
    again = coverage_map.CoverageMap(tmp_path / "map.json", "abc")
    assert "this" in again.modules and "tests.nightly.mutations" not in again.modules
    assert again.knows("t", "1") and not again.knows("t", "2")
    assert set(again.tests["t"]["lines"]["m"]) == lines["m"]
    assert all(again.covering("m", n) == ["t"] for n in lines["m"]) and not again.covering("m", 1)
    assert not coverage_map.CoverageMap(tmp_path / "map.json", "other").tests


def test_results_go_on_where_they_were_and_survivors_meet_new_tests(tmp_path: Path):
    file = "fxopt/passes/_batch_norm.py"
    (one, _), (two, _), *_ = mutations.mutants_of(file)
    results = mutants.Results(tmp_path / "r.jsonl", "tests")
    results.add(one, "killed", "test_x", 0.1)
    results.add(two, "survived", "", 0.2)
    assert set(mutants.Results(tmp_path / "r.jsonl", "tests").ends) == {one.key, two.key}
    others = mutants.Results(tmp_path / "r.jsonl", "other tests")
    assert (set(others.ends), others.alive) == ({one.key}, {two.key})


def test_every_equivalent_mutant_has_its_reason_and_still_exists():
    known = json.loads(mutants.EQUIVALENT.read_text())
    assert all(isinstance(reason, str) and len(reason) > 10 for reason in known.values())
    files = {key.partition(":")[0] for key in known}
    keys = {m.key for file in files for m, _ in mutations.mutants_of(file)}
    assert set(known) <= keys


def test_the_page_says_what_was_run_and_what_was_not():
    assert reliability.page([], [], {}, {}, {}).count("Not run.") == 4
    figures = {
        "commit": "abc", "seconds": 120.0, "programs": 10, "lowered": 2, "hits": ["seed 3: x"],
        "passes": {"p": {"checked": 10, "fired": 4, "rewrites": 5, "refused": 1, "seconds": 0.02}},
    }  # fmt: skip
    survivor = {"file": "f.py", "line": 3, "function": "g", "before": "a", "after": "b", "end": "survived"}
    died = {**survivor, "end": "killed"}
    mutated = {"mutants": 20, "tried": 2, "killed": 0.5, "seconds": 4.0, "results": [survivor, died]}
    counts = {"programs": 50, "fired": 20, "rewrites": 30, "refused": 7}
    passes = [
        {"pass": "p", "counts": counts, "seconds": 9.2},
        {"pass": "o", "failed": "a\nb", "seconds": 1.0},
    ]
    alarms = {
        "models": 2,
        "of": 15,
        "draws": 20,
        "verdicts": {"equivalent": 118, "different": 2},
        "alarms": ["x"],
    }
    later = {**figures, "commit": "def", "hits": [], "programs": 5}
    remarks = {"fuzz": ["All of them are mended."]}
    text = reliability.page([figures, later], passes, mutated, alarms, remarks)
    assert "5 programs in 2 minutes at commit def" in text and "4 minutes in all" in text
    assert text.index("Random pipelines") < text.index("All of them are mended.") < text.index("## No false")
    assert "2 of 15 models" in text and "20 draws" in text and "2 different, 118 equivalent" in text
    assert "10 programs in 2 minutes at commit abc" in text and "| `p` | 20 | 8 | 10 | 2 | 2.00 |" in text
    assert "| `p` | 50 | 20 | 30 | 7 | 9 |  |" in text and "| `o` |  |  |  |  | 1 | a b |" in text
    assert "2 of 20 mutants" in text and "50.0% were killed" in text and "`f.py:3`" in text
    assert "| `f.py` | 2 | 1 | 1 | 0 | 0 |" in text and "2.0 s each" in text


def test_every_pass_leaves_its_counts_or_how_it_failed(monkeypatch: pytest.MonkeyPatch):
    def check(item: object, *, examples: int, min_fired: float, perturb: bool) -> dict[str, int]:
        assert perturb
        if isinstance(item, GeluByTanh):
            raise CheckFailure("gelu-by-tanh changes the function")
        return {"programs": examples}

    monkeypatch.setattr(passes, "check_pass", check)
    found = passes.checked(EliminateDeadCode(), 20)
    assert found["pass"] == "eliminate-dead-code" and found["counts"] == {"programs": 20}
    assert passes.checked(GeluByTanh(), 20)["failed"] == "gelu-by-tanh changes the function"


def test_that_zips_are_of_one_length_is_no_mutant():
    file = "fxopt/passes/prune/_sensitivity.py"
    text = (mutations.ROOT / file).read_text()
    assert "strict=True" in text
    assert not any("strict=False" in source for _, source in mutations.mutants_of(file))
    assert not any("strict=(False)" in source for _, source in mutations.mutants_of(file))


LARGE = {"squeezenet", "resnet10", "shufflenetv2", "mobilenetv2", "minilm"}
"""Of the zoo; these are for the nights."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(names()) - LARGE))
@pytest.mark.parametrize("target", zoo.TARGETS)
def test_no_alarm_over_the_zoo(name: str, target: str):
    verdicts, reason = zoo.draws(name, target, range(1, 6))
    assert not reason and verdicts["equivalent"] == 5, verdicts
