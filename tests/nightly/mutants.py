"""Mutants of the passes and of the rewriting: `python -m tests.nightly.mutants --seconds 3600`.

Each mutant is one small change of one source file (`tests.nightly.mutations`). One process imports everything and
collects the tests; for each mutant it forks, the child puts the changed function's code in the place of the old one and
runs the tests that cover the changed line, quick and successful killers first, until one fails. What runs while modules
are loaded is tried in a process of its own. A mutant that no test notices survives. Those that can't be noticed stand in
equivalent_mutants.json with the reason; any other survivor is a hole in the tests.

Mutants are tried in random order, so that a run that stops early is a fair sample; results are kept in
build/mutants.jsonl and a later run goes on from there: what was killed stays so while the function is the same, what
survived is tried again when tests have changed. Figures go to build/mutants.json.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.nightly.coverage_map import CoverageMap, Lines, digest, traced
from tests.nightly.forks import Functions, allow, fork, fresh
from tests.nightly.mutations import ROOT, Mutant, mutants_of

ROOMS = ("fxopt/passes", "fxopt/rewriting")
TESTS = ("tests/passes", "tests/rewriting", "tests/pipeline", "tests/testing/test_check.py", *ROOMS)
# Too long to be run for each mutant; all marked slow are left out too.
LONG = "not (random_masks or half_of_the_rows or files_are_smaller or o1_keeps_the_function or raises_no_alarm or attempts_grow)"
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.json")
BUILD = ROOT / "build"
RESULTS = BUILD / "mutants.jsonl"
KILLED = ("killed", "timeout")


def sources(part: str = "") -> list[str]:
    """The files whose mutants are tried: those whose path holds `part`."""
    found = [str(p.relative_to(ROOT)) for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]
    return [f for f in found if part in f and not f.endswith("__init__.py")]


class Results:
    """What became of each mutant, one JSON line each.

    Args:
        path: the file.
        tests: hash of the tests; what survived others is tried again.
    """

    def __init__(self, path: Path, tests: str) -> None:
        self.path, self.tests = path, tests
        now = {m.key: m.source for f in sources() for m, _ in mutants_of(f)}
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        known = {r["key"]: r for r in map(json.loads, lines)}
        self.last: dict[str, dict[str, Any]] = {k: r for k, r in known.items() if r["source"] == now.get(k)}
        """How each mutant of the functions as they are ended, with whatever tests."""
        self.ends = {k: r for k, r in self.last.items() if self._holds(r)}
        self.alive = {k for k, r in self.last.items() if r["end"] not in KILLED}
        """What survived when it was last tried."""

    def _holds(self, result: dict[str, Any]) -> bool:
        return result["end"] in KILLED or result["tests"] == self.tests

    def add(self, mutant: Mutant, end: str, killer: str, seconds: float) -> None:
        """Keeps an end."""
        result = {**asdict(mutant), "end": end, "killer": killer, "seconds": round(seconds, 2)}
        result["tests"] = self.tests
        self.ends[mutant.key] = self.last[mutant.key] = result
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


class Mutants:
    """The pytest plugin that runs mutants instead of tests.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.files = {str(ROOT / f): f for f in sources()}
        self.at_import: Lines = {}
        self.failed = ""
        self.kills: Counter[tuple[str, str]] = Counter()
        """How many mutants a test has ended, by file and test and by function and test."""
        self.map = CoverageMap(BUILD / "mutants-coverage.json", digest([ROOT / f for f in sources()]))
        tests = [p for t in TESTS if t.startswith("tests") for p in sorted((ROOT / t).rglob("*.py"))]
        self.results = Results(RESULTS, digest(tests))
        self.items: dict[str, pytest.Item] = {}
        for result in self.results.ends.values():
            self.count(result["file"], result["function"], result["killer"])

    def count(self, file: str, function: str, killer: str) -> None:
        """Notes what ended a mutant."""
        if killer:
            self.kills[file, killer] += 1
            self.kills[f"{file}:{function}", killer] += 1

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self, session: pytest.Session) -> Any:
        """Notes what runs while modules are loaded."""
        with traced(self.files, self.at_import):
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes a failure."""
        if report.failed:
            self.failed = report.nodeid

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """All mutants."""
        if session.testsfailed:
            raise pytest.UsageError("the tests can't be collected")
        self.items = {item.nodeid: item for item in session.items}
        if not self.options.tests:
            self.measure()
        for name in self.map.modules:  # once here rather than in each child
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        self.functions = Functions(self.files)
        start = time.monotonic()
        equivalent = json.loads(EQUIVALENT.read_text(encoding="utf-8"))
        for mutant, source in self.chosen():
            if time.monotonic() - start > self.options.seconds:
                break
            if mutant.key not in equivalent and mutant.key not in self.results.ends:
                self.try_one(mutant, source)
        return True

    def chosen(self) -> list[tuple[Mutant, str]]:
        """The mutants to try, in order."""
        every = [m for part in self.options.file for f in sources(part) for m in mutants_of(f)]
        if self.options.again:
            every = [m for m in every if m[0].key in self.results.alive]
        random.Random(self.options.seed).shuffle(every)
        number, count = self.options.share
        return every[number - 1 :: count][: self.options.sample]

    def measure(self) -> None:
        """Brings the coverage map up to date, in a child: what tests leave in caches must not hide a mutant."""
        files = {name.partition("::")[0] for name in self.items}
        digests = {f: digest([ROOT / f]) for f in files}
        new = [n for n in self.items if not self.map.knows(n, digests[n.partition("::")[0]])]
        if not new:
            return
        print(f"measuring {len(new)} tests", flush=True)

        def work() -> str:
            for number, name in enumerate(new):
                self.map.measure(
                    name, digests[name.partition("::")[0]], self.files, lambda n=name: self.run(n)
                )
                if self.failed:
                    return self.failed
                if number % 50 == 0:
                    self.map.save()
            self.map.save()
            return ""

        end, failed, _ = fork(work, cpu_seconds=7200)
        if end != "survived":
            raise pytest.UsageError(f"without any mutant a test fails: {failed or end}")
        self.map.load()

    def seconds(self, name: str) -> float:
        """What a test is known to take, a second if it was not measured."""
        return self.map.seconds(name) if name in self.map.tests else 1.0

    def run(self, name: str) -> None:
        """One test, in this process."""
        item = self.items[name]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)

    def order(self, mutant: Mutant) -> list[str]:
        """The tests for a mutant: quick ones and those that killed others of this file first, as many as time allows."""
        if self.options.tests:
            own = f"test_{Path(mutant.file).stem.lstrip('_')}.py"
            place = f"{mutant.file}:{mutant.function}"
            return sorted(
                self.items, key=lambda n: (-self.kills[place, n], own not in n, -self.kills[mutant.file, n])
            )
        found = [n for n in self.map.covering(mutant.file, mutant.line) if n in self.items]
        if mutant.at_load or mutant.line in self.at_import.get(mutant.file, ()):
            found = [n for n in self.items if any(self.map.tests[n]["lines"].get(mutant.file, ()))]
        stem = Path(mutant.file).stem.lstrip("_")
        room = mutant.file.replace("fxopt", "tests", 1).rpartition("/")[0]

        def cost(name: str) -> float:
            own = 0.2 if f"test_{stem}.py" in name else 0.5 if name.startswith(room) else 1.0
            kills = self.kills[mutant.file, name] + 10 * self.kills[f"{mutant.file}:{mutant.function}", name]
            return own * (self.map.seconds(name) + 0.02) / (1 + kills)

        chosen, total = [], 0.0
        for name in sorted(found, key=cost):
            if total + self.map.seconds(name) <= self.options.effort or not chosen:
                chosen.append(name)
                total += self.map.seconds(name)
        return chosen

    def try_one(self, mutant: Mutant, source: str) -> None:
        """Runs a mutant and keeps how it ended."""
        tests = self.order(mutant)
        start = time.monotonic()
        end, killer = self.end(mutant, source, tests)
        self.count(mutant.file, mutant.function, killer)
        seconds = time.monotonic() - start
        if end in KILLED or not self.options.tests or mutant.key not in self.results.last:
            self.results.add(mutant, end, killer, seconds)
        print(
            f"{end:9} {seconds:5.1f} s {mutant.file}:{mutant.line} {mutant.before} -> {mutant.after}",
            flush=True,
        )

    def end(self, mutant: Mutant, source: str, tests: list[str]) -> tuple[str, str]:
        """How it ends, and the test that ends it."""
        if not tests:
            return "untested", ""
        limit = 10 + 5 * sum(map(self.seconds, tests))
        codes = None if mutant.at_load else self.functions.changed(mutant.file, source)
        end, killer = "survived", ""
        if codes is not None:

            def work() -> str:
                for function, code in codes:
                    function.__code__ = code
                for name in tests:
                    allow(4 + 5 * self.seconds(name))
                    self.run(name)
                    if self.failed:
                        return self.failed
                return ""

            end, killer, _ = fork(work, cpu_seconds=limit)
        loaded = codes is None or mutant.line in self.at_import.get(mutant.file, ())
        if end == "survived" and loaded:
            end, killer = fresh(mutant.file, source, tests, limit + 60)
        return end, killer


def report(results: Results) -> int:
    """Prints and writes the figures; 1 if too few are killed. What survived and was not tried again counts as alive."""
    equivalent = json.loads(EQUIVALENT.read_text(encoding="utf-8"))
    every = {m.key: m for f in sources() for m, _ in mutants_of(f)}
    ended = {k: r for k, r in results.last.items() if k in every and k not in equivalent}
    alike = [{**asdict(every[k]), "end": "equivalent"} for k in equivalent if k in every]
    print(
        f"{'file':58} {'mutants':>8} {'killed':>7} {'timeout':>8} {'survived':>9} {'untested':>9} {'equivalent':>11}"
    )
    for file in sources():
        total = sum(m.file == file for m in every.values())
        counts = Counter(r["end"] for r in [*ended.values(), *alike] if r["file"] == file)
        print(
            f"{file:58} {total:8} {counts['killed']:7} {counts['timeout']:8} {counts['survived']:9} "
            f"{counts['untested']:9} {counts['equivalent']:11}"
        )
    dead = sum(r["end"] in KILLED for r in ended.values())
    share = dead / len(ended) if ended else 1.0
    seconds = sum(r["seconds"] for r in ended.values())
    figures = {"mutants": len(every), "tried": len(ended) + len(alike), "killed": share, "seconds": seconds}
    BUILD.mkdir(exist_ok=True)
    text = json.dumps({**figures, "results": [*ended.values(), *alike]}, indent=2)
    (BUILD / "mutants.json").write_text(text + "\n", encoding="utf-8")
    print(
        f"{len(ended) + len(alike)} of {len(every)} mutants tried, {len(alike)} equivalent; {share:.1%} of the others killed, "
        f"{seconds / max(len(ended), 1):.1f} s each"
    )
    return 1 if share < 0.95 else 0


def share(text: str) -> tuple[int, int]:
    """`2/3` as (2, 3)."""
    number, count = map(int, text.split("/"))
    if not 1 <= number <= count:
        raise argparse.ArgumentTypeError(f"{text}: expected K/N, K from 1 to N")
    return number, count


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutants of passes and rewriting.")
    parser.add_argument("--seconds", type=float, default=3600.0, help="when to stop; a fair sample is left")
    parser.add_argument("--sample", type=int, default=None, help="how many to try at most")
    parser.add_argument("--effort", type=float, default=10.0, help="seconds of tests for one mutant at most")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--file", default=[""], nargs="+", help="only files whose path holds one of these")
    parser.add_argument("--again", action="store_true", help="only what survived when it was last tried")
    parser.add_argument(
        "--tests",
        nargs="+",
        help="by these alone, as after they were written; what was tried before and survives them stays as it was",
    )
    parser.add_argument(
        "--share",
        type=share,
        default=(1, 1),
        metavar="K/N",
        help="the k-th of n equal parts, one for each of n processes; results go to the same file",
    )
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    options = parser.parse_args()
    if options.list:
        for key in (m.key for part in options.file for f in sources(part) for m, _ in mutants_of(f)):
            print(key)
        return 0
    os.environ |= {"HYPOTHESIS_PROFILE": "mutants", "OMP_NUM_THREADS": "1"}
    os.chdir(ROOT)
    plugin = Mutants(options)
    flags = [
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow",
        "-k",
        LONG,
        "--basetemp",
        str(BUILD / f"mutants-tmp-{os.getpid()}"),
    ]
    code = pytest.main([*flags, *(options.tests or TESTS)], plugins=[plugin])
    return report(plugin.results) if code == pytest.ExitCode.OK else int(code)


if __name__ == "__main__":
    sys.exit(main())
