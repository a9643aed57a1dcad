"""No false alarms: the zoo on every target at many draws of inputs: `python -m tests.nightly.zoo --draws 200`.

Each model is optimized once a target and the artifact compared with the traced model at fresh seeds. All must be
equivalent; a few undecided draws are counted. Figures go to build/zoo.json.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

import torch

import fxopt
from fxopt.report import Verdict
from fxopt.verification import Subject, subject_of, verify_runs
from tests.zoo import dynamic_batch, model, names

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "zoo.json"
TARGETS = ("eager", "torchscript", "onnx")


def draws(name: str, target: str, seeds: range) -> tuple[Counter[str], str]:
    """Verdicts of one model on one target, and the first reason of a difference."""
    module, args = model(name)
    program = fxopt.trace(module, args, dynamic_shapes=dynamic_batch(args))
    artifact = fxopt.optimize(program, target=target).artifact
    reference, candidate = subject_of(program), Subject(artifact.signature, artifact.run_flat, name=target)
    verdicts: Counter[str] = Counter()
    for seed in seeds:
        report = verify_runs(reference, candidate, seed=1000 * seed)
        verdicts[report.verdict.value] += 1
        if report.verdict is Verdict.DIFFERENT:
            return verdicts, report.reason
    return verdicts, ""


def main() -> int:
    parser = argparse.ArgumentParser(description="No false alarms over the zoo.")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--models", nargs="*", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, total, alarms = time.monotonic(), Counter[str](), []
    chosen = options.models or names()
    for done, name in enumerate(chosen, 1):
        for target in TARGETS:
            verdicts, reason = draws(name, target, range(1, options.draws + 1))
            total += verdicts
            alarms += [f"{name} on {target}: {reason}"] if reason else []
            print(f"{name:14} {target:12} {dict(verdicts)} {reason}", flush=True)
        figures = {
            "models": done,
            "of": len(chosen),
            "draws": options.draws,
            "verdicts": dict(total),
            "alarms": alarms,
            "seconds": time.monotonic() - start,
        }
        RESULTS.parent.mkdir(exist_ok=True)  # a run that is stopped leaves what it has
        RESULTS.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
