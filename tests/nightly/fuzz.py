"""Random pipelines of O1's passes and `eliminate-dead-weights`, on all targets: `python -m tests.nightly.fuzz --seconds 600`.

Programs are random too, motifs of the passes planted in them. Each run is checked as `fxopt bisect` checks: it must not
crash, must keep effects and the function, must do the same twice; one in `--lower-every` is lowered to every target
too. A hit is bisected, reduced and stored in tests/regressions, where a test runs it ever after. Figures go to
build/fuzz.json, added to those of earlier runs of the same commit.
"""

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from fxopt.diagnosis import TargetCheck, Trial, TrialError, check_values, diagnose
from fxopt.errors import FxoptError
from fxopt.pipeline import Pass, PassManager
from fxopt.program import Program
from fxopt.testing import build_program
from fxopt.testing.check import REFUSALS
from fxopt.testing.choice import Choose
from fxopt.testing.motifs import Motif, focused

ROOT = Path(__file__).parents[2]
REGRESSIONS = ROOT / "tests" / "regressions"
RESULTS = ROOT / "build" / "fuzz.json"
TARGETS = ("eager", "torchscript", "onnx")


@dataclass
class Tally:
    """What one pass did in all programs."""

    checked: int = 0
    fired: int = 0
    rewrites: int = 0
    refused: int = 0
    seconds: float = 0.0


@dataclass
class Figures:
    """What a run of the fuzzer came to."""

    commit: str = ""
    seconds: float = 0.0
    programs: int = 0
    lowered: int = 0
    hits: list[str] = field(default_factory=list)
    passes: dict[str, Tally] = field(default_factory=dict)

    def count(self, program: Program, trial: Trial) -> None:
        """Adds what the passes of a trial did."""
        self.programs += 1
        try:
            reports = trial.run(program).passes
        except TrialError:
            return
        for report in reports:
            tally = self.passes.setdefault(report.name, Tally())
            tally.checked += 1
            tally.fired += report.changed
            tally.rewrites += report.rewrites
            tally.refused += len(report.refusals)
            tally.seconds += report.seconds


class Fuzzer:
    """Draws and checks.

    Args:
        lower_every: one in so many results is lowered to every target.
    """

    def __init__(self, lower_every: int, folder: Path = REGRESSIONS) -> None:
        self.figures = Figures()
        self.lower_every = lower_every
        self.folder = folder
        self.passes = PassManager.parse("O1,eliminate-dead-weights").passes()
        self._motifs: dict[str, list[Motif]] = {}
        self._known: set[tuple[str, str, str]] = set()

    def motifs(self, item: Pass) -> list[Motif]:
        """A pass's motifs, where it fires on them planted most."""

        def fires(program: Program) -> bool:
            try:
                return any(p.changed for p in PassManager.of([item]).run(program).passes)
            except FxoptError:
                return True

        name = item.pass_name()
        if name not in self._motifs:
            self._motifs[name] = [focused(m, fires) for m in item.all_motifs()]
        return self._motifs[name]

    def once(self, seed: int) -> None:
        """One program and pipeline, all from the seed."""
        source = random.Random(seed)
        chosen = source.sample(self.passes, k=source.randint(1, min(6, len(self.passes))))
        passes = [*chosen, *source.choices(chosen, k=source.randint(0, 2))]
        motifs = [m for item in set(chosen) for m in self.motifs(item)]
        draw = Choose(source.randrange)
        program, _ = build_program(
            draw,
            motifs=motifs if source.random() < 0.8 else (),
            max_ops=source.choice((4, 8, 16)),
            perturb=True,
        )
        trial = Trial(tuple(passes) if source.random() < 0.7 else tuple(self.passes))
        self.figures.count(program, trial)
        failure = check_values(program, trial)
        if failure is not None:
            self.keep(seed, program, trial.passes, None)
        elif seed % self.lower_every == 0:
            self.lower(seed, program, trial)

    def lower(self, seed: int, program: Program, trial: Trial) -> None:
        """The result on every target."""
        self.figures.lowered += 1
        for target in TARGETS:
            found = TargetCheck(target)(program, trial)
            if found is not None and not any(refusal in found.text for refusal in REFUSALS):
                self.keep(seed, program, trial.passes, target)

    def keep(self, seed: int, program: Program, passes: Sequence[Pass], target: str | None) -> None:
        """Reduces a hit and stores it; the same failure of the same rule once a run."""
        check = check_values if target is None else TargetCheck(target)
        found = diagnose(program, passes, check, seconds=60)
        if found is None or found.reduction is None:
            self.figures.hits.append(f"seed {seed}: it does not show when it is run again")
            return
        item = found.bisection.item
        name = item.pass_name() if item is not None else f"lowering-{target}"
        rule = found.bisection.rewrite.rule if found.bisection.rewrite is not None else ""
        if (name, rule, found.symptom.manner) in self._known:
            return
        self._known.add((name, rule, found.symptom.manner))
        self.figures.hits.append(f"seed {seed}: {found}")
        print(f"\nHIT {found}\n{found.reduction.program}", flush=True)
        stem = f"{name.replace('-', '_')}_{seed}"
        found.reduction.program.save(str(self.folder / f"{stem}.fxopt"))
        about = {
            "pipeline": PassManager.of(found.bisection.trial.passes).expand(),
            "target": target,
            "symptom": found.symptom.text,
        }
        (self.folder / f"{stem}.json").write_text(json.dumps(about, indent=2) + "\n")


def add_to(path: Path, figures: Figures) -> Figures:
    """Writes figures, with those that the file holds of the same commit."""
    if path.is_file():
        old = json.loads(path.read_text())
        if old["commit"] == figures.commit:
            figures.seconds += old["seconds"]
            figures.programs += old["programs"]
            figures.lowered += old["lowered"]
            figures.hits = [*old["hits"], *figures.hits]
            for name, counts in old["passes"].items():
                tally = figures.passes.setdefault(name, Tally())
                for key, value in counts.items():
                    setattr(tally, key, getattr(tally, key) + value)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(figures), indent=2) + "\n")
    return figures


def commit() -> str:
    """The commit that is checked out, or "unknown"."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description="Random pipelines over random programs.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None, help="the first; by default from the clock")
    parser.add_argument("--lower-every", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, fuzzer = time.monotonic(), Fuzzer(options.lower_every)
    fuzzer.figures.commit = commit()
    seed = options.seed if options.seed is not None else time.time_ns() % 2**31
    print(f"first seed {seed}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped, it still writes its figures
    with contextlib.suppress(KeyboardInterrupt):
        while time.monotonic() - start < options.seconds:
            fuzzer.once(seed)
            seed += 1
    fuzzer.figures.seconds = time.monotonic() - start
    new = Counter(programs=fuzzer.figures.programs, hits=len(fuzzer.figures.hits))
    add_to(RESULTS, fuzzer.figures)
    print(
        f"{new['programs']} programs, {fuzzer.figures.lowered} lowered, {new['hits']} hits; last seed {seed - 1}"
    )
    return 1 if new["hits"] else 0


if __name__ == "__main__":
    sys.exit(main())
