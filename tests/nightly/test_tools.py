"""The nightly tools do what they say, on a small scale."""

import ast
import json
from pathlib import Path

import pytest

from fxopt.passes.eliminate.eliminate_dead_code import EliminateDeadCode
from tests.diagnosis.broken_passes import GeluByTanh
from tests.nightly import fuzz, mutants, reliability, zoo


def test_the_fuzzer_counts_what_it_checks(tmp_path: Path):
    fuzzer = fuzz.Fuzzer(lower_every=3, folder=tmp_path)
    for seed in range(4):
        fuzzer.once(seed)
    assert fuzzer.figures.programs == 4 and fuzzer.figures.lowered == 2 and not fuzzer.figures.hits
    assert sum(t.checked for t in fuzzer.figures.passes.values()) >= 4
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
    text = (mutants.ROOT / file).read_text()
    made = mutants.mutants_of(file)
    assert len(made) >= 3
    for mutant, source in made:
        assert ast.dump(ast.parse(source)) != ast.dump(ast.parse(text)), mutant
    assert mutants.tests_of(file)[0] == "tests/passes/fuse/test_fuse_linear_bn.py"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", {"a <= b"}),
        ("not a", {"a"}),
        ("a and b", {"a or b"}),
        ("a + 1", {"a - 1", "2"}),
        ("return a", {"return None"}),
        ("f(x)", {"pass"}),
        ("if a:\n    f(x)", {"not a", "pass"}),
    ],
)
def test_changes(source: str, expected: set[str]):
    found = {
        ast.unparse(new)
        for node in ast.walk(ast.parse(source))
        for _, new in mutants.changes(node)
        if new is not None
    }
    assert found == expected


def test_every_equivalent_mutant_has_its_reason_and_still_exists():
    known = json.loads(mutants.EQUIVALENT.read_text())
    assert all(isinstance(reason, str) and len(reason) > 10 for reason in known.values())
    files = {key.partition(":")[0] for key in known}
    keys = {m.key for file in files for m, _ in mutants.mutants_of(file)}
    assert set(known) <= keys


def test_the_page_says_what_was_run_and_what_was_not():
    assert reliability.page({}, {}, {}).count("Not run.") == 3
    figures = {
        "commit": "abc", "seconds": 120.0, "programs": 10, "lowered": 2, "hits": ["seed 3: x"],
        "passes": {"p": {"checked": 10, "fired": 4, "rewrites": 5, "refused": 1, "seconds": 0.02}},
    }  # fmt: skip
    survivor = {"file": "f.py", "line": 3, "function": "g", "before": "a", "after": "b", "end": "survived"}
    text = reliability.page(figures, {"mutants": 20, "tried": 2, "killed": 0.5, "results": [survivor]}, {})
    assert "10 programs in 2 minutes at commit abc" in text and "| `p` | 10 | 4 | 5 | 1 | 2.00 |" in text
    assert "2 of 20 mutants" in text and "50.0% were killed" in text and "`f.py:3`" in text


@pytest.mark.slow
def test_no_alarm_over_a_part_of_the_zoo():
    for name in ("mlp", "lstm", "unet"):
        for target in zoo.TARGETS:
            verdicts, reason = zoo.draws(name, target, range(1, 6))
            assert not reason and verdicts["equivalent"] == 5, (name, target, verdicts)
